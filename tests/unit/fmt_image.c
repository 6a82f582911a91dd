// SPDX-License-Identifier: GPL-2.0-or-later
// The model: references, look-ups by address, and the rules that the encoder and decoder share.
#include <string.h>

#include "fmt_sample.h"
#include "formats/catalogue.h"
#include "formats/summary.h"

static void test_references(void)
{
    g_autoptr(FmtImage) img = fmt_image_new();
    struct fmt_mm *mm = fmt_image_add(img, FMT_MM);
    struct fmt_pipe *pipe = fmt_image_add(img, FMT_PIPE);

    g_assert_cmpuint(mm->rec.objref, !=, pipe->rec.objref);
    g_assert_true(fmt_image_by_ref(img, mm->rec.objref, FMT_MM) == mm);
    g_assert_true(fmt_image_by_ref(img, mm->rec.objref, FMT_ANY) == mm);
    g_assert_null(fmt_image_by_ref(img, mm->rec.objref, FMT_PIPE));
    g_assert_null(fmt_image_by_ref(img, 0, FMT_ANY));
    g_assert_null(fmt_image_nth(img, FMT_MM, 1));
    g_assert_cmpuint(fmt_image_head(img)->format, ==, FMT_FORMAT_VERSION);
}

static void test_catalogue(void)
{
    const struct fmt_record_type *t = fmt_record_type(FMT_VMA);

    g_assert_cmpstr(t->name, ==, "vma");
    g_assert_cmpuint(t->fields[0].kind, ==, FMT_FIELD_P);
    g_assert_cmpuint(t->fields[0].to, ==, FMT_MM);
    g_assert_cmpstr(t->fields[t->n_fields - 1].name, ==, "huge");
    g_assert_null(t->fields[t->n_fields].name);
    g_assert_null(fmt_record_type(FMT_TAIL + 1));
    g_assert_null(fmt_record_type(G_MAXUINT32));
}

static void test_long_extent(void)
{
    g_autoptr(FmtImage) img = fmt_image_new();
    const uint64_t n = 2 * FMT_EXTENT_MAX_PAGES + 1;
    g_autofree uint8_t *data = g_malloc0(n * FMT_PAGE_BYTES);

    fmt_image_add_extent(img, 7, 0x1000, n, FMT_PAGES_DATA, data);
    g_assert_cmpuint(fmt_image_n_extents(img), ==, 3);
    g_assert_true(fmt_image_extent(img, 2)->data == data + (n - 1) * FMT_PAGE_BYTES);
    g_assert_cmphex(fmt_image_extent(img, 2)->pages.start, ==, n * FMT_PAGE_BYTES);
    fmt_image_add_extent(img, 7, 0x10000000, 1 << 20, FMT_PAGES_ZERO, NULL);
    g_assert_cmpuint(fmt_image_n_extents(img), ==, 4);
}

// A private file mapping: pages of its own, of the file beneath, and some that nobody has.
static void test_layers(void)
{
    g_autoptr(FmtImage) img = fmt_image_new();
    struct fmt_mm *mm = fmt_image_add(img, FMT_MM);
    struct fmt_inode *inode = fmt_image_add(img, FMT_INODE);
    struct fmt_file *file = fmt_image_add(img, FMT_FILE);
    struct fmt_vma *vma = fmt_image_add(img, FMT_VMA);
    g_autofree uint8_t *mine = g_malloc(2 * FMT_PAGE_BYTES);
    g_autofree uint8_t *theirs = g_malloc(4 * FMT_PAGE_BYTES);
    uint8_t got[3 * FMT_PAGE_BYTES];
    struct fmt_run run;

    memset(mine, 'm', 2 * FMT_PAGE_BYTES);
    memset(theirs, 't', 4 * FMT_PAGE_BYTES);
    file->object = inode->rec.objref;
    *vma = (struct fmt_vma){.rec = vma->rec,
                            .mm = mm->rec.objref,
                            .start = 0x10000,
                            .end = 0x18000,
                            .kind = FMT_VMA_FILE,
                            .object = file->rec.objref,
                            .offset_bytes = 0x5000};
    fmt_image_add_extent(img, mm->rec.objref, 0x12000, 1, FMT_PAGES_DATA, mine);
    fmt_image_add_extent(img, mm->rec.objref, 0x13000, 1, FMT_PAGES_ZERO, NULL);
    // 0x11000 .. 0x15000 of the mapping
    fmt_image_add_extent(img, inode->rec.objref, 0x6000, 4, FMT_PAGES_CLEAN, theirs);

    g_assert_true(fmt_image_read(img, mm->rec.objref, 0x11fff, got, 3 * FMT_PAGE_BYTES));
    g_assert_cmpint(got[0], ==, 't');
    g_assert_cmpint(got[1], ==, 'm');
    g_assert_cmpint(got[FMT_PAGE_BYTES + 1], ==, 0);
    g_assert_cmpint(got[2 * FMT_PAGE_BYTES + 1], ==, 't');
    g_assert_false(fmt_image_read(img, mm->rec.objref, 0x10fff, got, 2));
    g_assert_false(fmt_image_read(img, mm->rec.objref, 0x14fff, got, 2));
    g_assert_false(fmt_image_read(img, mm->rec.objref, G_MAXUINT64, got, 2));
    g_assert_false(fmt_image_read(img, inode->rec.objref, 0x6000, got, 1));

    static const uint64_t starts[] = {0x11000, 0x12000, 0x13000, 0x14000};
    uint64_t at = 0;
    for (size_t i = 0; i < G_N_ELEMENTS(starts); i++, at = run.end) {
        g_assert_true(fmt_image_next_run(img, vma, at, &run));
        g_assert_cmphex(run.start, ==, starts[i]);
        g_assert_cmphex(run.end, ==, starts[i] + FMT_PAGE_BYTES);
    }
    g_assert_false(fmt_image_next_run(img, vma, at, &run));
}

