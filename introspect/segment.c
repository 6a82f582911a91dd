// SPDX-License-Identifier: GPL-2.0-or-later
// Segments of a program's own (modify_ldt, set_thread_area), and 32-bit address spaces.
#include "introspect/segment.h"

#include <string.h>

#include "introspect/reader.h"

#define LDT_ENTRIES_MAX 8192
#define LDT_ENTRY_BYTES 8
#define TLS_FIRST_ENTRY 12 // GDT_ENTRY_TLS_MIN, arch/x86/include/asm/segment.h
#define FSGSBASE_WORD   9  // X86_FEATURE_FSGSBASE

static bool read_ldt(struct intro_ctx *c, struct gva ldt, struct fmt_mm *rec, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva entries = rd_ptr(&r, ldt, M_ldt_entries);
    uint64_t n = rd(&r, ldt, M_ldt_nr_entries);

    if (!rd_done(&r, error))
        return false;
    if (n == 0 || n > LDT_ENTRIES_MAX) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "ldt_struct at %" G_GINT64_MODIFIER "x has %" G_GUINT64_FORMAT " entries",
                    ldt.addr, n);
        return false;
    }
    g_autofree uint8_t *bytes = g_malloc(n * LDT_ENTRY_BYTES);
    if (!intro_read(c->k, entries, bytes, n * LDT_ENTRY_BYTES, error))
        return false;
    rec->ldt = g_bytes_new_take(g_steal_pointer(&bytes), n * LDT_ENTRY_BYTES);
    return true;
}

// Programs of both kinds with 32-bit pointers are loaded by the same part of the kernel; only those
// of i386 are marked for uprobes, which have to know the length of instructions.
static void read_bits(IntroReader *r, struct intro_ctx *c, struct gva mm, struct fmt_mm *rec)
{
    struct gva compat;
    bool narrow = intro_symbol(c->k, "compat_elf_format", &compat, NULL) &&
                  rd(r, mm, M_mm_binfmt) == compat.addr;

    rec->ia32 = rd(r, mm, M_mm_context_flags) & 1;
    if (narrow && !rec->ia32)
        intro_refuse(c, "x32", "is a program of x86-64 with 32-bit pointers (x32)");
}

bool intro_segments_mm(struct intro_ctx *c, struct gva mm, struct fmt_mm *rec, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva ldt = rd_ptr(&r, mm, M_mm_context_ldt);

    read_bits(&r, c, mm, rec);
    return rd_done(&r, error) && (!ldt.addr || read_ldt(c, ldt, rec, error));
}

static bool keeps_bases(IntroReader *r)
{
    struct gva boot;

    if (!intro_symbol(r->k, "boot_cpu_data", &boot, NULL))
        return true;
    struct gva words = intro_member_addr(r->k, boot, M_cpuinfo_capability);
    return rd_u32_at(r, GVA(words.addr + 4 * FSGSBASE_WORD)) & 1;
}

// The base of a segment, from its descriptor: three pieces of it.
static uint64_t base_of(const struct fmt_mm *mm, const struct fmt_task *rec, uint64_t selector)
{
    const uint64_t tls[] = {rec->tls0, rec->tls1, rec->tls2};
    uint64_t index = selector >> 3, descriptor = 0;
    size_t size = 0;

    if (selector & 4) {
        const uint8_t *ldt = mm && mm->ldt ? g_bytes_get_data(mm->ldt, &size) : NULL;
        if (index < size / LDT_ENTRY_BYTES)
            memcpy(&descriptor, ldt + index * LDT_ENTRY_BYTES, sizeof(descriptor));
        descriptor = GUINT64_FROM_LE(descriptor);
    } else if (index - TLS_FIRST_ENTRY < G_N_ELEMENTS(tls)) {
        descriptor = tls[index - TLS_FIRST_ENTRY];
    }
    return (descriptor >> 16 & 0xffffff) | (descriptor >> 56) << 24;
}

bool intro_segments_task(struct intro_ctx *c, struct gva task, struct fmt_task *rec, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva tls = intro_member_addr(c->k, task, M_thread_tls_array);
    struct gva mm = rd_ptr(&r, task, M_task_mm);
    const struct fmt_mm *space = fmt_image_by_ref(c->img, intro_object_ref(c, mm), FMT_MM);

    rec->tls0 = rd_u64_at(&r, tls);
    rec->tls1 = rd_u64_at(&r, GVA(tls.addr + 8));
    rec->tls2 = rd_u64_at(&r, GVA(tls.addr + 16));
    // A kernel that does not use FSGSBASE has 0 for the base of a segment that a descriptor says.
    if (!keeps_bases(&r)) {
        if (rec->fs_sel > 3 && !rec->fs_base)
            rec->fs_base = base_of(space, rec, rec->fs_sel);
        if (rec->gs_sel > 3 && !rec->gs_base)
            rec->gs_base = base_of(space, rec, rec->gs_sel);
    }
    return rd_done(&r, error);
}
