// SPDX-License-Identifier: GPL-2.0-or-later
// Mappings (struct vm_area_struct): what is mapped, and which of its pages are the process's own.
#include "introspect/mm.h"

#include "introspect/cow.h"
#include "introspect/file.h"
#include "introspect/swap.h"

#include <string.h>

// clang-format off
/*
 * Whose pages are captured how:
 *
 *   private anonymous     what the page tables show, DATA of the address space
 *   private of /dev/zero  likewise: to the kernel it is anonymous memory with a file
 *   private of a file     copied-on-write pages likewise; the file's own from the page cache, CLEAN
 *   private of a memfd    copied-on-write pages alone: the others are the memfd's
 *   shared of a file      the page cache, CLEAN: the target's file must hold the same; but DATA where
 *                         the program has written to the mapping: these pages go into the target's file
 *   shared without a file the page cache of the shmem inode, DATA of the SHM
 *   vdso                  all of it: what the process has written to, or the kernel's image of it
 *   huge pages (hugetlb)  as shared and private without a file: their file is the kernel's
 *   vvar                  nothing: the target's kernel has its own
 */
// clang-format on

// include/linux/mm.h; these bits are the same in every release from 5.10 on.
#define VM_SHARED       0x00000008ull
#define VM_PFNMAP       0x00000400ull
#define VM_IO           0x00004000ull
#define VM_HUGETLB      0x00400000ull
#define VM_MIXEDMAP     0x10000000ull
#define VM_PKEY_SHIFT   32
#define DEV_ZERO        0x105        // 1:5, as new_encode_dev gives it
#define VM_SHADOW_STACK (1ull << 37) // since 6.6; VM_UFFD_MINOR in 5.13-6.5

static const struct {
    uint64_t kernel, image;
} flag_map[] = {
    {0x00000001, FMT_VMA_READ},        {0x00000002, FMT_VMA_WRITE},
    {0x00000004, FMT_VMA_EXEC},        {0x00000008, FMT_VMA_SHARED},
    {0x00000010, FMT_VMA_MAYREAD},     {0x00000020, FMT_VMA_MAYWRITE},
    {0x00000040, FMT_VMA_MAYEXEC},     {0x00000100, FMT_VMA_GROWSDOWN},
    {0x00002000, FMT_VMA_LOCKED},      {0x00008000, FMT_VMA_SEQ_READ},
    {0x00010000, FMT_VMA_RAND_READ},   {0x00020000, FMT_VMA_DONTCOPY},
    {0x00080000, FMT_VMA_LOCKONFAULT}, {0x00100000, FMT_VMA_ACCOUNT},
    {0x00200000, FMT_VMA_NORESERVE},   {0x00400000, FMT_VMA_HUGETLB},
    {0x00800000, FMT_VMA_SYNC},        {0x02000000, FMT_VMA_WIPEONFORK},
    {0x04000000, FMT_VMA_DONTDUMP},    {0x20000000, FMT_VMA_HUGEPAGE},
    {0x40000000, FMT_VMA_NOHUGEPAGE},  {0x80000000, FMT_VMA_MERGEABLE},
    {0x00000080, FMT_VMA_MAYSHARE},    {1ull << 40, FMT_VMA_DROPPABLE}, // since 6.11
    {1ull << 42, FMT_VMA_SEALED},      {1ull << 63, FMT_VMA_SEALED},    // since 6.10 the second
};

uint64_t intro_vma_flags(uint64_t vm_flags)
{
    uint64_t flags = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(flag_map); i++)
        if (vm_flags & flag_map[i].kernel)
            flags |= flag_map[i].image;
    return flags;
}

struct mapping {
    struct intro_ctx *c;
    struct fmt_vma *rec;
    struct gva vma, mm, file, inode;
    uint64_t vm_flags;
    bool inherited;  // may be, so that other processes have some of its pages as well
    bool swapped;    // some page is, and it has been refused
    GHashTable *own; // of the vdso: addresses of pages that are not the kernel's -> their frames
    GError *error;   // of a page walk's callback
};

/* ---- pages of the page tables ---- */

#define PTE_WRITABLE 0x2ull
#define PTE_DIRTY    0x40ull

