// SPDX-License-Identifier: GPL-2.0-or-later
// A kernel made by hand: found, read, and refused for each thing that may be wrong with it.
#include "introspect/kernel.h"

#include <glib/gstdio.h>
#include <inttypes.h>
#include <string.h>

#include "intro_fixture.h"

/*
 * Its image lies from physical address 0 on (phys_base 0). Members are where a layout profile says:
 * 8 bytes at offset 0, except for those that a proof reads.
 */
#define IMAGE   0xffffffff80000000ull
#define N_PAGES 64
#define RELEASE "6.1.0-toy"

enum { // physical addresses
    NOTE = 0x2000,
    UTS = 0x3000,
    INIT_TASK = 0x4000,
    NR_CPU_IDS = 0x5000,
    ONLINE_MASK = 0x5008,
    PER_CPU_OFFSET = 0x5010,
    PAGE_OFFSET_BASE = 0x5020,
    VMEMMAP_BASE = 0x5028,
    SYSTEM_STATE = 0x5030,
    TEXT = 0x5040,
    TABLES = 0x6000, // top, 3, 2, 1
    BTF = 0xa000,
    BTF_END = 0xa040,
    PER_CPU_0 = 0xc000,
    PER_CPU_1 = 0xd000,
    USER_TABLES = 0xe000, // top, 3, 2, 1
    KALLSYMS = 0x20000,
    END = 0x30000,
};

#define DIRECT_MAP 0xffff890000000000ull
#define VMEMMAP    0xffffea0000000000ull
#define VMALLOC    0xffffc90000000000ull

static const struct fixture_symbol symbols[] = {
    {0x100, "Acurrent_task"},
    {IMAGE, "T_text"},
    {IMAGE + 0x1000, "T_stext"},
    {IMAGE + UTS, "Dinit_uts_ns"},
    {IMAGE + INIT_TASK, "Dinit_task"},
    {IMAGE + NR_CPU_IDS, "Dnr_cpu_ids"},
    {IMAGE + ONLINE_MASK, "D__cpu_online_mask"},
    {IMAGE + PER_CPU_OFFSET, "D__per_cpu_offset"},
    {IMAGE + PAGE_OFFSET_BASE, "Dpage_offset_base"},
    {IMAGE + VMEMMAP_BASE, "Dvmemmap_base"},
    {IMAGE + SYSTEM_STATE, "Dsystem_state"},
    {IMAGE + BTF, "R__start_BTF"},
    {IMAGE + BTF_END, "R__stop_BTF"},
    {IMAGE + END, "B_end"},
};

static const struct {
    const char *key, *value;
} places[] = {
    {"task_struct.comm", "{\"offset\": 16, \"size\": 16, \"elements\": 16}"},
    {"uts_namespace.name", "{\"offset\": 0, \"size\": 390}"},
    {"new_utsname.release", "{\"offset\": 130, \"size\": 65, \"elements\": 65}"},
    {"new_utsname.version", "{\"offset\": 195, \"size\": 65, \"elements\": 65}"},
    {"new_utsname.machine", "{\"offset\": 260, \"size\": 65, \"elements\": 65}"},
};

static void add_member(GString *json, const char *type, const char *path)
{
    g_autofree char *key =
        g_strdup_printf("%.*s.%.*s", (int)strcspn(type, "|"), type, (int)strcspn(path, "|"), path);
    const char *value = "{\"offset\": 0, \"size\": 8}";

    for (size_t i = 0; i < G_N_ELEMENTS(places); i++) {
        if (strcmp(places[i].key, key) == 0)
            value = places[i].value;
    }
    g_string_append_printf(json, "\"%s\": %s,\n", key, value);
}

static void add_number(GString *json, const char *name, int64_t value)
{
    g_string_append_printf(json, "\"%.*s\": %" PRId64 ",\n", (int)strcspn(name, "|"), name, value);
}

