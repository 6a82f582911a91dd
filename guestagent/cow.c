// SPDX-License-Identifier: GPL-2.0-or-later
// Memory that several processes share until one of them writes, as after a fork.
//
// Frames become shared by being inherited. So the agent makes each area (COW) once in its own
// memory, with the pages that anybody shares of it, before it makes the first process:
//
//   agent: areas in a store -- births --> every process has the store, in the same frames
//   process: mremap(part of the store -> where the image has the mapping), drop what is not its own
//            to share, munmap the store
//
// mremap moves page tables and copies nothing. An area is made where the image has it and then
// moved to the store, if the agent itself has nothing there: so the mapping knows its place, and
// what lies beside it can be joined to it. Births wait until the shared pages have come, which are
// the first in the stream. Where several sets have a page at one address, see cow_birth.c.

#include "guestagent/cow.h"

#include <errno.h>
#include <linux/mman.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define HUGE_BYTES (2ull << 20)
#define USER_END   0x7ffffffff000ull

static void clear_area(void *data)
{
    struct cow_area *area = data;

    if (area->owners)
        munmap(area->owners, (area->rec->end - area->rec->start) / COW_PAGE_BYTES * 2);
}

static void clear_aside(void *data)
{
    g_bytes_unref(((struct cow_aside *)data)->data);
}

static void clear_set(void *data)
{
    struct cow_set *set = data;

    g_array_unref(set->runs);
    g_array_unref(set->aside);
}

void agent_cow_free(struct agent_cow *cow)
{
    if (!cow)
        return;
    if (cow->is_here)
        munmap(cow->store, cow->bytes);
    g_array_unref(cow->sets);
    g_array_unref(cow->areas);
    g_hash_table_unref(cow->views);
    g_free(cow);
}

void agent_cow_plan(AgentRestore *r)
{
    const struct fmt_mm *mm;

    // Programs of i386 begin with an exec, which leaves nothing of the store.
    for (size_t i = 0; fmt_image_count(r->img, FMT_COW_SET) && FMT_NEXT(r->img, MM, i, mm); i++)
        if (mm->ia32)
            agent_refuse(r, "cow", 0, -1, "a tree with 32-bit programs cannot inherit memory");
    if (fmt_image_count(r->img, FMT_COW_SET) >= UINT16_MAX)
        agent_refuse(r, "cow", 0, -1, "too many sets of processes share memory");
}

/* ---- where the store is ---- */

static void use_own_memory(GArray *used)
{
    g_autofree char *text = NULL;

    if (!g_file_get_contents("/proc/self/maps", &text, NULL, NULL))
        return;
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    for (guint i = 0; lines[i] && lines[i][0]; i++) {
        char *rest;
        struct agent_range range = {.start = g_ascii_strtoull(lines[i], &rest, 16)};

        range.end = *rest ? g_ascii_strtoull(rest + 1, NULL, 16) : 0;
        if (range.end <= USER_END)
            g_array_append_val(used, range);
    }
}

// In the largest range that is free here and in all processes of the image.
static uint8_t *choose_store(const AgentRestore *r, uint64_t bytes)
{
    g_autoptr(GArray) used = g_array_new(false, false, sizeof(struct agent_range));
    struct agent_range last = {USER_END, USER_END};
    const struct fmt_vma *vma;

    use_own_memory(used);
    for (size_t i = 0; FMT_NEXT(r->img, VMA, i, vma); i++) {
        const struct agent_range range = {MIN(vma->start, USER_END), MIN(vma->end, USER_END)};
        g_array_append_val(used, range);
    }
    g_array_append_val(used, last);

    const struct agent_range best = agent_range_largest_gap(used, COW_PAGE_BYTES);
    const uint64_t best_bytes = best.end - best.start;

    if (best_bytes / 4 < bytes)
        return NULL;
    // A quarter: the middle is where parks are made.
    return (uint8_t *)(uintptr_t)((best.start + best_bytes / 4) & ~(HUGE_BYTES - 1));
}

/* ---- areas ---- */

