// SPDX-License-Identifier: GPL-2.0-or-later
// What an IntroKernel is made of. Only for the files behind kernel.h and layout.h, and orc.c.
#pragma once

#include "introspect/frames.h"
#include "introspect/kallsyms.h"
#include "introspect/kernel.h"
#include "introspect/pagetable.h"
#include "introspect/types.h"
#include "introspect/vmcoreinfo.h"

#define INTRO_TLB_SLOTS 1024

// A page of kernel memory that was found by a walk (vmalloc, modules, per-CPU), for one pause.
struct intro_tlb_slot {
    uint64_t page; // gva
    uint64_t pause;
    struct gpa frame;
};

// What the unwind tables call the registers (ORC_REG_*), 0 where that is not known.
struct intro_orc_regs {
    uint8_t sp, bp, prev_sp, bp_indirect;
};

struct IntroKernel {
    IntroFrames *frames;
    struct intro_kernel_info info; // its strings are ours
    char *release, *version, *machine, *types_from;

    struct intro_page_table page_table;
    struct gpa top_table;            // init_top_pgt
    uint64_t image_start, image_end; // gva; the image is contiguous in physical memory
    uint64_t direct_map, vmemmap;    // gva where they start; 0 until they are known
    uint64_t ram_end;                // gpa behind the last byte of RAM
    uint64_t pause;
    struct intro_tlb_slot tlb[INTRO_TLB_SLOTS];

    IntroKallsyms *symbols;
    struct intro_layout layout;

    unsigned n_cpus;
    uint64_t *percpu_offsets; // __per_cpu_offset, n_cpus of them
    struct intro_orc_regs orc_regs;

    intro_swap_fn swap; // may be NULL
    void *swap_user;
};

// address.c: translation and reading.
void intro_address_init(IntroKernel *k, VmmMemory *mem, const IntroVmcoreinfo *info);
bool intro_address_find_maps(IntroKernel *k, GError **error); // needs symbols

// orc.c: fills orc_regs; needs symbols and layout.
void intro_orc_learn(IntroKernel *k);
