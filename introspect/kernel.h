// SPDX-License-Identifier: GPL-2.0-or-later
// The guest's kernel, found in its memory without symbols: address translation, symbols, types.
#pragma once

#include <glib.h>

#include "introspect/layout.h"
#include "vmm/memory.h"

/*
 * An IntroKernel is what stays true while one kernel runs: where it was loaded, its page table
 * root, its symbols (kallsyms), its types (BTF) and the offsets of the members in layout.def.
 * Finding it takes no pause: none of this changes after boot. What a running guest may change under
 * us is read through the same functions, while the machine is paused.
 *
 * Every error is in INTRO_ERROR and names the object and its address; only a host that cannot read
 * guest memory any more (QEMU is gone) shows through as VMM_MEMORY_ERROR_IO.
 */
typedef struct IntroKernel IntroKernel;

#define INTRO_ERROR (intro_error_quark())
GQuark intro_error_quark(void);

enum intro_error {
    INTRO_ERROR_NO_KERNEL,   // no running Linux was recognised (not Linux, or still booting)
    INTRO_ERROR_NO_TYPES,    // the kernel has no BTF (and no layout profile was given)
    INTRO_ERROR_LAYOUT,      // a member that layout.def requires is not in this kernel
    INTRO_ERROR_FAULT,       // a guest virtual address is not mapped, or has no RAM behind it
    INTRO_ERROR_NOT_PRESENT, // a page of a process is not in memory (never touched)
    INTRO_ERROR_SWAPPED,     // it is swapped out, to where nobody can read it
    INTRO_ERROR_CORRUPT,     // guest memory contradicts itself: loop, length out of bounds ...
    INTRO_ERROR_UNSUPPORTED, // read well, but nothing that we know how to carry
    INTRO_ERROR_BUSY,        // a lock that guards what is read is held: resume and try again
    INTRO_ERROR_NOT_FOUND,   // no such process, symbol ...
    INTRO_ERROR_HOST,        // this host lacks the memory for it
};

struct intro_kernel_info {
    const char *release;    // uts release, as OSRELEASE= says; borrowed from the kernel
    const char *version;    // uts version ("#1 SMP ...")
    const char *machine;    // "x86_64"
    uint64_t phys_base;     // two's complement: may be negative
    uint64_t kaslr_bytes;   // KERNELOFFSET
    unsigned page_levels;   // 4 or 5
    const char *types_from; // "btf" or the path of the layout profile
};

// Finds the kernel in mem. profile_path may be NULL; else a JSON layout profile for kernels without
// BTF. mem is referenced for as long as the kernel lives.
IntroKernel *intro_kernel_find(VmmMemory *mem, const char *profile_path, GError **error);
void intro_kernel_free(IntroKernel *k); // NULL-safe
G_DEFINE_AUTOPTR_CLEANUP_FUNC(IntroKernel, intro_kernel_free)

const struct intro_kernel_info *intro_kernel_info(const IntroKernel *k);
VmmMemory *intro_kernel_memory(IntroKernel *k); // borrowed

// Forgets cached pages and translations of memory that may change: call at every pause.
void intro_kernel_new_pause(IntroKernel *k);

/* ---- kernel memory ---- */

// Reads kernel virtual memory (direct map, image, vmalloc, per-CPU). INTRO_ERROR_FAULT carries
// the first address that cannot be read. Small reads come from a per-pause cache of pages.
bool intro_read(IntroKernel *k, struct gva at, void *ret, size_t len, GError **error);

// Little-endian scalars.
bool intro_read_u32(IntroKernel *k, struct gva at, uint32_t *ret, GError **error);
bool intro_read_u64(IntroKernel *k, struct gva at, uint64_t *ret, GError **error);
bool intro_read_ptr(IntroKernel *k, struct gva at, struct gva *ret, GError **error);

// A NUL-terminated string of at most max bytes (NUL not counted); CORRUPT where it is longer.
char *intro_read_str(IntroKernel *k, struct gva at, size_t max, GError **error);

