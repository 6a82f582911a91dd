// SPDX-License-Identifier: GPL-2.0-or-later
// Addresses of the kernel and of its processes: translation and reading.
#include <inttypes.h>
#include <string.h>

#include "introspect/kernel_private.h"

/*
 * Three parts of the kernel's address space are known by arithmetic: its image (by phys_base), the
 * direct map of all RAM and the array of struct page. Everything else walks init_top_pgt. CR3 would
 * not do: under page table isolation the table that a CPU has loaded may map almost no kernel.
 *
 * Documentation/arch/x86/x86_64/mm.rst
 */
#define IMAGE_MAP       0xffffffff80000000ull // __START_KERNEL_map
#define IMAGE_MAP_BYTES (1ull << 30)          // KERNEL_IMAGE_SIZE with KASLR; modules follow

// Where the maps are with RANDOMIZE_MEMORY off, for 4 and 5 levels.
#define DIRECT_MAP_4 0xffff888000000000ull
#define DIRECT_MAP_5 0xff11000000000000ull
#define VMEMMAP_4    0xffffea0000000000ull
#define VMEMMAP_5    0xffd4000000000000ull

void intro_address_init(IntroKernel *k, VmmMemory *mem, const IntroVmcoreinfo *info)
{
    size_t n;
    const struct vmm_ram_range *ranges = vmm_memory_ranges(mem, &n);

    k->frames = intro_frames_new(mem);
    k->pause = 1;
    k->info.phys_base = info->phys_base;
    k->info.kaslr_bytes = info->kaslr_bytes;
    k->info.page_levels = info->page_levels;
    k->image_start = IMAGE_MAP;
    k->image_end = IMAGE_MAP + IMAGE_MAP_BYTES;
    k->page_table = (struct intro_page_table){
        .frames = k->frames,
        .levels = info->page_levels,
        .frame_mask = intro_frame_mask(info->sme_mask),
    };
    k->top_table = GPA(info->init_top_pgt - IMAGE_MAP + info->phys_base);
    for (size_t i = 0; i < n; i++)
        k->ram_end = MAX(k->ram_end, ranges[i].start.addr + ranges[i].size_bytes);
}

// A variable that RANDOMIZE_MEMORY makes of a constant.
static bool read_base(IntroKernel *k, const char *name, uint64_t constant, uint64_t *ret,
                      GError **error)
{
    struct gva at;

    *ret = constant;
    return !intro_symbol(k, name, &at, NULL) || intro_read_u64(k, at, ret, error);
}

bool intro_address_find_maps(IntroKernel *k, GError **error)
{
    bool five = k->page_table.levels == 5;
    uint64_t direct_map, vmemmap;
    struct gva at;

    if (!read_base(k, "page_offset_base", five ? DIRECT_MAP_5 : DIRECT_MAP_4, &direct_map, error) ||
        !read_base(k, "vmemmap_base", five ? VMEMMAP_5 : VMEMMAP_4, &vmemmap, error))
        return false;
    if (direct_map & ~VMM_PAGE_MASK || direct_map >> 63 == 0 || vmemmap >> 63 == 0) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "the direct map at 0x%" PRIx64 " or struct page at 0x%" PRIx64
                    " is no kernel address",
                    direct_map, vmemmap);
        return false;
    }
    k->direct_map = direct_map;
    k->vmemmap = vmemmap;
    if (intro_symbol(k, "_text", &at, NULL))
        k->image_start = at.addr;
    if (intro_symbol(k, "_end", &at, NULL))
        k->image_end = at.addr;
    return true;
}

void intro_kernel_new_pause(IntroKernel *k)
{
    intro_frames_forget(k->frames);
    k->pause++;
}

/* ---- translation ---- */

static bool walk_kernel(IntroKernel *k, struct gva at, struct gpa *ret, GError **error)
{
    uint64_t page_at = at.addr & VMM_PAGE_MASK;
    struct intro_tlb_slot *slot = &k->tlb[(at.addr >> VMM_PAGE_SHIFT) % INTRO_TLB_SLOTS];
    struct intro_user_page page;
    bool present;

    if (slot->pause != k->pause || slot->page != page_at) {
        if (!intro_page_table_lookup(&k->page_table, k->top_table, at, &page, &present, error))
            return false;
        if (!present || !(page.entry & 1)) {
            g_set_error(error, INTRO_ERROR, INTRO_ERROR_FAULT,
                        "kernel address 0x%" PRIx64 " is not mapped", at.addr);
            return false;
        }
        *slot = (struct intro_tlb_slot){
            .page = page_at,
            .pause = k->pause,
            .frame = GPA(page.frame.addr + (page_at & (page.size_bytes - 1))),
        };
    }
    *ret = GPA(slot->frame.addr + (at.addr - page_at));
    return true;
}