static uint64_t bytes_of(const struct cow_area *area)
{
    return area->rec->end - area->rec->start;
}

static void *map_area(AgentRestore *r, const struct fmt_cow *rec, void *at, int fixed)
{
    const int grows = rec->flags & FMT_VMA_GROWSDOWN ? MAP_GROWSDOWN : 0;
    const int reserve = rec->flags & FMT_VMA_NORESERVE ? MAP_NORESERVE : 0;
    const int anon = rec->object ? 0 : MAP_ANONYMOUS;

    return mmap(at, rec->end - rec->start, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | fixed | anon | grows | reserve,
                rec->object ? agent_file_fd(r, rec->object) : -1,
                rec->object ? (off_t)rec->offset_bytes : 0);
}

// A mapping without a file learns its place with its first page, which may be a huge one.
static bool map_in_place(AgentRestore *r, const struct cow_area *area)
{
    const uint64_t bytes = bytes_of(area);
    void *place = (void *)(uintptr_t)area->rec->start;
    void *at = area->rec->object ? MAP_FAILED : map_area(r, area->rec, place, MAP_FIXED_NOREPLACE);

    if (at == MAP_FAILED)
        return false;
    if (at == place) {
        *(volatile uint8_t *)at = 0;
        madvise(at, bytes, MADV_DONTNEED);
        if (mremap(at, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, area->at) == area->at)
            return true;
    }
    munmap(at, bytes);
    return false;
}

static bool make_area(AgentRestore *r, struct cow_area *area, GError **error)
{
    const uint64_t bytes = bytes_of(area);
    static const struct {
        uint64_t flag;
        int advice;
    } advices[] = {{FMT_VMA_HUGEPAGE, MADV_HUGEPAGE}, {FMT_VMA_NOHUGEPAGE, MADV_NOHUGEPAGE}};

    area->owners = mmap(NULL, bytes / COW_PAGE_BYTES * 2, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area->owners == MAP_FAILED)
        area->owners = NULL;
    if (!area->owners ||
        (!map_in_place(r, area) && map_area(r, area->rec, area->at, MAP_FIXED) != area->at))
        return agent_fail_errno(error, "memory that processes share at %" G_GINT64_MODIFIER "x",
                                area->rec->start);
    for (size_t i = 0; i < G_N_ELEMENTS(advices); i++)
        if (area->rec->flags & advices[i].flag)
            madvise(area->at, bytes, advices[i].advice);
    return true;
}

static struct cow_area *area_of(const struct agent_cow *cow, uint64_t ref)
{
    for (guint i = 0; i < cow->areas->len; i++) {
        struct cow_area *area = &g_array_index(cow->areas, struct cow_area, i);

        if (area->rec->rec.objref == ref)
            return area;
    }
    return NULL;
}

static struct agent_cow *new_cow(AgentRestore *r)
{
    struct agent_cow *cow = g_new0(struct agent_cow, 1);

    cow->r = r;
    cow->areas = g_array_new(false, false, sizeof(struct cow_area));
    g_array_set_clear_func(cow->areas, clear_area);
    cow->sets = g_array_new(false, false, sizeof(struct cow_set));
    g_array_set_clear_func(cow->sets, clear_set);
    cow->views = g_hash_table_new_full(NULL, NULL, NULL, (GDestroyNotify)g_array_unref);
    return cow;
}

static void add_set(struct agent_cow *cow, const struct fmt_cow_set *rec)
{
    const struct cow_set set = {
        .rec = rec,
        .area = rec ? area_of(cow, rec->cow) : NULL,
        .runs = g_array_new(false, false, sizeof(struct agent_range)),
        .aside = g_array_new(false, false, sizeof(struct cow_aside)),
    };

    g_array_set_clear_func(set.aside, clear_aside);
    g_array_append_val(cow->sets, set);
}