// Whether a frame is private to the process: page->mapping of the (head) page has
// PAGE_MAPPING_ANON.
static bool is_anon(struct mapping *m, struct gpa frame, bool *ret)
{
    IntroKernel *k = m->c->k;
    struct gva head;
    uint64_t mapping;

    if (!intro_page_head(k, intro_pfn_to_page(k, frame.addr >> VMM_PAGE_SHIFT), &head, &m->error) ||
        !intro_get(k, head, M_page_mapping, &mapping, &m->error))
        return false;
    *ret = mapping & 1;
    return true;
}

// Entries that are neither empty nor present: a type above the offset, which is stored inverted.
// The last types are markers since 5.19.
#define SWP_OFFSET_MASK  ((1ull << 50) - 1) // bits 9..58
#define SWP_OFFSET_SHIFT 9
#define SWP_PTE_MARKER   31
#define MARKER_POISONED  (1u << 1)
#define MARKER_GUARD     (1u << 2) // since 6.13

static void add_guard(struct mapping *m, uint64_t at)
{
    size_t n = fmt_image_count(m->c->img, FMT_GUARD);
    struct fmt_guard *last = n ? fmt_image_nth(m->c->img, FMT_GUARD, n - 1) : NULL;

    if (last && last->mm == m->rec->mm && last->end == at && at > m->rec->start) {
        last->end += VMM_PAGE_BYTES;
        return;
    }
    struct fmt_guard *guard = fmt_image_add(m->c->img, FMT_GUARD);
    guard->mm = m->rec->mm;
    guard->start = at;
    guard->end = at + VMM_PAGE_BYTES;
}

// One refusal says it for the whole mapping.
static bool want_swapped(struct mapping *m, const struct intro_user_page *page)
{
    const struct intro_swap_owner owner = {m->rec->mm, m->rec->start, page->at.addr};

    if (intro_swap_want(m->c, intro_swap_slot_of_pte(page->entry), owner, FMT_PAGES_DATA,
                        &m->error))
        return true;
    if (!g_error_matches(m->error, INTRO_ERROR, INTRO_ERROR_SWAPPED))
        return false;
    if (!m->swapped)
        intro_refuse(m->c, "swap", "memory at %" G_GINT64_MODIFIER "x %s", page->at.addr,
                     m->error->message);
    m->swapped = true;
    g_clear_error(&m->error);
    return true;
}

static bool not_in_memory(struct mapping *m, const struct intro_user_page *page)
{
    uint64_t type = page->entry >> INTRO_PTE_TYPE_SHIFT;
    uint64_t marker = ~(page->entry >> SWP_OFFSET_SHIFT) & SWP_OFFSET_MASK;

    if (type == SWP_PTE_MARKER && marker & MARKER_GUARD) {
        add_guard(m, page->at.addr);
        return true;
    }
    if (type == SWP_PTE_MARKER && marker & MARKER_POISONED) {
        intro_refuse(m->c, "poisoned-page", "has a poisoned page at %" G_GINT64_MODIFIER "x",
                     page->at.addr);
        return true;
    }
    if (intro_page_is_swapped(page))
        return want_swapped(m, page);
    g_set_error(&m->error, INTRO_ERROR, INTRO_ERROR_NOT_PRESENT,
                "page at %" G_GINT64_MODIFIER "x of process %" G_GUINT64_FORMAT " is being moved",
                page->at.addr, m->c->pid);
    return false;
}

static bool want_page(const struct intro_user_page *page, bool present, void *user)
{
    struct mapping *m = user;

    if (!present)
        return not_in_memory(m, page);
    if (!page->is_ram) {
        intro_refuse(m->c, "device-mapping", "maps device memory at %" G_GINT64_MODIFIER "x",
                     page->at.addr);
        return true;
    }
    if (m->rec->kind != FMT_VMA_ANON) {
        bool anon;
        if (!is_anon(m, page->frame, &anon))
            return false;
        if (!anon)
            return true; // the page cache has it, and what others write to it shows here
    }
    // A huge entry may reach past the mapping where it was split by mprotect of a neighbour.
    uint64_t start = MAX(page->at.addr, m->rec->start);
    uint64_t end = MIN(page->at.addr + page->size_bytes, m->rec->end);
    struct gpa from = GPA(page->frame.addr + (start - page->at.addr));

    if (page->size_bytes > VMM_PAGE_BYTES)
        m->rec->huge = !(m->rec->flags & FMT_VMA_HUGETLB);
    if (m->inherited)
        intro_cow_want(m->c->cow, m->rec, start, from, end - start, !(page->entry & PTE_WRITABLE));
    else
        intro_pages_want(m->c->pages, m->rec->mm, start, from, end - start, FMT_PAGES_DATA);
    return true;
}

