// SPDX-License-Identifier: GPL-2.0-or-later
// Images for the tests of formats/.
#include "fmt_sample.h"

#include <glib/gstdio.h>
#include <string.h>

#include "formats/catalogue.h"

// The second of its kind: that is what references are filled with.
static uint64_t ref_of(const FmtImage *img, enum fmt_type type)
{
    return ((struct fmt_record *)fmt_image_nth(img, type, 1))->objref;
}

static void fill_field(FmtImage *img, const struct fmt_record *rec, size_t i)
{
    const struct fmt_field *f = &fmt_record_type(rec->type)->fields[i];
    union fmt_value *v = fmt_record_field(rec, i);
    uint64_t salt = rec->objref * 1000003 + i;

    switch (f->kind) {
    case FMT_FIELD_S:
        v->s = i % 5 == 0 ? g_strdup("") : g_strdup_printf("%s of %d", f->name, (int)rec->type);
        break;
    case FMT_FIELD_B:
        v->b = i % 2 ? g_bytes_new(&salt, sizeof(salt)) : g_bytes_new_static("", 0);
        break;
    case FMT_FIELD_R:
    case FMT_FIELD_P:
        v->u = f->to ? ref_of(img, f->to) : 0;
        break;
    default:
        v->u = salt * 0x9e3779b97f4a7c15;
    }
}

// What reflection cannot know: fields whose values have rules.
static void settle(FmtImage *img)
{
    struct fmt_vma *vma;
    struct fmt_file *file;
    struct fmt_signal *signal;
    struct fmt_cow_set *set;
    struct fmt_cow *cow;
    struct fmt_attributes *attributes;

    for (size_t i = 0; FMT_NEXT(img, VMA, i, vma); i++) {
        vma->mm = ref_of(img, FMT_MM);
        vma->start = 0x400000 + i * 0x100000;
        vma->end = vma->start + 0x100000;
        vma->kind = i == 0 ? FMT_VMA_ANON : FMT_VMA_FILE;
        vma->object = i == 0 ? 0 : ref_of(img, FMT_FILE);
        vma->offset_bytes = i * FMT_PAGE_BYTES;
    }
    for (size_t i = 0; FMT_NEXT(img, FILE, i, file); i++) {
        file->kind = i == 0 ? FMT_FILE_PIPE : FMT_FILE_REG;
        file->object = ref_of(img, i == 0 ? FMT_PIPE : FMT_INODE);
    }
    for (size_t i = 0; FMT_NEXT(img, ATTRIBUTES, i, attributes); i++)
        attributes->owner = ref_of(img, FMT_INODE);
    for (size_t i = 0; FMT_NEXT(img, COW, i, cow); i++) {
        cow->start = 0x400000 + i * 0x100000;
        cow->end = cow->start + 0x100000;
        cow->flags &= FMT_COW_FLAGS;
        cow->object = i == 0 ? 0 : ref_of(img, FMT_FILE);
    }
    for (size_t i = 0; FMT_NEXT(img, COW_SET, i, set); i++) {
        struct fmt_mm *mms[2] = {fmt_image_nth(img, FMT_MM, 0), fmt_image_nth(img, FMT_MM, 1)};
        const uint64_t members[2] = {GUINT64_TO_LE(mms[0]->rec.objref),
                                     GUINT64_TO_LE(mms[1]->rec.objref)};

        g_clear_pointer(&set->members, g_bytes_unref);
        set->members = g_bytes_new(members, sizeof members);
    }
    for (size_t i = 0; FMT_NEXT(img, SIGNAL, i, signal); i++)
        signal->owner = ref_of(img, i == 0 ? FMT_PROC : FMT_TASK);
}

static void add_pages(FmtImage *img, size_t n)
{
    uint8_t *data = g_malloc(n * FMT_PAGE_BYTES);

    for (size_t i = 0; i < n * FMT_PAGE_BYTES; i++)
        data[i] = (uint8_t)(i * 2654435761u >> 13);
    fmt_image_hold(img, g_bytes_new_take(data, n * FMT_PAGE_BYTES));
    fmt_image_add_extent(img, ref_of(img, FMT_MM), 0x401000, 1, FMT_PAGES_DATA, data);
    fmt_image_add_extent(img, ref_of(img, FMT_MM), 0x404000, 5, FMT_PAGES_ZERO, NULL);
    fmt_image_add_extent(img, ref_of(img, FMT_INODE), 0x1000, 1, FMT_PAGES_CLEAN,
                         data + FMT_PAGE_BYTES);
    fmt_image_add_extent(img, ref_of(img, FMT_SHM), 0, n, FMT_PAGES_DATA, data);
}

static FmtImage *sample(size_t n_shm_pages)
{
    FmtImage *img = fmt_image_new();
    struct fmt_record *rec;

    for (uint32_t type = FMT_HEAD + 1; type < FMT_N_TYPES; type++) {
        for (int n = 0; n < 2 && fmt_type_is_object(type); n++)
            fmt_image_add(img, type);
    }
    for (uint32_t type = 0; type < FMT_N_TYPES; type++) {
        for (size_t n = 0; (rec = fmt_image_nth(img, type, n)); n++) {
            for (size_t i = 0; i < fmt_record_type(type)->n_fields; i++)
                fill_field(img, rec, i);
        }
    }
    settle(img);
    add_pages(img, n_shm_pages);
    fmt_image_head(img)->format = FMT_FORMAT_VERSION;
    fmt_image_head(img)->features = 0;
    fmt_image_head(img)->n_pages = 1 + 1 + n_shm_pages;
    return img;
}

