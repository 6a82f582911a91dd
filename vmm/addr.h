// SPDX-License-Identifier: GPL-2.0-or-later
// The three kinds of address vmgraft meets, as types the compiler tells apart.
#pragma once

#include <stdint.h>

// Guest physical address: an offset into the machine's physical address space.
struct gpa {
    uint64_t addr;
};

// Guest virtual address: meaningless without the page tables it belongs to.
struct gva {
    uint64_t addr;
};

// Host virtual address, in the address space of the QEMU process (not in ours).
struct hva {
    uint64_t addr;
};

#define GPA(x) ((struct gpa){.addr = (x)})
#define GVA(x) ((struct gva){.addr = (x)})
#define HVA(x) ((struct hva){.addr = (x)})

#define VMM_PAGE_SHIFT 12
#define VMM_PAGE_BYTES 4096u
#define VMM_PAGE_MASK  (~(uint64_t)(VMM_PAGE_BYTES - 1))