// Pages of a shared file mapping that the program has written to. What was written back to the file
// since is clean again, and not distinguished from what others wrote.
static bool want_written_page(const struct intro_user_page *page, bool present, void *user)
{
    struct mapping *m = user;
    uint64_t start = MAX(page->at.addr, m->rec->start);
    uint64_t end = MIN(page->at.addr + page->size_bytes, m->rec->end);
    const struct fmt_file *file = fmt_image_by_ref(m->c->img, m->rec->object, FMT_FILE);

    if (present && page->is_ram && page->entry & PTE_DIRTY)
        intro_pages_want(m->c->pages, file->object, m->rec->offset_bytes + (start - m->rec->start),
                         GPA(page->frame.addr + (start - page->at.addr)), end - start,
                         FMT_PAGES_DATA);
    return true;
}

static bool walk_pages(struct mapping *m, intro_user_page_fn fn, GError **error)
{
    struct gva pgd;

    if (!intro_get_ptr(m->c->k, m->mm, M_mm_pgd, &pgd, error) ||
        !intro_walk_user(m->c->k, pgd, GVA(m->rec->start), GVA(m->rec->end), fn, m, error))
        return false;
    if (m->error) {
        g_propagate_error(error, g_steal_pointer(&m->error));
        return false;
    }
    return true;
}

/* ---- kinds of mapping ---- */

// [vdso], [vvar] and friends: struct vm_special_mapping in vm_private_data has the name.
static char *special_name(struct mapping *m, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(m->c->k);
    struct gva mapping = rd_ptr(&r, m->vma, M_vma_private_data);
    struct gva name = rd_ptr(&r, mapping, M_special_mapping_name);

    return rd_done(&r, error) ? intro_read_str(m->c->k, name, 64, error) : NULL;
}

static bool is_special(struct mapping *m, bool *ret, GError **error)
{
    struct gva ops, special;

    if (!intro_get_ptr(m->c->k, m->vma, M_vma_ops, &ops, error))
        return false;
    *ret = ops.addr && intro_symbol(m->c->k, "special_mapping_vmops", &special, NULL) &&
           ops.addr == special.addr;
    return true;
}

// Pages of the vdso that have been written to are the process's own: a move has put code there.
static bool note_own(const struct intro_user_page *page, bool present, void *user)
{
    struct mapping *m = user;
    bool anon = false;

    if (!present)
        return not_in_memory(m, page);
    if (page->is_ram && !is_anon(m, page->frame, &anon))
        return false;
    if (anon)
        g_hash_table_insert(m->own, GSIZE_TO_POINTER(page->at.addr),
                            GSIZE_TO_POINTER(page->frame.addr));
    return true;
}

// The whole vdso, the rest of it from the kernel's image: pages that nobody touched are in no page
// table.
static bool want_vdso(struct mapping *m, GError **error)
{
    g_autoptr(GHashTable) own = g_hash_table_new(NULL, NULL);
    g_auto(IntroReader) r = INTRO_READER(m->c->k);
    struct gva image = rd_ptr(&r, m->mm, M_mm_context_vdso_image);
    struct gva data = rd_ptr(&r, image, M_vdso_image_data);
    uint64_t size = rd(&r, image, M_vdso_image_size);

    m->own = own;
    if (!rd_done(&r, error) || !walk_pages(m, note_own, error))
        return false;
    size = MIN(size, m->rec->end - m->rec->start) & VMM_PAGE_MASK;
    for (uint64_t at = 0; at < size; at += VMM_PAGE_BYTES) {
        struct gpa frame =
            GPA(GPOINTER_TO_SIZE(g_hash_table_lookup(own, GSIZE_TO_POINTER(m->rec->start + at))));
        if (!frame.addr && !intro_kernel_translate(m->c->k, GVA(data.addr + at), &frame, error))
            return false;
        intro_pages_want(m->c->pages, m->rec->mm, m->rec->start + at, frame, VMM_PAGE_BYTES,
                         FMT_PAGES_DATA);
    }
    return true;
}

