// SPDX-License-Identifier: GPL-2.0-or-later
// The rules that every image obeys: the encoder writes no other, the decoder takes no other.
#include "formats/check.h"
#include "formats/stream.h"

#include <inttypes.h>

#include "formats/catalogue.h"

#define USER_END (1ull << 56) // beyond every user address, with five levels too

static bool corrupt(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

static bool corrupt(GError **error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_propagate_error(error, g_error_new_valist(FMT_ERROR, FMT_ERROR_CORRUPT, format, args));
    va_end(args);
    return false;
}

// What FILE.object must be, by FILE.kind.
static const enum fmt_type file_objects[] = {
    [FMT_FILE_REG] = FMT_INODE,        [FMT_FILE_DIR] = FMT_INODE,
    [FMT_FILE_CHR] = FMT_INODE,        [FMT_FILE_PIPE] = FMT_PIPE,
    [FMT_FILE_MEMFD] = FMT_SHM,        [FMT_FILE_PATH] = FMT_INODE,
    [FMT_FILE_SOCKET] = FMT_SOCKET,    [FMT_FILE_EVENTFD] = FMT_EVENTFD,
    [FMT_FILE_SIGNALFD] = FMT_EVENTFD, [FMT_FILE_TIMERFD] = FMT_TIMERFD,
    [FMT_FILE_EPOLL] = FMT_EPOLL,      [FMT_FILE_INOTIFY] = FMT_INOTIFY,
    [FMT_FILE_TTY] = FMT_TTY_FILE,     [FMT_FILE_PROCESS] = FMT_INODE,
};

static bool check_ref(const FmtImage *img, const struct fmt_record *rec, const struct fmt_field *f,
                      uint64_t to, GError **error)
{
    const char *name = fmt_record_type(rec->type)->name;

    if (to == 0 && f->kind == FMT_FIELD_R)
        return true;
    if (to == 0)
        return corrupt(error, "%s %" PRIu64 " has no %s", name, rec->objref, f->name);

    const struct fmt_record *target = fmt_image_by_ref(img, to, FMT_ANY);
    if (!target)
        return corrupt(error, "%s %" PRIu64 " refers to %" PRIu64 " as its %s, which is not there",
                       name, rec->objref, to, f->name);
    if (f->to != FMT_ANY && target->type != f->to)
        return corrupt(error,
                       "%s %" PRIu64 " refers to %" PRIu64 " as its %s, which is a %s, not a %s",
                       name, rec->objref, to, f->name, fmt_record_type(target->type)->name,
                       fmt_record_type(f->to)->name);
    return true;
}

static bool check_refs(const FmtImage *img, const struct fmt_record *rec, GError **error)
{
    const struct fmt_record_type *t = fmt_record_type(rec->type);

    for (size_t i = 0; i < t->n_fields; i++) {
        const struct fmt_field *f = &t->fields[i];

        if ((f->kind == FMT_FIELD_R || f->kind == FMT_FIELD_P) &&
            !check_ref(img, rec, f, fmt_record_field(rec, i)->u, error))
            return false;
    }
    return true;
}

static bool check_file(const FmtImage *img, const struct fmt_file *file, GError **error)
{
    enum fmt_type want = file->kind < G_N_ELEMENTS(file_objects) ? file_objects[file->kind] : 0;

    if (file->object == 0 || want == 0 || fmt_image_by_ref(img, file->object, want))
        return true;
    return corrupt(error,
                   "file %" PRIu64 " of kind %" PRIu64 " refers to %" PRIu64 ", which is not a %s",
                   file->rec.objref, file->kind, file->object, fmt_record_type(want)->name);
}

static bool check_vma(const struct fmt_vma *vma, uint64_t last_end, GError **error)
{
    if (vma->start % FMT_PAGE_BYTES || vma->end % FMT_PAGE_BYTES || vma->start >= vma->end ||
        vma->end > USER_END || vma->offset_bytes % FMT_PAGE_BYTES || vma->offset_bytes > INT64_MAX)
        return corrupt(error,
                       "vma %" PRIu64 " has no valid range: 0x%" PRIx64 "-0x%" PRIx64
                       " at offset 0x%" PRIx64,
                       vma->rec.objref, vma->start, vma->end, vma->offset_bytes);
    if (vma->start < last_end)
        return corrupt(error,
                       "vma %" PRIu64 " at 0x%" PRIx64
                       " begins before the one before it ends at 0x%" PRIx64,
                       vma->rec.objref, vma->start, last_end);
    return true;
}

// The end of the last range of an owner, kept in a table of boxed values.
static uint64_t *last_end_of(GHashTable *ends, uint64_t owner)
{
    uint64_t *pair = g_hash_table_lookup(ends, &owner);

    if (!pair) {
        pair = g_new0(uint64_t, 2);
        pair[0] = owner;
        g_hash_table_insert(ends, pair, pair);
    }
    return &pair[1];
}

static GHashTable *ends_new(void)
{
    return g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
}

static bool check_cow(const struct fmt_cow *cow, GError **error)
{
    if (cow->start % FMT_PAGE_BYTES || cow->end % FMT_PAGE_BYTES || cow->start >= cow->end ||
        cow->end > USER_END || cow->end - cow->start > FMT_COW_MAX_BYTES ||
        cow->flags & ~(uint64_t)FMT_COW_FLAGS)
        return corrupt(error, "cow %" PRIu64 " at 0x%" PRIx64 "-0x%" PRIx64 " is no valid range",
                       cow->rec.objref, cow->start, cow->end);
    return true;
}

static bool check_cow_set(const FmtImage *img, const struct fmt_cow_set *set, GError **error)
{
    size_t n = fmt_cow_set_count(set);
    uint64_t last = 0;
    bool ok = n > 1 && g_bytes_get_size(set->members) % sizeof(uint64_t) == 0;

    for (size_t i = 0; ok && i < n; i++) {
        uint64_t member = fmt_cow_set_member(set, i);

        ok = member > last && fmt_image_by_ref(img, member, FMT_MM);
        last = member;
    }
    return ok ||
           corrupt(error, "cow_set %" PRIu64 " has no valid list of members", set->rec.objref);
}

static bool check_cows(const FmtImage *img, GError **error)
{
    struct fmt_cow *cow;
    struct fmt_cow_set *set;

    for (size_t i = 0; FMT_NEXT(img, COW, i, cow); i++) {
        if (!check_cow(cow, error))
            return false;
    }
    for (size_t i = 0; FMT_NEXT(img, COW_SET, i, set); i++) {
        if (!check_cow_set(img, set, error))
            return false;
    }
    return true;
}

bool fmt_check_records(const FmtImage *img, GError **error)
{
    g_autoptr(GHashTable) ends = ends_new();
    struct fmt_record *rec;
    struct fmt_file *file;
    struct fmt_vma *vma;

    for (uint32_t type = 0; type < FMT_N_TYPES; type++) {
        for (size_t i = 0; (rec = fmt_image_nth(img, type, i)); i++) {
            if (!check_refs(img, rec, error))
                return false;
        }
    }
    for (size_t i = 0; FMT_NEXT(img, FILE, i, file); i++) {
        if (!check_file(img, file, error))
            return false;
    }
    if (!check_cows(img, error))
        return false;
    for (size_t i = 0; FMT_NEXT(img, VMA, i, vma); i++) {
        uint64_t *last_end = last_end_of(ends, vma->mm);

        if (!check_vma(vma, *last_end, error))
            return false;
        *last_end = vma->end;
    }
    return true;
}

struct FmtExtentCheck {
    const FmtImage *img;
    GHashTable *ends;
};

FmtExtentCheck *fmt_extent_check_new(const FmtImage *img)
{
    FmtExtentCheck *check = g_new0(FmtExtentCheck, 1);

    check->img = img;
    check->ends = ends_new();
    return check;
}

void fmt_extent_check_free(FmtExtentCheck *check)
{
    if (!check)
        return;
    g_hash_table_unref(check->ends);
    g_free(check);
}

// All that share the pages must have mappings for them, or they would be lost.
static bool member_has_room(const FmtImage *img, const struct fmt_cow *cow, uint64_t mm,
                            const struct fmt_pages *pages)
{
    uint64_t at = pages->start, end = at + pages->n_pages * FMT_PAGE_BYTES;

    while (at < end) {
        const struct fmt_vma *vma = fmt_image_vma(img, mm, at);

        if (!vma || !fmt_cow_fits(cow, vma))
            return false;
        at = vma->end;
    }
    return true;
}

static bool cow_extent_ok(const FmtImage *img, const struct fmt_cow_set *set,
                          const struct fmt_pages *pages, GError **error)
{
    const struct fmt_cow *cow = fmt_image_by_ref(img, set->cow, FMT_COW);

    if (!cow || pages->start < cow->start || pages->start >= cow->end ||
        pages->n_pages > (cow->end - pages->start) / FMT_PAGE_BYTES)
        return corrupt(error, "%" PRIu64 " pages at 0x%" PRIx64 " are outside of cow %" PRIu64,
                       pages->n_pages, pages->start, set->cow);
    if (pages->kind == FMT_PAGES_CLEAN || pages->kind == FMT_PAGES_HASHED)
        return corrupt(error, "pages at 0x%" PRIx64 " of cow %" PRIu64 " belong to no file",
                       pages->start, set->cow);
    for (size_t i = 0; i < fmt_cow_set_count(set); i++)
        if (!member_has_room(img, cow, fmt_cow_set_member(set, i), pages))
            return corrupt(error,
                           "pages at 0x%" PRIx64 " of cow %" PRIu64 ": mm %" PRIu64
                           " has no such mapping",
                           pages->start, set->cow, fmt_cow_set_member(set, i));
    return true;
}

static bool extent_owner_ok(const FmtImage *img, const struct fmt_pages *pages, GError **error)
{
    const struct fmt_record *owner = fmt_image_by_ref(img, pages->owner, FMT_ANY);

    if (owner && owner->type == FMT_COW_SET)
        return cow_extent_ok(img, (const struct fmt_cow_set *)owner, pages, error);
    if (!owner || (owner->type != FMT_MM && owner->type != FMT_SHM && owner->type != FMT_INODE))
        return corrupt(error,
                       "pages at 0x%" PRIx64 " belong to %" PRIu64
                       ", which is no mm, cow_set, shm or inode",
                       pages->start, pages->owner);
    if (owner->type != FMT_MM)
        return true;

    const struct fmt_vma *vma = fmt_image_vma(img, pages->owner, pages->start);
    if (!vma || pages->n_pages > (vma->end - pages->start) / FMT_PAGE_BYTES)
        return corrupt(
            error, "%" PRIu64 " pages at 0x%" PRIx64 " of mm %" PRIu64 " are not inside one vma",
            pages->n_pages, pages->start, pages->owner);
    return true;
}

bool fmt_extent_check(FmtExtentCheck *check, const struct fmt_pages *pages, GError **error)
{
    const struct fmt_head *head = fmt_image_nth(check->img, FMT_HEAD, 0);

    if (pages->kind > (head->features & FMT_FEATURE_LIVE ? FMT_PAGES_PLACED : FMT_PAGES_CLEAN))
        return corrupt(error, "pages at 0x%" PRIx64 " are of an unknown kind, %" PRIu64,
                       pages->start, pages->kind);
    if (pages->start % FMT_PAGE_BYTES || pages->n_pages == 0 || pages->start > INT64_MAX ||
        pages->n_pages > (INT64_MAX - pages->start) / FMT_PAGE_BYTES)
        return corrupt(error, "%" PRIu64 " pages at 0x%" PRIx64 " are no valid range",
                       pages->n_pages, pages->start);
    if (pages->kind != FMT_PAGES_ZERO && pages->n_pages > FMT_EXTENT_MAX_PAGES)
        return corrupt(error,
                       "%" PRIu64 " pages at 0x%" PRIx64 " are more than the %u of an extent",
                       pages->n_pages, pages->start, FMT_EXTENT_MAX_PAGES);
    if (!extent_owner_ok(check->img, pages, error))
        return false;

    uint64_t *last_end = last_end_of(check->ends, pages->owner);
    if (pages->start < *last_end)
        return corrupt(error,
                       "pages at 0x%" PRIx64 " of %" PRIu64 " come after those up to 0x%" PRIx64,
                       pages->start, pages->owner, *last_end);
    *last_end = pages->start + pages->n_pages * FMT_PAGE_BYTES;
    return true;
}