static bool is_canonical(const IntroKernel *k, uint64_t at)
{
    unsigned unused = 64 - (VMM_PAGE_SHIFT + 9 * k->page_table.levels);

    return (uint64_t)((int64_t)(at << unused) >> unused) == at;
}

// Translates, and says how many bytes from there on are contiguous in physical memory.
static bool translate_run(IntroKernel *k, struct gva at, struct gpa *ret, uint64_t *ret_run,
                          GError **error)
{
    if (at.addr >= k->image_start && at.addr < k->image_end) {
        *ret = GPA(at.addr - IMAGE_MAP + k->info.phys_base);
        *ret_run = k->image_end - at.addr;
        return true;
    }
    if (k->direct_map && at.addr >= k->direct_map && at.addr - k->direct_map < k->ram_end) {
        *ret = GPA(at.addr - k->direct_map);
        *ret_run = k->ram_end - ret->addr;
        return true;
    }
    if (at.addr >> 63 == 0 || !is_canonical(k, at.addr)) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_FAULT,
                    "0x%" PRIx64 " is not an address of the kernel", at.addr);
        return false;
    }
    *ret_run = VMM_PAGE_BYTES - (at.addr & ~VMM_PAGE_MASK);
    return walk_kernel(k, at, ret, error);
}

bool intro_kernel_translate(IntroKernel *k, struct gva at, struct gpa *ret, GError **error)
{
    uint64_t run;

    return translate_run(k, at, ret, &run, error);
}

struct gva intro_direct_map(const IntroKernel *k, struct gpa at)
{
    return GVA(k->direct_map + at.addr);
}

bool intro_page_to_pfn(IntroKernel *k, struct gva page, uint64_t *ret, GError **error)
{
    uint32_t stride = intro_sizeof(k, T_page);
    uint64_t offset = page.addr - k->vmemmap;

    if (page.addr < k->vmemmap || offset % stride ||
        offset / stride >= k->ram_end >> VMM_PAGE_SHIFT) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "0x%" PRIx64 " is not the address of a struct page", page.addr);
        return false;
    }
    *ret = offset / stride;
    return true;
}

struct gva intro_pfn_to_page(const IntroKernel *k, uint64_t pfn)
{
    return GVA(k->vmemmap + pfn * intro_sizeof(k, T_page));
}

// From there on nothing but the kernel's image and modules has an address, and every mask is there.
#define FIRST_HEAD_MASK (~UINT64_C(0) << 32)

// compound_head is the head's address, with bit 0 set; since 7.1 it may be a mask of the page's
// address instead (compound_info_has_mask()).
bool intro_page_head(IntroKernel *k, struct gva page, struct gva *ret, GError **error)
{
    uint64_t info;

    if (!intro_get(k, page, M_page_compound_head, &info, error))
        return false;
    if (!(info & 1))
        *ret = page;
    else
        *ret = GVA(info >= FIRST_HEAD_MASK ? page.addr & info : info - 1);
    return true;
}

/* ---- reading ---- */

// As far as one page and one contiguous piece goes.
static bool read_piece(IntroKernel *k, struct gva at, uint8_t *ret, size_t max, size_t *ret_len,
                       GError **error)
{
    struct gpa from;
    uint64_t run;

    if (!translate_run(k, at, &from, &run, error))
        return false;
    // A long piece goes in one copy. Where that fails, page by page finds the first bad address.
    *ret_len = MIN(run, max);
    if (*ret_len > VMM_PAGE_BYTES && intro_frames_read(k->frames, from, ret, *ret_len, NULL))
        return true;
    *ret_len = MIN(*ret_len, VMM_PAGE_BYTES - (at.addr & ~VMM_PAGE_MASK));
    if (intro_frames_read(k->frames, from, ret, *ret_len, error))
        return true;
    g_prefix_error(error, "kernel address 0x%" PRIx64 ": ", at.addr);
    return false;
}

bool intro_read(IntroKernel *k, struct gva at, void *ret, size_t len, GError **error)
{
    uint8_t *to = ret;
    size_t n;

    for (; len > 0; at.addr += n, to += n, len -= n) {
        if (!read_piece(k, at, to, len, &n, error))
            return false;
    }
    return true;
}