static bool capture_special(struct mapping *m, GError **error)
{
    g_autofree char *name = special_name(m, error);

    if (!name)
        return false;
    if (strcmp(name, "[vdso]") == 0) {
        m->rec->kind = FMT_VMA_VDSO;
        if (!want_vdso(m, error))
            return false;
    } else if (g_str_has_prefix(name, "[vvar")) {
        m->rec->kind = FMT_VMA_VVAR; // [vvar], since 6.13 also [vvar_vclock]
    } else {
        intro_refuse(m->c, "special-mapping",
                     "has the kernel mapping %s at %" G_GINT64_MODIFIER "x", name, m->rec->start);
    }
    m->rec->name = g_steal_pointer(&name);
    return true;
}

// The name that PR_SET_VMA_ANON_NAME gave, since 5.17; shared memory may have one since 6.2:
// before, the member shared its place with the rb node of file mappings.
static bool read_anon_name(struct mapping *m, GError **error)
{
    IntroKernel *k = m->c->k;
    struct gva name;

    if (!intro_has(k, M_vma_anon_name) ||
        (m->file.addr &&
         intro_place(k, M_vma_anon_name)->offset == intro_place(k, M_vma_shared_rb)->offset))
        return true;
    if (!intro_get_ptr(k, m->vma, M_vma_anon_name, &name, error))
        return false;
    return !name.addr || (m->rec->name = intro_read_str(
                              k, intro_member_addr(k, name, M_anon_name_name), 80, error));
}

static bool capture_anon(struct mapping *m, GError **error)
{
    m->rec->kind = FMT_VMA_ANON;
    m->inherited = m->c->cow && !(m->rec->flags & FMT_VMA_DROPPABLE);
    return read_anon_name(m, error) && walk_pages(m, want_page, error);
}

// mmap_zero (drivers/char/mem.c) makes a private mapping of /dev/zero an anonymous one, without
// operations.
static bool is_dev_zero(struct mapping *m, const struct fmt_file *file, bool *ret, GError **error)
{
    const struct fmt_inode *inode = fmt_image_by_ref(m->c->img, file->object, FMT_INODE);
    struct gva ops;

    if (!intro_get_ptr(m->c->k, m->vma, M_vma_ops, &ops, error))
        return false;
    *ret = inode && inode->rdev == DEV_ZERO && !ops.addr;
    return true;
}

static bool capture_file(struct mapping *m, GError **error)
{
    if (!(m->rec->object = intro_file(m->c, m->file, error)))
        return false;

    const struct fmt_file *file = fmt_image_by_ref(m->c->img, m->rec->object, FMT_FILE);
    if (file->kind == FMT_FILE_CHR) {
        bool dev_zero;
        if (!is_dev_zero(m, file, &dev_zero, error))
            return false;
        if (dev_zero) {
            m->rec->kind = FMT_VMA_FILE;
            return walk_pages(m, want_page, error);
        }
        intro_refuse(m->c, "device-mapping", "maps the device %s at %" G_GINT64_MODIFIER "x",
                     file->path ? file->path : "?", m->rec->start);
        return true;
    }
    if (file->kind != FMT_FILE_REG) {
        intro_refuse(m->c, "mapping", "maps %s at %" G_GINT64_MODIFIER "x, which is no file",
                     file->path ? file->path : "something", m->rec->start);
        return true;
    }
    m->rec->kind = FMT_VMA_FILE;
    m->inherited = m->c->cow && !(m->vm_flags & VM_SHARED);
    const uint64_t start = m->rec->offset_bytes, end = start + (m->rec->end - m->rec->start);
    if (!walk_pages(m, m->vm_flags & VM_SHARED ? want_written_page : want_page, error) ||
        !intro_pagecache(m->c, m->inode, file->object, start, end, FMT_PAGES_CLEAN, error))
        return false;
    return file->deleted || intro_program_mapped(m->c, m->file, file->object, start, end,
                                                 m->rec->flags & FMT_VMA_EXEC, error);
}

static bool capture_shm(struct mapping *m, GError **error)
{
    if (!(m->rec->object = intro_shm(m->c, m->inode, error)))
        return false;
    m->rec->kind = FMT_VMA_SHM;
    if (!read_anon_name(m, error))
        return false;
    // A private mapping of a memfd has pages of its own beside the shared ones.
    return m->vm_flags & VM_SHARED || walk_pages(m, want_page, error);
}