// Everything that layout.def asks for.
static char *make_profile(const char *dir, const char *release)
{
    g_autoptr(GString) json = g_string_new(NULL);
    char *path = g_build_filename(dir, "profile.json", NULL);

    g_string_append_printf(json, "{\"release\": \"%s\", \"members\": {\n", release);
#define MEMBER(id, need, type, path, doc) add_member(json, type, path);
#include "introspect/layout.def"
    g_string_append(json, "\"\": 0}, \"types\": {\n");
#define TYPE(id, need, name, doc) add_number(json, name, 64);
#include "introspect/layout.def"
    g_string_append(json, "\"\": 0}, \"constants\": {\n");
#define CONSTANT(id, need, name, doc) add_number(json, name, 3);
#include "introspect/layout.def"
    g_string_append(json, "\"\": 0}}\n");
    g_assert_true(g_file_set_contents(path, json->str, -1, NULL));
    return path;
}

struct toy {
    struct fixture_ram ram;
    char *dir, *profile;
    IntroKernel *kernel;
    GError *error;
};

static void put_tables(struct fixture_ram *ram, uint64_t top, uint64_t at, uint64_t frame)
{
    for (unsigned level = 4; level > 1; level--, top += VMM_PAGE_BYTES)
        fixture_put_u64(ram, top + (at >> (9 * level + 3)) % 512 * 8, (top + VMM_PAGE_BYTES) | 1);
    fixture_put_u64(ram, top + (at >> 12) % 512 * 8, frame | 1);
}

static void toy_init(struct toy *t, const void *unused)
{
    g_autoptr(GByteArray) kallsyms = g_byte_array_new();
    struct intro_kallsyms_tables where;
    g_autofree char *note = NULL;

    fixture_ram_init(&t->ram, N_PAGES);
    fixture_kallsyms(FIXTURE_6_1, false, symbols, G_N_ELEMENTS(symbols), IMAGE + KALLSYMS, kallsyms,
                     &where);
    memcpy(t->ram.bytes + KALLSYMS, kallsyms->data, kallsyms->len);
    note = g_strdup_printf(
        "OSRELEASE=" RELEASE "\nSYMBOL(_stext)=%" PRIx64 "\nSYMBOL(init_top_pgt)=%" PRIx64
        "\nNUMBER(phys_base)=0\nKERNELOFFSET=0\n"
        "SYMBOL(kallsyms_num_syms)=%" PRIx64 "\nSYMBOL(kallsyms_names)=%" PRIx64
        "\nSYMBOL(kallsyms_token_table)=%" PRIx64 "\nSYMBOL(kallsyms_token_index)=%" PRIx64
        "\nSYMBOL(kallsyms_offsets)=%" PRIx64 "\nSYMBOL(kallsyms_relative_base)=%" PRIx64 "\n",
        (uint64_t)IMAGE + 0x1000, (uint64_t)IMAGE + TABLES, where.num_syms, where.names,
        where.token_table, where.token_index, where.offsets, where.relative_base);
    fixture_put_note(&t->ram, NOTE, note);
    fixture_put_text(&t->ram, UTS + 130, RELEASE);
    fixture_put_text(&t->ram, UTS + 195, "#1 SMP toy");
    fixture_put_text(&t->ram, UTS + 260, "x86_64");
    fixture_put_text(&t->ram, INIT_TASK + 16, "swapper/0");
    fixture_put_u64(&t->ram, NR_CPU_IDS, 2);
    fixture_put_u64(&t->ram, ONLINE_MASK, 1);
    fixture_put_u64(&t->ram, PER_CPU_OFFSET, DIRECT_MAP + PER_CPU_0);
    fixture_put_u64(&t->ram, PER_CPU_OFFSET + 8, DIRECT_MAP + PER_CPU_1);
    fixture_put_u64(&t->ram, PAGE_OFFSET_BASE, DIRECT_MAP);
    fixture_put_u64(&t->ram, VMEMMAP_BASE, VMEMMAP);
    fixture_put_u64(&t->ram, SYSTEM_STATE, 3);
    fixture_put_text(&t->ram, TEXT, "a text");
    put_tables(&t->ram, TABLES, VMALLOC, PER_CPU_0);
    put_tables(&t->ram, USER_TABLES, 0x7000, PER_CPU_1);
    t->dir = g_dir_make_tmp("intro-kernel-XXXXXX", NULL);
    t->profile = make_profile(t->dir, RELEASE);
}

