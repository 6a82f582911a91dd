// SPDX-License-Identifier: GPL-2.0-or-later
// image-compare A B: lists every difference between two images of one process tree, by name.
//
// A is what was read from outside, B what the guest says of itself (proc-capture). Processes are
// matched by pid, threads by tid; what they refer to is compared along with them, field by field of
// the catalogue. Exits 1 where anything differs.
//
// --try A spoils each field of A in turn and lists those of which nobody would notice.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/catalogue.h"
#include "formats/cpu_features.h"
#include "formats/stream.h"
#include "tests/oracle/image-compare.h"

/*
 * What one of the two does not say, or says in its own way: everything else must be the same. Times
 * are compared after what passed between the images has been taken off.
 */
static const struct {
    enum fmt_type type;
    const char *field;
} passed_over[] = {
    {FMT_PROC, "cmdline"},      // for people
    {FMT_PROC, "is_subreaped"}, // nothing in /proc tells
    {FMT_PROC, "tty"},
    {FMT_PROC, "exit_code"}, // of zombies alone
    {FMT_MM, "def_flags"},   // nothing in /proc tells
    {FMT_MM, "membarrier"},
    {FMT_FILE, "owner_pid"},  // nothing in /proc tells: files-compare
                              // asks fcntl
    {FMT_FILE, "owner_type"}, //
    {FMT_FILE, "owner_sig"},  //
    {FMT_FILE, "deleted"},    // told by the name
    {FMT_INODE, "path"},      // of whoever came first
    {FMT_INODE, "fstype"},    // proc-capture does not ask
    {FMT_INODE, "build_id_lo"},
    {FMT_INODE, "build_id_hi"},
    {FMT_SHM, "flags"},
    {FMT_PIPE, "packets"},
    {FMT_TASK, "state"}, // being looked at changes it
};

bool compare_is_passed_over(enum fmt_type type, const char *field)
{
    for (size_t i = 0; i < G_N_ELEMENTS(passed_over); i++)
        if (passed_over[i].type == type && strcmp(passed_over[i].field, field) == 0)
            return true;
    return false;
}

void compare_differ(struct compare *c, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    if (!c->quiet)
        printf("%s: %s\n", c->where->str, text);
    c->n_differences++;
}

void compare_records(struct compare *c, const void *a, const void *b);

/* ---- parts ---- */

// Records that are parts of another, and how those of one owner are told apart.
static const struct part {
    enum fmt_type owner, type;
    const char *owner_field, *key; // NULL: by their order
} parts[] = {
    {FMT_PROC, FMT_TASK, "proc", "tid"},
    {FMT_PROC, FMT_RLIMIT, "proc", "resource"},
    {FMT_PROC, FMT_ITIMER, "proc", "which"},
    {FMT_PROC, FMT_SIGNAL, "owner", NULL},
    {FMT_TASK, FMT_SIGNAL, "owner", NULL},
    {FMT_MM, FMT_VMA, "mm", "start"},
    {FMT_SIGHAND, FMT_SIGACTION, "sighand", "signo"},
    {FMT_FILES, FMT_FD, "files", "fd"},
};

// The field that says what a record is a part of: the way that led to it.
bool compare_is_owner(enum fmt_type type, const char *field)
{
    for (size_t i = 0; i < G_N_ELEMENTS(parts); i++)
        if (parts[i].type == type && strcmp(parts[i].owner_field, field) == 0)
            return true;
    return false;
}

/* ---- values ---- */

static bool same_text(const char *a, const char *b)
{
    static const char deleted[] = " (deleted)";
    size_t len = b ? strlen(b) : 0;

    // Of what has no name any more /proc shows the last one, with a remark.
    if (b && g_str_has_suffix(b, deleted))
        len -= strlen(deleted);
    return (!a && !b) || (a && b && strlen(a) == len && strncmp(a, b, len) == 0) ||
           g_strcmp0(a, b) == 0;
}

static void compare_bytes(struct compare *c, const char *name, GBytes *a, GBytes *b)
{
    static GBytes *none;
    gsize a_len, b_len, at = 0;

    if (!none)
        none = g_bytes_new_static("", 0);
    const uint8_t *x = g_bytes_get_data(a ? a : none, &a_len);
    const uint8_t *y = g_bytes_get_data(b ? b : none, &b_len);

    if (a_len != b_len)
        compare_differ(c, "%s: %zu bytes, the guest says %zu", name, a_len, b_len);
    while (at < MIN(a_len, b_len) && x[at] == y[at])
        at++;
    if (at < MIN(a_len, b_len))
        compare_differ(c, "%s: byte %zu is %02x, the guest says %02x", name, at, x[at], y[at]);
}