// What somebody else watches over or what the CPU does.
static bool check_watched(struct mapping *m, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(m->c->k);
    struct gva uffd = GVA(rd_opt(&r, m->vma, M_vma_uffd, 0));

    if (rd_opt(&r, m->vma, M_vma_policy, 0))
        intro_note(m->c, FMT_NOTE_LOSS, "mempolicy",
                   "the NUMA policy of its memory at %" G_GINT64_MODIFIER "x does not go along",
                   m->rec->start);
    if (!rd_done(&r, error))
        return false;
    if (uffd.addr)
        intro_refuse(m->c, "userfaultfd", "has a userfaultfd registered at %" G_GINT64_MODIFIER "x",
                     m->rec->start);
    else if (m->vm_flags & VM_SHADOW_STACK)
        intro_refuse(m->c, "shadow-stack", "has a shadow stack at %" G_GINT64_MODIFIER "x",
                     m->rec->start);
    return true;
}

static bool refuse_open_file(struct intro_ctx *c, struct gva file, uint64_t ref, GError **error)
{
    (void)ref;
    return intro_file(c, file, error) != 0;
}

// The rings of an io_uring are refused as what they are, which a descriptor of it may have said.
static bool refuse_device(struct mapping *m, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(m->c->k);
    struct gva dentry = m->file.addr ? rd_ptr(&r, m->file, M_file_path_dentry) : GVA(0);

    if (!rd_done(&r, error))
        return false;
    g_autofree char *name = dentry.addr ? intro_dentry_name(m->c->k, dentry, error) : g_strdup("");
    if (!name)
        return false;
    if (strcmp(name, "[io_uring]") == 0)
        intro_later(m->c, refuse_open_file, m->file, 0);
    else
        intro_refuse(m->c, "device-mapping", "maps device memory at %" G_GINT64_MODIFIER "x",
                     m->rec->start);
    return true;
}

static bool capture_kind(struct mapping *m, GError **error)
{
    bool special, shm;

    if (!is_special(m, &special, error))
        return false;
    if (special)
        return capture_special(m, error);
    if (m->vm_flags & (VM_PFNMAP | VM_IO | VM_MIXEDMAP))
        return refuse_device(m, error);
    if (!check_watched(m, error))
        return false;
    if (!m->file.addr)
        return capture_anon(m, error);
    if (!intro_is_shm(m->c, m->inode, &shm, error))
        return false;
    if (shm)
        return capture_shm(m, error);
    if (m->vm_flags & VM_HUGETLB) {
        intro_refuse(m->c, "hugetlb", "maps a file of a hugetlbfs mount at %" G_GINT64_MODIFIER "x",
                     m->rec->start);
        return true;
    }
    return capture_file(m, error);
}

bool intro_mapping(struct intro_ctx *c, struct gva vma, struct gva mm, uint64_t mm_ref,
                   GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct mapping m = {.c = c, .vma = vma, .mm = mm};

    m.vm_flags = rd(&r, vma, M_vma_flags);
    m.file = rd_ptr(&r, vma, M_vma_file);
    uint64_t start = rd(&r, vma, M_vma_start), end = rd(&r, vma, M_vma_end);
    uint64_t pgoff = rd(&r, vma, M_vma_pgoff);
    if (m.file.addr)
        m.inode = rd_ptr(&r, m.file, M_file_inode);
    if (!rd_done(&r, error))
        return false;
    if (end <= start || (start | end) & ~VMM_PAGE_MASK || end > 1ull << 56) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "vm_area_struct at %" G_GINT64_MODIFIER "x: range %" G_GINT64_MODIFIER
                    "x-%" G_GINT64_MODIFIER "x",
                    vma.addr, start, end);
        return false;
    }

    m.rec = fmt_image_add(c->img, FMT_VMA);
    m.rec->mm = mm_ref;
    m.rec->start = start;
    m.rec->end = end;
    m.rec->flags = intro_vma_flags(m.vm_flags);
    m.rec->pkey = m.vm_flags >> VM_PKEY_SHIFT & 0xf;
    m.rec->offset_bytes = m.file.addr ? pgoff << VMM_PAGE_SHIFT : 0;
    intro_pages_part(c->pages);
    bool ok = capture_kind(&m, error);
    g_clear_error(&m.error);
    return ok;
}