static void toy_clear(struct toy *t, const void *unused)
{
    g_clear_error(&t->error);
    intro_kernel_free(t->kernel);
    fixture_ram_clear(&t->ram);
    g_unlink(t->profile);
    g_rmdir(t->dir);
    g_free(t->profile);
    g_free(t->dir);
}

static IntroKernel *find(struct toy *t)
{
    t->kernel = intro_kernel_find(t->ram.mem, t->profile, &t->error);
    g_assert_no_error(t->error);
    return t->kernel;
}

static void refuse(struct toy *t, const char *profile, int code, const char *word)
{
    g_assert_null(intro_kernel_find(t->ram.mem, profile, &t->error));
    g_assert_error(t->error, INTRO_ERROR, code);
    g_test_message("%s", t->error->message);
    g_assert_nonnull(strstr(t->error->message, word));
}

static void test_found(struct toy *t, const void *unused)
{
    const struct intro_kernel_info *info = intro_kernel_info(find(t));
    uint64_t offset;
    struct gva at;
    bool online;

    g_assert_cmpstr(info->release, ==, RELEASE);
    g_assert_cmpstr(info->version, ==, "#1 SMP toy");
    g_assert_cmpstr(info->machine, ==, "x86_64");
    g_assert_cmpstr(info->types_from, ==, t->profile);
    g_assert_true(intro_symbol(t->kernel, "init_task", &at, NULL));
    g_assert_cmphex(at.addr, ==, IMAGE + INIT_TASK);
    g_assert_cmpstr(intro_symbol_at(t->kernel, GVA(IMAGE + INIT_TASK + 3), &offset), ==,
                    "init_task");
    g_assert_cmpuint(offset, ==, 3);
    g_assert_cmpuint(intro_n_cpus(t->kernel), ==, 2);
    g_assert_true(intro_percpu(t->kernel, "current_task", 1, &at, NULL));
    g_assert_cmphex(at.addr, ==, DIRECT_MAP + PER_CPU_1 + 0x100);
    g_assert_true(intro_cpu_is_online(t->kernel, 0, &online, NULL) && online);
    g_assert_true(intro_cpu_is_online(t->kernel, 1, &online, NULL) && !online);
    g_assert_false(intro_percpu(t->kernel, "current_task", 2, &at, &t->error));
    g_assert_error(t->error, INTRO_ERROR, INTRO_ERROR_NOT_FOUND);
}

static void check_translation(struct toy *t, uint64_t at, uint64_t want)
{
    struct gpa got;

    g_assert_true(intro_kernel_translate(t->kernel, GVA(at), &got, NULL));
    g_assert_cmphex(got.addr, ==, want);
}

static void test_translate(struct toy *t, const void *unused)
{
    static const uint64_t unmapped[] = {
        0,
        0x7000,                        // a user address
        0x00ff000000000000,            // not canonical
        IMAGE + END,                   // behind the image
        VMALLOC + VMM_PAGE_BYTES,      // behind what is mapped there
        DIRECT_MAP + N_PAGES * 0x1000, // behind the RAM
        UINT64_MAX,
    };
    struct gpa got;

    find(t);
    check_translation(t, IMAGE + INIT_TASK + 5, INIT_TASK + 5);
    check_translation(t, DIRECT_MAP + 0x12345, 0x12345);
    check_translation(t, VMALLOC + 8, PER_CPU_0 + 8);
    for (size_t i = 0; i < G_N_ELEMENTS(unmapped); i++) {
        g_clear_error(&t->error);
        g_assert_false(intro_kernel_translate(t->kernel, GVA(unmapped[i]), &got, &t->error));
        g_assert_error(t->error, INTRO_ERROR, INTRO_ERROR_FAULT);
    }
}