// Two records are one and the same thing in both images, or in neither.
static bool compare_identity(struct compare *c, const char *name, uint64_t a, uint64_t b)
{
    const uint64_t known_b = (uint64_t)g_hash_table_lookup(c->a_to_b, (void *)a);
    const uint64_t known_a = (uint64_t)g_hash_table_lookup(c->b_to_a, (void *)b);

    if (known_b == b && known_a == a)
        return true;
    if (known_b || known_a)
        compare_differ(c, "%s: shared with %s, which the %s does not say", name,
                       known_b ? "another object" : "no other object", known_b ? "guest" : "image");
    g_hash_table_insert(c->a_to_b, (void *)a, (void *)b);
    g_hash_table_insert(c->b_to_a, (void *)b, (void *)a);
    return false;
}

static void compare_reference(struct compare *c, const char *name, uint64_t a, uint64_t b)
{
    const struct fmt_record *x = fmt_image_by_ref(c->a, a, FMT_ANY);
    const struct fmt_record *y = fmt_image_by_ref(c->b, b, FMT_ANY);

    if (!x || !y || x->type != y->type) {
        if (x || y)
            compare_differ(c, "%s: a record of type %u, the guest says %u", name, x ? x->type : 0,
                           y ? y->type : 0);
        return;
    }
    // Each mapping has an open file of its own, of which /proc tells nothing but the inode. Tasks
    // may share credentials or have equal ones: nobody can tell from inside.
    const bool of_mapping = x->type == FMT_FILE && c->in_mapping;

    if (of_mapping) {
        const struct fmt_file *f = (const void *)x, *g = (const void *)y;

        if (!same_text(f->path, g->path))
            compare_differ(c, "%s: %s, the guest says %s", name, f->path, g->path);
        if (f->kind != g->kind)
            compare_differ(c, "%s: kind %lu, the guest says %lu", name, f->kind, g->kind);
        compare_reference(c, "inode", f->object, g->object);
    } else if (x->type == FMT_CRED || !compare_identity(c, name, a, b)) {
        compare_records(c, x, y);
    }
}

static void compare_field(struct compare *c, const struct fmt_field *f, const union fmt_value *a,
                          const union fmt_value *b)
{
    switch (f->kind) {
    case FMT_FIELD_U:
        if (a->u != b->u)
            compare_differ(c, "%s: %lu, the guest says %lu", f->name, a->u, b->u);
        break;
    case FMT_FIELD_I:
        if (a->i != b->i)
            compare_differ(c, "%s: %ld, the guest says %ld", f->name, a->i, b->i);
        break;
    case FMT_FIELD_X:
        if (a->u != b->u)
            compare_differ(c, "%s: %#lx, the guest says %#lx", f->name, a->u, b->u);
        break;
    case FMT_FIELD_S:
        if (!same_text(a->s, b->s))
            compare_differ(c, "%s: %s, the guest says %s", f->name, a->s, b->s);
        break;
    case FMT_FIELD_B:
        compare_bytes(c, f->name, a->b, b->b);
        break;
    case FMT_FIELD_R:
    case FMT_FIELD_P:
        compare_reference(c, f->name, a->u, b->u);
        break;
    }
}

/* ---- records ---- */

static uint64_t get(const void *rec, const char *field)
{
    const struct fmt_record_type *type = fmt_record_type(((const struct fmt_record *)rec)->type);

    for (size_t i = 0; i < type->n_fields; i++)
        if (strcmp(type->fields[i].name, field) == 0)
            return fmt_record_field(rec, i)->u;
    g_assert_not_reached();
}

// The parts of an owner, by key (as an array of records, in order).
static GPtrArray *parts_of(const FmtImage *img, const struct part *part, uint64_t owner)
{
    GPtrArray *list = g_ptr_array_new();

    for (size_t i = 0; i < fmt_image_count(img, part->type); i++) {
        void *rec = fmt_image_nth(img, part->type, i);
        if (get(rec, part->owner_field) == owner)
            g_ptr_array_add(list, rec);
    }
    return list;
}

static uint64_t key_of(const struct part *part, const GPtrArray *list, guint i)
{
    return part->key ? get(list->pdata[i], part->key) : i;
}

static void *find_part(const struct part *part, const GPtrArray *list, uint64_t key)
{
    for (guint i = 0; i < list->len; i++)
        if (key_of(part, list, i) == key)
            return list->pdata[i];
    return NULL;
}

static gsize enter(struct compare *c, const char *name, const char *key, uint64_t value)
{
    const gsize len = c->where->len;
    const bool address = strcmp(name, "vma") == 0;

    g_string_append_printf(c->where, address ? "%s%s %#lx" : "%s%s %lu", len ? ", " : "", name,
                           value);
    return len;
}

static void compare_part(struct compare *c, const struct part *part, uint64_t a_owner,
                         uint64_t b_owner)
{
    g_autoptr(GPtrArray) a = parts_of(c->a, part, a_owner), b = parts_of(c->b, part, b_owner);
    const char *name = fmt_record_type(part->type)->name;

    for (guint i = 0; i < a->len; i++) {
        const uint64_t key = key_of(part, a, i);
        const void *other = find_part(part, b, key);
        const gsize len = enter(c, name, part->key, key);

        c->in_mapping = part->type == FMT_VMA;
        if (other)
            compare_records(c, a->pdata[i], other);
        else
            compare_differ(c, "the guest has none");
        c->in_mapping = false;
        g_string_truncate(c->where, len);
    }
    for (guint i = 0; i < b->len; i++) {
        const uint64_t key = key_of(part, b, i);
        const gsize len = enter(c, name, part->key, key);

        if (!find_part(part, a, key))
            compare_differ(c, "only the guest has it");
        g_string_truncate(c->where, len);
    }
}