bool intro_read_u32(IntroKernel *k, struct gva at, uint32_t *ret, GError **error)
{
    uint32_t v;

    if (!intro_read(k, at, &v, sizeof(v), error))
        return false;
    *ret = GUINT32_FROM_LE(v);
    return true;
}

bool intro_read_u64(IntroKernel *k, struct gva at, uint64_t *ret, GError **error)
{
    uint64_t v;

    if (!intro_read(k, at, &v, sizeof(v), error))
        return false;
    *ret = GUINT64_FROM_LE(v);
    return true;
}

bool intro_read_ptr(IntroKernel *k, struct gva at, struct gva *ret, GError **error)
{
    return intro_read_u64(k, at, &ret->addr, error);
}

char *intro_read_str(IntroKernel *k, struct gva at, size_t max, GError **error)
{
    g_autoptr(GString) text = g_string_new(NULL);

    // The page behind the string's end need not be mapped, so never read past it.
    while (text->len <= max) {
        size_t n = MIN(max + 1 - text->len, VMM_PAGE_BYTES - (at.addr & ~VMM_PAGE_MASK)), got;
        size_t start = text->len;

        g_string_set_size(text, start + n);
        if (!read_piece(k, at, (uint8_t *)text->str + start, n, &got, error))
            return NULL;
        if (memchr(text->str + start, '\0', got))
            return g_strdup(text->str);
        g_string_truncate(text, start + got);
        at.addr += got;
    }
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                "the string that ends at 0x%" PRIx64 " is longer than %zu bytes", at.addr, max);
    return NULL;
}

/* ---- user memory ---- */

bool intro_walk_user(IntroKernel *k, struct gva pgd, struct gva start, struct gva end,
                     intro_user_page_fn fn, void *user, GError **error)
{
    struct gpa root;

    return intro_kernel_translate(k, pgd, &root, error) &&
           intro_page_table_walk(&k->page_table, root, start, end, fn, user, error);
}

void intro_kernel_set_swap(IntroKernel *k, intro_swap_fn fn, void *user)
{
    k->swap = fn;
    k->swap_user = user;
}

static bool read_swapped(IntroKernel *k, const struct intro_user_page *page, uint64_t offset,
                         uint8_t *ret, size_t len, GError **error)
{
    uint8_t data[VMM_PAGE_BYTES];

    if (!k->swap(k->swap_user, page->entry, data, error)) {
        g_prefix_error(error, "user address 0x%" PRIx64 " ", page->at.addr + offset);
        return false;
    }
    memcpy(ret, data + offset, len);
    return true;
}

static bool read_user_piece(IntroKernel *k, struct gpa root, struct gva at, uint8_t *ret,
                            size_t max, size_t *ret_len, GError **error)
{
    struct intro_user_page page;
    uint64_t offset;
    bool present;

    if (!intro_page_table_lookup(&k->page_table, root, at, &page, &present, error))
        return false;
    offset = at.addr - page.at.addr;
    *ret_len = MIN(max, page.size_bytes - offset);
    if (!present && k->swap && intro_page_is_swapped(&page))
        return read_swapped(k, &page, offset, ret, *ret_len, error);
    if (!present || !page.is_ram) {
        g_set_error(error, INTRO_ERROR, present ? INTRO_ERROR_FAULT : INTRO_ERROR_NOT_PRESENT,
                    "user address 0x%" PRIx64 " %s (page table entry 0x%" PRIx64 ")", at.addr,
                    present ? "is a device's memory" : "is not in memory", page.entry);
        return false;
    }
    if (intro_frames_read(k->frames, GPA(page.frame.addr + offset), ret, *ret_len, error))
        return true;
    g_prefix_error(error, "user address 0x%" PRIx64 ": ", at.addr);
    return false;
}

bool intro_read_user(IntroKernel *k, struct gva pgd, struct gva at, void *ret, size_t len,
                     GError **error)
{
    uint64_t user_end = 1ull << (VMM_PAGE_SHIFT + 9 * k->page_table.levels - 1);
    uint8_t *to = ret;
    struct gpa root;
    size_t n;

    if (at.addr > user_end || len > user_end - at.addr) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_FAULT,
                    "0x%" PRIx64 " is not an address of a process", at.addr);
        return false;
    }
    if (!intro_kernel_translate(k, pgd, &root, error))
        return false;
    for (; len > 0; at.addr += n, to += n, len -= n) {
        if (!read_user_piece(k, root, at, to, len, &n, error))
            return false;
    }
    return true;
}