FmtImage *sample_small(void)
{
    return sample(2);
}

FmtImage *sample_full(void)
{
    return sample(FMT_EXTENT_MAX_PAGES + 44);
}

FmtImage *sample_tiny(void)
{
    FmtImage *img = fmt_image_new();
    struct fmt_mm *mm = fmt_image_add(img, FMT_MM);
    struct fmt_vma *vma = fmt_image_add(img, FMT_VMA);
    struct fmt_proc *proc = fmt_image_add(img, FMT_PROC);
    struct fmt_task *task = fmt_image_add(img, FMT_TASK);
    uint8_t *page = g_malloc0(FMT_PAGE_BYTES);

    fmt_image_head(img)->machine = g_strdup("x86_64");
    fmt_image_head(img)->root_pid = 42;
    fmt_image_head(img)->n_pages = 1;
    vma->mm = mm->rec.objref;
    vma->start = 0x400000;
    vma->end = 0x401000;
    vma->flags = FMT_VMA_READ | FMT_VMA_EXEC;
    proc->pid = proc->pgid = proc->sid = 42;
    proc->comm = g_strdup("spin");
    proc->mm = mm->rec.objref;
    task->proc = proc->rec.objref;
    task->tid = 42;
    task->comm = g_strdup("spin");
    task->syscall = -1;
    task->rip = 0x400000;
    task->cs = 0x33;
    task->ss = 0x2b;
    memcpy(page, "\xeb\xfe", 2);
    fmt_image_hold(img, g_bytes_new_take(page, FMT_PAGE_BYTES));
    fmt_image_add_extent(img, mm->rec.objref, 0x400000, 1, FMT_PAGES_DATA, page);
    return img;
}

static bool collect(const void *data, size_t len, void *user, GError **error)
{
    g_byte_array_append(user, data, len);
    return true;
}

GByteArray *sample_encode(const FmtImage *img)
{
    g_autoptr(GError) error = NULL;
    GByteArray *bytes = g_byte_array_new();

    fmt_encode(img, collect, bytes, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(bytes->len, ==, fmt_encoded_size(img));
    return bytes;
}

bool sample_decode(const uint8_t *data, size_t len, size_t piece_bytes, FmtImage **ret,
                   GError **error)
{
    static const struct fmt_decoder_ops ops = {0};
    g_autoptr(FmtDecoder) dec = fmt_decoder_new(&ops, NULL);

    for (size_t at = 0; at < len; at += piece_bytes) {
        if (!fmt_decoder_feed(dec, data + at, MIN(piece_bytes, len - at), error))
            return false;
    }
    if (!fmt_decoder_finish(dec, error))
        return false;
    if (ret)
        *ret = fmt_image_ref(fmt_decoder_image(dec));
    return true;
}

static void assert_records_equal(const struct fmt_record *a, const struct fmt_record *b)
{
    const struct fmt_record_type *t = fmt_record_type(a->type);

    g_assert_cmpuint(a->objref, ==, b->objref);
    g_assert_cmpuint(a->flags, ==, b->flags);
    for (size_t i = 0; i < t->n_fields; i++) {
        union fmt_value *va = fmt_record_field(a, i), *vb = fmt_record_field(b, i);

        if (t->fields[i].kind == FMT_FIELD_S)
            g_assert_cmpstr(va->s, ==, vb->s);
        else if (t->fields[i].kind == FMT_FIELD_B)
            g_assert_true(va->b && vb->b ? g_bytes_equal(va->b, vb->b) : va->b == vb->b);
        else
            g_assert_cmphex(va->u, ==, vb->u);
    }
}

void sample_assert_equal(const FmtImage *a, const FmtImage *b)
{
    for (uint32_t type = 0; type < FMT_N_TYPES; type++) {
        g_assert_cmpuint(fmt_image_count(a, type), ==, fmt_image_count(b, type));
        for (size_t i = 0; i < fmt_image_count(a, type); i++)
            assert_records_equal(fmt_image_nth(a, type, i), fmt_image_nth(b, type, i));
    }
    g_assert_cmpuint(fmt_image_n_extents(a), ==, fmt_image_n_extents(b));
    for (size_t i = 0; i < fmt_image_n_extents(a); i++) {
        const struct fmt_extent *x = fmt_image_extent(a, i), *y = fmt_image_extent(b, i);

        g_assert_cmpuint(x->pages.owner, ==, y->pages.owner);
        g_assert_cmphex(x->pages.start, ==, y->pages.start);
        g_assert_cmpuint(x->pages.n_pages, ==, y->pages.n_pages);
        g_assert_cmpuint(x->pages.kind, ==, y->pages.kind);
        g_assert_true(!x->data == !y->data);
        if (x->data)
            g_assert_cmpmem(x->data, x->pages.n_pages * FMT_PAGE_BYTES, y->data,
                            y->pages.n_pages * FMT_PAGE_BYTES);
    }
}

char *sample_mkdir(void)
{
    g_autoptr(GError) error = NULL;
    char *dir = g_dir_make_tmp("fmt-XXXXXX", &error);

    g_assert_no_error(error);
    return dir;
}

bool sample_dir_is_empty(const char *dir)
{
    g_autoptr(GDir) d = g_dir_open(dir, 0, NULL);

    return g_dir_read_name(d) == NULL;
}

void sample_rmdir(char *dir)
{
    g_autoptr(GDir) d = g_dir_open(dir, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(d))) {
        g_autofree char *path = g_build_filename(dir, name, NULL);

        g_unlink(path);
    }
    g_assert_cmpint(g_rmdir(dir), ==, 0);
    g_free(dir);
}