void compare_records(struct compare *c, const void *a, const void *b)
{
    const struct fmt_record *x = a, *y = b;
    const struct fmt_record_type *type = fmt_record_type(x->type);
    const gsize len = c->where->len;

    if (x->type == FMT_MM)
        c->in_mapping = true; // its exe
    for (size_t i = 0; i < type->n_fields; i++) {
        const struct fmt_field *f = &type->fields[i];

        if (!compare_is_passed_over(x->type, f->name) && !compare_is_owner(x->type, f->name) &&
            !compare_special(c, a, b, f->name))
            compare_field(c, f, fmt_record_field(a, i), fmt_record_field(b, i));
    }
    if (x->type == FMT_MM)
        c->in_mapping = false;
    for (size_t i = 0; i < G_N_ELEMENTS(parts); i++)
        if (parts[i].owner == x->type)
            compare_part(c, &parts[i], x->objref, y->objref);
    if (!c->no_pages && (x->type == FMT_MM || x->type == FMT_SHM || x->type == FMT_INODE))
        compare_pages(c, a, b);
    g_string_truncate(c->where, len);
}

static const struct fmt_proc *find_proc(const FmtImage *img, uint64_t pid)
{
    const struct fmt_proc *p;

    for (size_t i = 0; FMT_NEXT(img, PROC, i, p); i++)
        if (p->pid == pid)
            return p;
    return NULL;
}

void compare_images(struct compare *c)
{
    const struct fmt_proc *p;

    g_hash_table_remove_all(c->a_to_b);
    g_hash_table_remove_all(c->b_to_a);
    c->n_differences = 0;

    for (size_t i = 0; FMT_NEXT(c->a, PROC, i, p); i++) {
        const struct fmt_proc *other = find_proc(c->b, p->pid);

        g_string_printf(c->where, "proc %lu", p->pid);
        if (other)
            compare_records(c, p, other);
        else
            compare_differ(c, "the guest has none");
    }
    for (size_t i = 0; FMT_NEXT(c->b, PROC, i, p); i++) {
        g_string_printf(c->where, "proc %lu", p->pid);
        if (!find_proc(c->a, p->pid))
            compare_differ(c, "only the guest has it");
    }
    g_string_assign(c->where, "cpu");
    const struct fmt_cpu *x = fmt_image_nth(c->a, FMT_CPU, 0), *y = fmt_image_nth(c->b, FMT_CPU, 0);
    if (x->xcr0 != y->xcr0)
        compare_differ(c, "xcr0: %#lx, the guest says %#lx", x->xcr0, y->xcr0);
    if (x->xsave_bytes != y->xsave_bytes)
        compare_differ(c, "xsave_bytes: %lu, the guest says %lu", x->xsave_bytes, y->xsave_bytes);
    // Names that are hints alone the kernel gives to CPUs that do not.
    g_autofree char *fewer = fmt_cpu_features_missing(y->features, x->features);
    g_autofree char *more = fmt_cpu_features_missing(x->features, y->features);
    if (fewer)
        compare_differ(c, "features: only the guest has %s", fewer);
    if (more)
        compare_differ(c, "features: the guest does not have %s", more);
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    struct compare c = {0};
    const bool try = argc == 3 && strcmp(argv[1], "--try") == 0;

    if (argc == 4 && strcmp(argv[1], "--running") == 0) {
        c.running = true;
        argv++, argc--;
    }
    if (argc != 3) {
        fprintf(stderr, "usage: image-compare [--running] A B | --try A\n");
        return 2;
    }
    c.a = fmt_load(try ? argv[2] : argv[1], &error);
    c.b = c.a ? fmt_load(argv[2], &error) : NULL;
    if (!c.b) {
        fprintf(stderr, "image-compare: %s\n", error->message);
        return 2;
    }
    c.where = g_string_new("");
    c.a_to_b = g_hash_table_new(NULL, NULL);
    c.b_to_a = g_hash_table_new(NULL, NULL);
    compare_images(&c);
    if (try && c.n_differences == 0)
        return compare_try(&c) ? 0 : 1;
    printf("%zu processes, %zu threads, %zu mappings, %zu descriptors, %lu pages: %u differences\n",
           fmt_image_count(c.a, FMT_PROC), fmt_image_count(c.a, FMT_TASK),
           fmt_image_count(c.a, FMT_VMA), fmt_image_count(c.a, FMT_FD), c.n_pages, c.n_differences);
    fmt_image_unref(c.a);
    fmt_image_unref(c.b);
    return c.n_differences != 0;
}