// Translates a kernel virtual address.
bool intro_kernel_translate(IntroKernel *k, struct gva at, struct gpa *ret, GError **error);

// The kernel virtual address of a physical page in the direct map, and of the struct page of a
// frame.
struct gva intro_direct_map(const IntroKernel *k, struct gpa at);
// pfn of a struct page in vmemmap; CORRUPT where it lies outside or is not aligned.
bool intro_page_to_pfn(IntroKernel *k, struct gva page, uint64_t *ret, GError **error);
struct gva intro_pfn_to_page(const IntroKernel *k, uint64_t pfn);
// The first page of the folio that a page is of.
bool intro_page_head(IntroKernel *k, struct gva page, struct gva *ret, GError **error);

/* ---- symbols ---- */

// kallsyms, all of it: functions and data. NOT_FOUND where there is none of that name.
bool intro_symbol(const IntroKernel *k, const char *name, struct gva *ret, GError **error);
bool intro_has_symbol(const IntroKernel *k, const char *name);
// The symbol that holds this address: the greatest not above it, the first of several at one place.
// NULL outside of the kernel image (modules have symbol tables of their own, which are not read);
// *ret_offset (may be NULL) is the distance. Borrowed from the kernel.
const char *intro_symbol_at(const IntroKernel *k, struct gva at, uint64_t *ret_offset);
// The address of a per-CPU variable on one CPU.
bool intro_percpu(IntroKernel *k, const char *name, unsigned cpu, struct gva *ret, GError **error);
// nr_cpu_ids: the ids of all CPUs, online or not yet plugged in, are below this.
unsigned intro_n_cpus(const IntroKernel *k);
bool intro_cpu_is_online(IntroKernel *k, unsigned cpu, bool *ret, GError **error);

/* ---- user memory ---- */

// One mapped piece of a user address space.
struct intro_user_page {
    struct gva at;       // page aligned to size_bytes
    struct gpa frame;    // its physical address
    uint64_t size_bytes; // 4 KiB, 2 MiB or 1 GiB
    uint64_t entry;      // the raw page table entry: writable, dirty, PAT, protection key ...
    bool is_ram;         // all of the frame is guest RAM; false for a device's memory
};

// Called for each leaf entry that meets [start, end), in order of address: a huge page may begin
// before start and end behind end. `present` is as the kernel means it: a page under PROT_NONE is
// present although the MMU may not use it (bit 0 of `entry` is clear then). It is false for an
// entry that is neither empty nor present (swap, migration, marker ...): then frame is meaningless
// and `entry` tells. Return false to end the walk early.
typedef bool (*intro_user_page_fn)(const struct intro_user_page *page, bool present, void *user);

// Walks the page tables below pgd (kernel virtual address, mm_struct.pgd). Empty parts cost
// nothing.
bool intro_walk_user(IntroKernel *k, struct gva pgd, struct gva start, struct gva end,
                     intro_user_page_fn fn, void *user, GError **error);

// Reads user memory that is mapped; NOT_PRESENT where a page is not, SWAPPED where it is known that
// it cannot be had.
bool intro_read_user(IntroKernel *k, struct gva pgd, struct gva at, void *ret, size_t len,
                     GError **error);

// Entries that are neither empty nor present (include/linux/swap.h) have a type in their top bits;
// those below the first special one are swap areas.
#define INTRO_PTE_TYPE_SHIFT   59
#define INTRO_PTE_TYPE_SPECIAL 23
static inline bool intro_page_is_swapped(const struct intro_user_page *page)
{
    return page->entry && page->size_bytes == VMM_PAGE_BYTES &&
           page->entry >> INTRO_PTE_TYPE_SHIFT < INTRO_PTE_TYPE_SPECIAL;
}

// Who knows where the page is that such an entry stands for; NULL for nobody.
typedef bool (*intro_swap_fn)(void *user, uint64_t entry, uint8_t ret[VMM_PAGE_BYTES],
                              GError **error);
void intro_kernel_set_swap(IntroKernel *k, intro_swap_fn fn, void *user);