// The mapping is remembered for one pause, no longer.
static void test_new_pause(struct toy *t, const void *unused)
{
    find(t);
    check_translation(t, VMALLOC, PER_CPU_0);
    put_tables(&t->ram, TABLES, VMALLOC, PER_CPU_1);
    intro_kernel_new_pause(t->kernel);
    check_translation(t, VMALLOC, PER_CPU_1);
}

static void test_read(struct toy *t, const void *unused)
{
    g_autofree char *text = NULL;
    uint8_t bytes[3 * VMM_PAGE_BYTES];
    struct gva ptr;
    uint32_t v;

    find(t);
    g_assert_true(intro_read_u32(t->kernel, GVA(IMAGE + NR_CPU_IDS), &v, NULL));
    g_assert_cmpuint(v, ==, 2);
    g_assert_true(intro_read_ptr(t->kernel, GVA(IMAGE + PAGE_OFFSET_BASE), &ptr, NULL));
    g_assert_cmphex(ptr.addr, ==, DIRECT_MAP);
    text = intro_read_str(t->kernel, GVA(DIRECT_MAP + TEXT), 6, NULL);
    g_assert_cmpstr(text, ==, "a text");
    g_assert_null(intro_read_str(t->kernel, GVA(DIRECT_MAP + TEXT), 5, &t->error));
    g_assert_error(t->error, INTRO_ERROR, INTRO_ERROR_CORRUPT);
    g_clear_error(&t->error);

    g_assert_true(intro_read(t->kernel, GVA(IMAGE + 0x3000), bytes, sizeof(bytes), NULL));
    g_assert_cmpmem(bytes, sizeof(bytes), t->ram.bytes + 0x3000, sizeof(bytes));
    // Over the end of RAM, of which the error tells the first address.
    g_assert_false(intro_read(t->kernel, GVA(DIRECT_MAP + (N_PAGES - 1) * 0x1000), bytes,
                              sizeof(bytes), &t->error));
    g_assert_error(t->error, INTRO_ERROR, INTRO_ERROR_FAULT);
    g_assert_nonnull(strstr(t->error->message, "0xffff890000040000"));
}

static void test_read_user(struct toy *t, const void *unused)
{
    struct gva pgd = GVA(DIRECT_MAP + USER_TABLES);
    uint8_t bytes[16];

    find(t);
    fixture_put_text(&t->ram, PER_CPU_1 + 8, "of the process");
    g_assert_true(intro_read_user(t->kernel, pgd, GVA(0x7008), bytes, 15, NULL));
    g_assert_cmpstr((char *)bytes, ==, "of the process");
    g_assert_false(intro_read_user(t->kernel, pgd, GVA(0x7ff8), bytes, 16, &t->error));
    g_assert_error(t->error, INTRO_ERROR, INTRO_ERROR_NOT_PRESENT);
    g_clear_error(&t->error);
    g_assert_false(intro_read_user(t->kernel, pgd, GVA(1ull << 47), bytes, 1, &t->error));
    g_assert_error(t->error, INTRO_ERROR, INTRO_ERROR_FAULT);
}

static void test_struct_page(struct toy *t, const void *unused)
{
    uint64_t pfn;

    find(t);
    g_assert_cmphex(intro_pfn_to_page(t->kernel, 3).addr, ==, VMEMMAP + 192);
    g_assert_true(intro_page_to_pfn(t->kernel, GVA(VMEMMAP + 192), &pfn, NULL));
    g_assert_cmpuint(pfn, ==, 3);
    for (unsigned i = 0; i < 3; i++) {
        static const uint64_t wrong[] = {VMEMMAP - 64, VMEMMAP + 100, VMEMMAP + 64 * N_PAGES};

        g_clear_error(&t->error);
        g_assert_false(intro_page_to_pfn(t->kernel, GVA(wrong[i]), &pfn, &t->error));
        g_assert_error(t->error, INTRO_ERROR, INTRO_ERROR_CORRUPT);
    }
}

