// SPDX-License-Identifier: GPL-2.0-or-later
// Feeds page tables: a byte of how to walk, then entries {page, index, entry} put into 64 pages.
#include "introspect/pagetable.h"

#include <string.h>

#include "fuzz.h"

#define N_PAGES    64
#define MAX_LEAVES 20000

struct fuzz_entry {
    uint8_t page, pad;
    uint16_t index;
    uint64_t entry;
} __attribute__((packed));

static bool count(const struct intro_user_page *page, bool present, void *user)
{
    return ++*(unsigned *)user < MAX_LEAVES;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree uint8_t *ram = g_malloc0(N_PAGES * VMM_PAGE_BYTES);
    struct vmm_ram_range range = {.size_bytes = N_PAGES * VMM_PAGE_BYTES};
    const void *bytes = ram;
    g_autoptr(VmmMemory) mem = vmm_memory_new_from_buffers(&range, &bytes, 1, NULL, NULL);
    g_autoptr(IntroFrames) frames = intro_frames_new(mem);
    struct intro_page_table pt = {.frames = frames, .levels = 4};
    struct intro_user_page page;
    struct fuzz_entry e;
    unsigned n = 0;
    bool present;

    if (size == 0)
        return 0;
    pt.levels += data[0] & 1;
    pt.frame_mask = intro_frame_mask(data[0] & 2 ? 1ull << 47 : 0);
    for (size_t at = 1; size - at >= sizeof(e); at += sizeof(e)) {
        memcpy(&e, data + at, sizeof(e));
        memcpy(ram + e.page % N_PAGES * VMM_PAGE_BYTES + e.index % 512 * 8, &e.entry, 8);
    }
    intro_page_table_walk(&pt, GPA(0), GVA(0), GVA(1ull << 47), count, &n, NULL);
    intro_page_table_lookup(&pt, GPA(0), GVA(0x7fffdeadb000), &page, &present, NULL);
    intro_page_table_lookup(&pt, GPA(0), GVA(0), &page, &present, NULL);
    return 0;
}