// All areas at places like those that they come from, as to huge pages.
static bool lay_out(struct agent_cow *cow, GError **error)
{
    const struct fmt_cow *rec;
    uint64_t at = HUGE_BYTES;

    for (size_t i = 0; FMT_NEXT(cow->r->img, COW, i, rec); i++) {
        const struct cow_area area = {.rec = rec,
                                      .at = (uint8_t *)(uintptr_t)(at + rec->start % HUGE_BYTES)};

        g_array_append_val(cow->areas, area);
        at = ((uint64_t)(uintptr_t)area.at + bytes_of(&area) + 2 * HUGE_BYTES) & ~(HUGE_BYTES - 1);
        if (at > USER_END)
            return agent_fail(error, "the image shares more memory than there are addresses");
    }
    cow->bytes = at;
    cow->store = choose_store(cow->r, cow->bytes);
    return cow->store || agent_fail(error, "no addresses for memory that processes share");
}

bool agent_cow_begin(AgentRestore *r, GError **error)
{
    const struct fmt_cow_set *rec;

    if (fmt_image_count(r->img, FMT_COW_SET) == 0)
        return true;
    struct agent_cow *cow = r->cow = new_cow(r);

    if (!lay_out(cow, error))
        return false;
    // All of it is ours: nobody else is to be given what lies between the areas.
    if (mmap(cow->store, cow->bytes, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1,
             0) != cow->store)
        return agent_fail_errno(error, "addresses for memory that processes share");
    cow->is_here = true;
    for (guint i = 0; i < cow->areas->len; i++) {
        struct cow_area *area = &g_array_index(cow->areas, struct cow_area, i);

        area->at = cow->store + (uintptr_t)area->at;
        if (!make_area(r, area, error))
            return false;
    }
    add_set(cow, NULL);
    for (size_t i = 0; FMT_NEXT(r->img, COW_SET, i, rec); i++)
        add_set(cow, rec);
    cow_rank(cow);
    return true;
}

/* ---- contents ---- */

bool cow_write(pid_t pid, uint64_t to, const void *data, uint64_t size, GError **error)
{
    while (size > 0) {
        const struct iovec here = {(void *)(uintptr_t)data, size};
        const struct iovec there = {(void *)(uintptr_t)to, size};
        const ssize_t n = process_vm_writev(pid, &here, 1, &there, 1, 0);

        if (n <= 0)
            return agent_fail_errno(error, "memory that processes share");
        data = (const uint8_t *)data + n;
        to += n;
        size -= n;
    }
    return true;
}

// Huge pages where the source had some, unless this machine has none.
static bool write_area(const struct cow_area *area, uint64_t addr, const void *data, uint64_t size,
                       GError **error)
{
    const int before = area->rec->huge ? 0 : prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0);
    const bool change = !area->rec->huge && before == 0;

    if (change)
        prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    const bool ok =
        cow_write(getpid(), (uintptr_t)area->at + (addr - area->rec->start), data, size, error);

    if (change)
        prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
    return ok;
}

static void put_aside(struct agent_cow *cow, struct cow_set *set, uint64_t start, const void *data,
                      uint64_t size)
{
    const struct cow_aside piece = {start, g_bytes_new(data, size)};
    guint at = set->aside->len;

    while (at > 0 && g_array_index(set->aside, struct cow_aside, at - 1).start > start)
        at--;
    g_array_insert_val(set->aside, at, piece);
    cow->has_aside = true;
}

// One run of pages that are nobody's yet, or all of one set.
static bool put(struct agent_cow *cow, guint index, uint64_t start, const uint8_t *data,
                uint64_t size, GError **error)
{
    struct cow_set *set = cow_set_at(cow, index);
    const struct cow_area *area = set->area;
    const uint64_t first = (start - area->rec->start) / COW_PAGE_BYTES;
    struct cow_set *other = cow_set_at(cow, area->owners[first]);

    if (area->owners[first] && other->rank <= set->rank) {
        put_aside(cow, set, start, data, size);
        return true;
    }
    if (area->owners[first])
        put_aside(cow, other, start, area->at + (start - area->rec->start), size);
    for (uint64_t i = 0; i < size / COW_PAGE_BYTES; i++)
        area->owners[first + i] = index;
    return write_area(area, start, data, size, error);
}