// What two address spaces have in common, and what one of them has instead.
static void test_inherited(void)
{
    g_autoptr(FmtImage) img = fmt_image_new();
    struct fmt_mm *mms[] = {fmt_image_add(img, FMT_MM), fmt_image_add(img, FMT_MM),
                            fmt_image_add(img, FMT_MM)};
    struct fmt_cow *cow = fmt_image_add(img, FMT_COW);
    struct fmt_cow_set *set = fmt_image_add(img, FMT_COW_SET);
    const uint64_t members[] = {GUINT64_TO_LE(mms[0]->rec.objref),
                                GUINT64_TO_LE(mms[1]->rec.objref)};
    g_autofree uint8_t *ours = g_malloc(4 * FMT_PAGE_BYTES);
    uint8_t got[2];

    memset(ours, 'o', 3 * FMT_PAGE_BYTES);
    memset(ours + 3 * FMT_PAGE_BYTES, 'm', FMT_PAGE_BYTES);
    cow->start = 0x10000;
    cow->end = 0x20000;
    set->cow = cow->rec.objref;
    set->members = g_bytes_new(members, sizeof members);
    for (size_t i = 0; i < G_N_ELEMENTS(mms); i++) {
        struct fmt_vma *vma = fmt_image_add(img, FMT_VMA);

        *vma = (struct fmt_vma){
            .rec = vma->rec, .mm = mms[i]->rec.objref, .start = 0x10000, .end = 0x20000};
    }
    fmt_image_add_extent(img, set->rec.objref, 0x11000, 3, FMT_PAGES_DATA, ours);
    fmt_image_add_extent(img, mms[1]->rec.objref, 0x14000, 1, FMT_PAGES_DATA,
                         ours + 3 * FMT_PAGE_BYTES);

    g_assert_true(fmt_image_read(img, mms[0]->rec.objref, 0x13fff, got, 1));
    g_assert_cmpint(got[0], ==, 'o');
    g_assert_true(fmt_image_read(img, mms[1]->rec.objref, 0x13fff, got, 2));
    g_assert_cmpint(got[0], ==, 'o');
    g_assert_cmpint(got[1], ==, 'm');
    g_assert_true(!fmt_image_read(img, mms[2]->rec.objref, 0x12000, got, 1) || got[0] == 0);

    const struct fmt_proc proc = {.mm = mms[1]->rec.objref};
    const struct fmt_proc_summary sum = fmt_proc_summary(img, &proc);

    g_assert_cmpuint(sum.inherited_pages, ==, 3);
    g_assert_cmpuint(sum.data_pages, ==, 1);
}

// Each breaks one rule of a good image; the encoder must name it and write nothing.
static void no_such_ref(FmtImage *img)
{
    ((struct fmt_task *)fmt_image_nth(img, FMT_TASK, 0))->cred = 9999;
}

static void wrong_type(FmtImage *img)
{
    struct fmt_task *task = fmt_image_nth(img, FMT_TASK, 0);

    task->cred = task->files;
}

static void no_parent(FmtImage *img)
{
    ((struct fmt_vma *)fmt_image_nth(img, FMT_VMA, 0))->mm = 0;
}

static void wrong_kind(FmtImage *img)
{
    ((struct fmt_file *)fmt_image_nth(img, FMT_FILE, 1))->kind = FMT_FILE_PIPE;
}

static void empty_vma(FmtImage *img)
{
    struct fmt_vma *vma = fmt_image_nth(img, FMT_VMA, 0);

    vma->end = vma->start;
}

static void vmas_overlap(FmtImage *img)
{
    ((struct fmt_vma *)fmt_image_nth(img, FMT_VMA, 0))->end += FMT_PAGE_BYTES;
}

static void unaligned_vma(FmtImage *img)
{
    ((struct fmt_vma *)fmt_image_nth(img, FMT_VMA, 1))->end += 1;
}

static void extents_overlap(FmtImage *img)
{
    fmt_image_extent(img, 1)->pages.start = 0x401000;
}

static void extent_outside(FmtImage *img)
{
    fmt_image_extent(img, 0)->pages.start = 0x10000;
}

