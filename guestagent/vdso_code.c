// SPDX-License-Identifier: GPL-2.0-or-later
// The code of a vdso: what it exports, and how to lead it to another one.
#include "guestagent/vdso_code.h"

#include <elf.h>
#include <string.h>
#include <sys/syscall.h>

#define LONG_JUMP_BYTES  14 // jmp *0(%rip); .quad target
#define SHORT_JUMP_BYTES 5  // jmp target
#define IA32_CALL_BYTES  22

// One symbol table of a class of ELF file.
#define FUNCTIONS(bits)                                                                            \
    static void functions##bits(const uint8_t *image, size_t len, GArray *ret)                     \
    {                                                                                              \
        const Elf##bits##_Ehdr *eh = (const Elf##bits##_Ehdr *)image;                              \
                                                                                                   \
        if (len < sizeof *eh || eh->e_shoff > len || eh->e_shoff % 4 ||                            \
            (uint64_t)eh->e_shnum * sizeof(Elf##bits##_Shdr) > len - eh->e_shoff)                  \
            return;                                                                                \
        const Elf##bits##_Shdr *sh = (const Elf##bits##_Shdr *)(image + eh->e_shoff);              \
                                                                                                   \
        for (unsigned i = 0; i < eh->e_shnum; i++) {                                               \
            if (sh[i].sh_type != SHT_DYNSYM || sh[i].sh_link >= eh->e_shnum)                       \
                continue;                                                                          \
            const Elf##bits##_Shdr *str = &sh[sh[i].sh_link];                                      \
                                                                                                   \
            if (sh[i].sh_offset > len || sh[i].sh_size > len - sh[i].sh_offset ||                  \
                str->sh_offset > len || str->sh_size > len - str->sh_offset ||                     \
                str->sh_size == 0 || image[str->sh_offset + str->sh_size - 1] != 0)                \
                continue;                                                                          \
            const Elf##bits##_Sym *sym = (const Elf##bits##_Sym *)(image + sh[i].sh_offset);       \
                                                                                                   \
            for (size_t j = 0; j < sh[i].sh_size / sizeof *sym; j++) {                             \
                struct agent_vdso_function f = {.offset = sym[j].st_value,                         \
                                                .bytes = sym[j].st_size};                          \
                                                                                                   \
                if (ELF64_ST_TYPE(sym[j].st_info) != STT_FUNC || sym[j].st_name >= str->sh_size || \
                    f.offset > len || f.bytes > len - f.offset)                                    \
                    continue;                                                                      \
                f.name = (const char *)image + str->sh_offset + sym[j].st_name;                    \
                g_array_append_val(ret, f);                                                        \
            }                                                                                      \
        }                                                                                          \
    }

FUNCTIONS(64)
FUNCTIONS(32)

GArray *agent_vdso_functions(const uint8_t *image, size_t len)
{
    GArray *ret = g_array_new(false, true, sizeof(struct agent_vdso_function));

    if (len < EI_NIDENT || memcmp(image, ELFMAG, SELFMAG) != 0)
        return ret;
    if (image[EI_CLASS] == ELFCLASS32)
        functions32(image, len, ret);
    else
        functions64(image, len, ret);
    return ret;
}

size_t agent_vdso_used(const uint8_t *image, size_t len)
{
    while (len > 0 && image[len - 1] == 0)
        len--;
    return len;
}

bool agent_vdso_is_detour(const uint8_t *code, size_t n)
{
    size_t wide = 0, narrow = 0;

    while (wide + 10 < n && (code[wide] & 0xfe) == 0x48 && (code[wide + 1] & 0xf8) == 0xb8)
        wide += 10;
    while (narrow + 5 < n && (code[narrow] & 0xf8) == 0xb8)
        narrow += 5;
    return (wide && wide + 6 <= n && memcmp(code + wide, "\xff\x25\0\0\0\0", 6) == 0) ||
           (narrow && narrow < n && code[narrow] == 0xe9);
}

const char *agent_vdso_base_name(const char *name)
{
    return g_str_has_prefix(name, "__vdso_") ? name + strlen("__vdso_") : name;
}

// An enclave is a device's; a return from a signal is a system call and nothing more; the unlocking
// of a robust mutex (7.2) uses nothing but its arguments.
static const char *const staying[] = {"__vdso_sgx_enter_enclave",
                                      "vdso_sgx_enter_enclave",
                                      "__kernel_sigreturn",
                                      "__kernel_rt_sigreturn",
                                      "__vdso_futex_robust_list64_try_unlock",
                                      "__vdso_futex_robust_list32_try_unlock"};

bool agent_vdso_stays(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(staying); i++)
        if (strcmp(name, staying[i]) == 0)
            return true;
    return false;
}

// What a function of the old vdso does where the running kernel has no counterpart.
static const struct {
    const char *name;
    uint32_t nr, ia32_nr; // 0: none
} plain_calls[] = {
    {"clock_gettime", SYS_clock_gettime, 265},
    {"gettimeofday", SYS_gettimeofday, 78},
    {"time", SYS_time, 13},
    {"getcpu", SYS_getcpu, 318},
    {"clock_getres", SYS_clock_getres, 266},
    {"getrandom", SYS_getrandom, 0},
    {"clock_gettime64", 0, 403},
    {"clock_getres_time64", 0, 406},
};

size_t agent_vdso_put_jump(uint8_t *code, uint64_t at, uint64_t target, bool ia32)
{
    const uint32_t distance = (uint32_t)(target - (at + SHORT_JUMP_BYTES));

    if (ia32) {
        code[0] = 0xe9;
        memcpy(code + 1, &distance, sizeof distance);
        return SHORT_JUMP_BYTES;
    }
    memcpy(code, "\xff\x25\0\0\0\0", 6);
    memcpy(code + 6, &target, sizeof target);
    return LONG_JUMP_BYTES;
}

static size_t put_call(uint8_t *code, uint32_t nr, bool ia32)
{
    // push %ebx; mov 8(%esp),%ebx; mov 12(%esp),%ecx; mov 16(%esp),%edx; mov $nr,%eax; int $0x80;
    // pop %ebx; ret
    static const uint8_t ia32_code[IA32_CALL_BYTES] = {
        0x53, 0x8b, 0x5c, 0x24, 0x08, 0x8b, 0x4c, 0x24, 0x0c, 0x8b, 0x54,
        0x24, 0x10, 0xb8, 0,    0,    0,    0,    0xcd, 0x80, 0x5b, 0xc3};

    if (nr == 0)
        return 0;
    if (ia32) {
        memcpy(code, ia32_code, sizeof ia32_code);
        memcpy(code + 14, &nr, sizeof nr);
        return sizeof ia32_code;
    }
    code[0] = 0xb8; // mov $nr, %eax; syscall; ret
    memcpy(code + 1, &nr, sizeof nr);
    memcpy(code + 5, "\x0f\x05\xc3", 3);
    return 8;
}

size_t agent_vdso_redirect(uint8_t *image, const struct agent_vdso_function *f, uint64_t base,
                           const GArray *new, uint64_t new_base, bool ia32)
{
    for (guint i = 0; i < new->len; i++) {
        const struct agent_vdso_function *to = &g_array_index(new, struct agent_vdso_function, i);

        if (strcmp(to->name, f->name) == 0)
            return f->bytes < (ia32 ? SHORT_JUMP_BYTES : LONG_JUMP_BYTES)
                       ? 0
                       : agent_vdso_put_jump(image + f->offset, base + f->offset,
                                             new_base + to->offset, ia32);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(plain_calls); i++) {
        if (strcmp(plain_calls[i].name, agent_vdso_base_name(f->name)) == 0)
            return f->bytes < IA32_CALL_BYTES
                       ? 0
                       : put_call(image + f->offset,
                                  ia32 ? plain_calls[i].ia32_nr : plain_calls[i].nr, ia32);
    }
    return 0;
}