static void test_empty_ram(struct toy *t, const void *unused)
{
    memset(t->ram.bytes, 0, N_PAGES * VMM_PAGE_BYTES);
    refuse(t, NULL, INTRO_ERROR_NO_KERNEL, "no running Linux");
}

// What an earlier kernel left behind.
static void test_only_vmcoreinfo(struct toy *t, const void *unused)
{
    memset(t->ram.bytes + KALLSYMS, 0, END - KALLSYMS);
    refuse(t, t->profile, INTRO_ERROR_NO_KERNEL, "kallsyms");
}

static void test_stale_first(struct toy *t, const void *unused)
{
    fixture_put_note(&t->ram, 0x1000,
                     "OSRELEASE=5.10\nSYMBOL(_stext)=ffffffff80001000\nNUMBER(phys_base)=0\n"
                     "SYMBOL(init_top_pgt)=ffffffff80006000\n");
    g_assert_cmpstr(intro_kernel_info(find(t))->release, ==, RELEASE);
}

static void test_no_types(struct toy *t, const void *unused)
{
    // The symbol is gone: rename it in the image.
    for (uint8_t *at = t->ram.bytes + KALLSYMS; at < t->ram.bytes + END; at++) {
        if (memcmp(at, "__start_BTF", 11) == 0)
            memcpy(at, "__ztart_BTF", 11);
    }
    refuse(t, NULL, INTRO_ERROR_NO_TYPES, "no BTF");
}

static void test_damaged_types(struct toy *t, const void *unused)
{
    refuse(t, NULL, INTRO_ERROR_NO_KERNEL, "BTF");
}

static void test_other_profile(struct toy *t, const void *unused)
{
    g_autofree char *other = make_profile(t->dir, "6.1.0-other");

    refuse(t, other, INTRO_ERROR_LAYOUT, "6.1.0-other");
}

static void test_other_release(struct toy *t, const void *unused)
{
    fixture_put_text(&t->ram, UTS + 130, "5");
    refuse(t, t->profile, INTRO_ERROR_NO_KERNEL, "init_uts_ns");
}

static void test_other_init_task(struct toy *t, const void *unused)
{
    fixture_put_text(&t->ram, INIT_TASK + 16, "systemd\n");
    refuse(t, t->profile, INTRO_ERROR_NO_KERNEL, "swapper");
}

static void test_booting(struct toy *t, const void *unused)
{
    fixture_put_u64(&t->ram, SYSTEM_STATE, 1);
    refuse(t, t->profile, INTRO_ERROR_NO_KERNEL, "still booting");
}

static void test_many_cpus(struct toy *t, const void *unused)
{
    fixture_put_u64(&t->ram, NR_CPU_IDS, 0xffffffff);
    refuse(t, t->profile, INTRO_ERROR_NO_KERNEL, "nr_cpu_ids");
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*test)(struct toy *, const void *);
    } tests[] = {
        {"found", test_found},
        {"translate", test_translate},
        {"new-pause", test_new_pause},
        {"read", test_read},
        {"read-user", test_read_user},
        {"struct-page", test_struct_page},
        {"empty-ram", test_empty_ram},
        {"only-vmcoreinfo", test_only_vmcoreinfo},
        {"stale-first", test_stale_first},
        {"no-types", test_no_types},
        {"damaged-types", test_damaged_types},
        {"other-profile", test_other_profile},
        {"other-release", test_other_release},
        {"other-init-task", test_other_init_task},
        {"booting", test_booting},
        {"many-cpus", test_many_cpus},
    };

    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(tests); i++) {
        g_autofree char *path = g_strdup_printf("/intro/kernel/%s", tests[i].name);

        g_test_add(path, struct toy, NULL, toy_init, tests[i].test, toy_clear);
    }
    return g_test_run();
}