static bool put_all(struct agent_cow *cow, guint index, uint64_t start, const uint8_t *data,
                    uint64_t size, GError **error)
{
    const struct cow_area *area = cow_set_at(cow, index)->area;
    const uint16_t *owners = area->owners + (start - area->rec->start) / COW_PAGE_BYTES;
    const uint64_t n = size / COW_PAGE_BYTES;

    for (uint64_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && owners[end] == owners[i]; end++)
            ;
        if (!put(cow, index, start + i * COW_PAGE_BYTES, data + i * COW_PAGE_BYTES,
                 (end - i) * COW_PAGE_BYTES, error))
            return false;
    }
    return true;
}

static void note_run(struct cow_set *set, uint64_t start, uint64_t end)
{
    struct agent_range *last =
        set->runs->len ? &g_array_index(set->runs, struct agent_range, set->runs->len - 1) : NULL;
    const struct agent_range more = {start, end};

    if (last && last->end == start)
        last->end = end;
    else
        g_array_append_val(set->runs, more);
}

static guint find_set(const struct agent_cow *cow, uint64_t ref)
{
    for (guint i = 1; i < cow->sets->len; i++)
        if (cow_set_at(cow, i)->rec->rec.objref == ref)
            return i;
    return 0;
}

static void mark_pages(const AgentRestore *r, uint64_t addr, uint8_t *pages, uint64_t size)
{
    for (uint64_t at = 0; at < size; at += COW_PAGE_BYTES) {
        const struct agent_place_mark mark = {r->opt.place_nonce, addr + at};

        memcpy(pages + at, &mark, sizeof mark);
    }
}

bool agent_cow_pages(AgentRestore *r, const struct fmt_pages *pages, uint64_t addr,
                     const void *data, uint64_t size, GError **error)
{
    const guint index = r->cow && r->cow->is_here ? find_set(r->cow, pages->owner) : 0;
    const struct cow_area *area = index ? cow_set_at(r->cow, index)->area : NULL;
    g_autofree uint8_t *made = NULL;

    if (!area || addr < area->rec->start || addr > area->rec->end || size > area->rec->end - addr ||
        (addr | size) % COW_PAGE_BYTES ||
        (pages->kind != FMT_PAGES_DATA && pages->kind != FMT_PAGES_ZERO &&
         pages->kind != FMT_PAGES_PLACED)) {
        g_set_error(error, AGENT_ERROR, AGENT_ERROR_IMAGE,
                    "pages at %" G_GINT64_MODIFIER "x that processes share came too late, or are "
                    "none",
                    addr);
        return false;
    }
    // What nobody has written to is zeros, and needs no page.
    if (pages->kind == FMT_PAGES_ZERO && !area->rec->object)
        return true;
    if (pages->kind != FMT_PAGES_DATA)
        data = made = g_malloc0(size);
    if (pages->kind == FMT_PAGES_PLACED)
        mark_pages(r, addr, made, size);
    note_run(cow_set_at(r->cow, index), addr, addr + size);
    return put_all(r->cow, index, addr, data, size, error);
}

/* ---- in a process ---- */

bool agent_cow_store(const AgentProc *p, struct agent_range *ret)
{
    const struct agent_cow *cow = p->r->cow;

    if (!cow || p->stub)
        return false;
    *ret = (struct agent_range){(uintptr_t)cow->store, (uintptr_t)cow->store + cow->bytes};
    return true;
}

// Whether any page of it is the process's to share.
static bool has_pages(const struct agent_cow *cow, const struct cow_area *area,
                      const struct fmt_vma *vma)
{
    for (guint i = 1; i < cow->sets->len; i++) {
        const struct cow_set *set = cow_set_at(cow, i);

        if (set->area != area || !fmt_cow_set_has(set->rec, vma->mm))
            continue;
        for (guint j = 0; j < set->runs->len; j++) {
            const struct agent_range *run = &g_array_index(set->runs, struct agent_range, j);

            if (run->start < vma->end && vma->start < run->end)
                return true;
        }
    }
    return false;
}

