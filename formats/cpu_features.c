// SPDX-License-Identifier: GPL-2.0-or-later
// What a CPU offers to programs, as names: CPU.features of an image.
#include "formats/cpu_features.h"

#include <cpuid.h>
#include <stdbool.h>
#include <string.h>
#include <sys/auxv.h>

#define HWCAP2_FSGSBASE_BIT (1u << 1) // arch/x86/include/uapi/asm/hwcap2.h

// XSAVE components that the kernel must have enabled; FSGSBASE is a matter of CR4 instead.
enum cpu_os {
    OS_NONE = 0,
    OS_XSAVE = 1 << 0,
    OS_AVX = 3 << 1,
    OS_AVX512 = 7 << 5 | OS_AVX,
    OS_AMX = 3 << 17,
    OS_FSGSBASE = 1 << 30,
};

enum cpu_use { USE_ISA, USE_HINT };
enum cpu_register { EAX, EBX, ECX, EDX };

struct cpu_leaf {
    uint32_t word;
    uint32_t leaf;
    uint32_t subleaf;
    enum cpu_register reg;
};

struct cpu_feature {
    uint32_t word;
    uint32_t bit;
    const char *name;
    enum cpu_os os;
    enum cpu_use use;
};

static const struct cpu_leaf cpu_leaves[] = {
#define LEAF(word, leaf, subleaf, reg) {word, leaf, subleaf, reg},
#define FEATURE(word, bit, name, os, use)
#include "formats/cpu_features.def"
};

static const struct cpu_feature cpu_features[] = {
#define LEAF(word, leaf, subleaf, reg)
#define FEATURE(word, bit, name, os, use) {word, bit, #name, OS_##os, USE_##use},
#include "formats/cpu_features.def"
};

// enabled: the components and bits of enum cpu_os that the kernel has enabled.
static char *names(const uint32_t *words, size_t n_words, uint64_t enabled)
{
    g_autoptr(GString) list = g_string_new(NULL);

    for (size_t i = 0; i < G_N_ELEMENTS(cpu_features); i++) {
        const struct cpu_feature *f = &cpu_features[i];

        if (f->word < n_words && (words[f->word] >> f->bit & 1) && (f->os & ~enabled) == 0)
            g_string_append_printf(list, "%s%s", list->len ? " " : "", f->name);
    }
    return g_string_free(g_steal_pointer(&list), false);
}

char *fmt_cpu_features_from_kernel(const uint32_t *words, size_t n_words)
{
    // The kernel clears the bits of what it has not enabled.
    return names(words, n_words, UINT64_MAX);
}

static uint32_t cpuid_word(const struct cpu_leaf *l)
{
    uint32_t regs[4] = {0};

    // Returns 0 for a leaf beyond the highest of its range.
    if (!__get_cpuid_count(l->leaf, l->subleaf, &regs[EAX], &regs[EBX], &regs[ECX], &regs[EDX]))
        return 0;
    return regs[l->reg];
}

uint64_t fmt_cpu_xcr0_here(void)
{
    uint32_t eax, ebx, ecx = 0, edx;

    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE))
        return 0;
    __asm__("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    return eax | (uint64_t)edx << 32;
}

static uint64_t enabled_here(void)
{
    uint64_t fsgsbase = getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE_BIT ? OS_FSGSBASE : 0;

    return fsgsbase | (fmt_cpu_xcr0_here() & (OS_FSGSBASE - 1));
}

char *fmt_cpu_features_here(void)
{
    uint32_t words[32] = {0};

    for (size_t i = 0; i < G_N_ELEMENTS(cpu_leaves); i++)
        words[cpu_leaves[i].word] = cpuid_word(&cpu_leaves[i]);
    return names(words, G_N_ELEMENTS(words), enabled_here());
}

static bool is_hint(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(cpu_features); i++) {
        if (strcmp(cpu_features[i].name, name) == 0)
            return cpu_features[i].use == USE_HINT;
    }
    return false;
}

char *fmt_cpu_features_missing(const char *needed, const char *have)
{
    g_auto(GStrv) needs = g_strsplit(needed ? needed : "", " ", -1);
    g_auto(GStrv) has = g_strsplit(have ? have : "", " ", -1);
    g_autoptr(GString) list = g_string_new(NULL);

    for (char **name = needs; *name; name++) {
        if (**name && !is_hint(*name) && !g_strv_contains((const char *const *)has, *name))
            g_string_append_printf(list, "%s%s", list->len ? " " : "", *name);
    }
    return list->len ? g_string_free(g_steal_pointer(&list), false) : NULL;
}