static void extent_across(FmtImage *img)
{
    fmt_image_extent(img, 1)->pages.n_pages = 0x100000 / FMT_PAGE_BYTES;
}

static void extent_wraps(FmtImage *img)
{
    size_t last = fmt_image_n_extents(img) - 1;

    fmt_image_extent(img, last)->pages.start = -(uint64_t)FMT_PAGE_BYTES;
}

static void extent_of_nobody(FmtImage *img)
{
    fmt_image_extent(img, 0)->pages.owner =
        ((struct fmt_record *)fmt_image_nth(img, FMT_PIPE, 0))->objref;
}

static void cow_too_large(FmtImage *img)
{
    struct fmt_cow *cow = fmt_image_nth(img, FMT_COW, 0);

    cow->end = cow->start + FMT_COW_MAX_BYTES + FMT_PAGE_BYTES;
}

static void cow_flags(FmtImage *img)
{
    ((struct fmt_cow *)fmt_image_nth(img, FMT_COW, 0))->flags = FMT_VMA_SHARED;
}

static void cow_of_one(FmtImage *img)
{
    struct fmt_cow_set *set = fmt_image_nth(img, FMT_COW_SET, 0);
    GBytes *one = g_bytes_new_from_bytes(set->members, 0, sizeof(uint64_t));

    g_bytes_unref(set->members);
    set->members = one;
}

static void cow_unsorted(FmtImage *img)
{
    struct fmt_cow_set *set = fmt_image_nth(img, FMT_COW_SET, 0);
    const uint64_t members[] = {GUINT64_TO_LE(fmt_cow_set_member(set, 1)),
                                GUINT64_TO_LE(fmt_cow_set_member(set, 0))};

    g_bytes_unref(set->members);
    set->members = g_bytes_new(members, sizeof members);
}

static void cow_of_others(FmtImage *img)
{
    struct fmt_cow_set *set = fmt_image_nth(img, FMT_COW_SET, 0);
    const uint64_t members[] = {GUINT64_TO_LE(fmt_cow_set_member(set, 0)),
                                GUINT64_TO_LE(set->rec.objref)};

    g_bytes_unref(set->members);
    set->members = g_bytes_new(members, sizeof members);
}

static void cow_homeless(FmtImage *img)
{
    struct fmt_cow_set *set = fmt_image_nth(img, FMT_COW_SET, 0);
    struct fmt_cow *cow = fmt_image_by_ref(img, set->cow, FMT_COW);

    fmt_image_add_extent(img, set->rec.objref, cow->start, 1, FMT_PAGES_ZERO, NULL);
}

static void cow_outside(FmtImage *img)
{
    struct fmt_cow_set *set = fmt_image_nth(img, FMT_COW_SET, 0);
    struct fmt_cow *cow = fmt_image_by_ref(img, set->cow, FMT_COW);

    fmt_image_add_extent(img, set->rec.objref, cow->end - FMT_PAGE_BYTES, 2, FMT_PAGES_ZERO, NULL);
}

static bool count(const void *data, size_t len, void *user, GError **error)
{
    *(size_t *)user += len;
    return true;
}

static void test_rules(void)
{
    static const struct {
        void (*break_it)(FmtImage *img);
        const char *says;
    } rules[] = {
        {no_such_ref, "refers to 9999 as its cred"},
        {wrong_type, "a files, not a cred"},
        {no_parent, "has no mm"},
        {wrong_kind, "is not a pipe"},
        {empty_vma, "no valid range"},
        {vmas_overlap, "begins before"},
        {unaligned_vma, "no valid range"},
        {extents_overlap, "come after"},
        {extent_outside, "not inside one vma"},
        {extent_across, "not inside one vma"},
        {extent_wraps, "no valid range"},
        {extent_of_nobody, "no mm, cow_set, shm or inode"},
        {cow_too_large, "no valid range"},
        {cow_flags, "no valid range"},
        {cow_of_one, "no valid list of members"},
        {cow_unsorted, "no valid list of members"},
        {cow_of_others, "no valid list of members"},
        {cow_homeless, "has no such mapping"},
        {cow_outside, "are outside of cow"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rules); i++) {
        g_autoptr(FmtImage) img = sample_full();
        g_autoptr(GError) error = NULL;
        size_t written = 0;

        rules[i].break_it(img);
        g_assert_false(fmt_encode(img, count, &written, &error));
        g_assert_error(error, FMT_ERROR, FMT_ERROR_CORRUPT);
        if (!strstr(error->message, rules[i].says))
            g_error("\"%s\" does not say \"%s\"", error->message, rules[i].says);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/image/references", test_references);
    g_test_add_func("/image/catalogue", test_catalogue);
    g_test_add_func("/image/long-extent", test_long_extent);
    g_test_add_func("/image/layers", test_layers);
    g_test_add_func("/image/inherited", test_inherited);
    g_test_add_func("/image/rules", test_rules);
    return g_test_run();
}