// NULL for none.
static const struct cow_area *find_area(const AgentProc *p, const struct fmt_vma *vma,
                                        bool *ret_ambiguous)
{
    const struct agent_cow *cow = p->r->cow;
    const struct cow_area *found = NULL;

    *ret_ambiguous = false;
    for (guint i = 0; cow && !p->stub && i < cow->areas->len; i++) {
        const struct cow_area *area = &g_array_index(cow->areas, struct cow_area, i);

        if (!fmt_cow_fits(area->rec, vma) || !has_pages(cow, area, vma))
            continue;
        *ret_ambiguous |= found != NULL;
        found = area;
    }
    return found;
}

bool agent_cow_is_inherited(const AgentProc *p, const struct fmt_vma *vma)
{
    bool ambiguous;

    return find_area(p, vma, &ambiguous) != NULL;
}

static bool drop(const AgentProc *p, uint64_t start, uint64_t end, GError **error)
{
    return start == end || agent_remote(&agent_leader(p)->tracee, "MADV_DONTNEED", SYS_madvise,
                                        NULL, error, start, end - start, MADV_DONTNEED);
}

// Drops the pages of others. What is nobody's may go with them.
static bool drop_others(const AgentProc *p, const struct fmt_vma *vma, const struct cow_area *area,
                        GError **error)
{
    const struct agent_cow *cow = p->r->cow;
    g_autofree bool *mine = g_new0(bool, cow->sets->len);
    g_autofree uint16_t *own = NULL;
    const uint16_t *view =
        cow_view(p, area, &own) + (vma->start - area->rec->start) / COW_PAGE_BYTES;
    uint64_t start = 0, end = 0;

    for (guint i = 1; i < cow->sets->len; i++)
        mine[i] = fmt_cow_set_has(cow_set_at(cow, i)->rec, vma->mm);
    for (uint64_t at = vma->start; at < vma->end; at += COW_PAGE_BYTES) {
        const uint16_t owner = view[(at - vma->start) / COW_PAGE_BYTES];

        if (owner == 0)
            continue;
        if (mine[owner]) {
            if (!drop(p, start, end, error))
                return false;
            start = end = 0;
        } else {
            start = start ? start : at;
            end = at + COW_PAGE_BYTES;
        }
    }
    return drop(p, start, end, error);
}

bool agent_cow_take(AgentProc *p, const struct fmt_vma *vma, uint64_t prot, GError **error)
{
    const struct agent_tracee *t = &agent_leader(p)->tracee;
    bool ambiguous;
    const struct cow_area *area = find_area(p, vma, &ambiguous);
    const uint64_t bytes = vma->end - vma->start;
    const uint64_t from = (uintptr_t)area->at + (vma->start - area->rec->start);

    // No capture makes such an image; it would lose the pages of one of the two.
    if (ambiguous)
        return agent_fail(error, "its pages come from two inheritances");
    return agent_remote(t, "mremap", SYS_mremap, NULL, error, from, bytes, bytes,
                        MREMAP_MAYMOVE | MREMAP_FIXED, vma->start) &&
           drop_others(p, vma, area, error) &&
           (prot == (PROT_READ | PROT_WRITE) ||
            agent_remote(t, "mprotect", SYS_mprotect, NULL, error, vma->start, bytes, prot));
}

static bool unmap_store(const struct agent_tracee *t, const struct agent_cow *cow, GError **error)
{
    return agent_remote(t, "munmap", SYS_munmap, NULL, error, (uint64_t)(uintptr_t)cow->store,
                        cow->bytes);
}

bool agent_cow_leave(AgentProc *p, GError **error)
{
    struct agent_range store;

    return !agent_cow_store(p, &store) || unmap_store(&agent_leader(p)->tracee, p->r->cow, error);
}

bool agent_cow_end(AgentRestore *r, GError **error)
{
    if (!r->cow)
        return true;
    if (!agent_cow_after_births(r, error))
        return false;
    munmap(r->cow->store, r->cow->bytes);
    r->cow->is_here = false;
    return r->reaper.tid == 0 || unmap_store(&r->reaper, r->cow, error);
}
