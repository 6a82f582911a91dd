// SPDX-License-Identifier: GPL-2.0-or-later
// The cache of guest pages that a pause is worth.
#include "introspect/frames.h"

#include <inttypes.h>
#include <string.h>

#include "introspect/kernel.h"

#define N_SLOTS 4096 // 16 MiB

struct slot {
    uint64_t page;  // guest physical
    uint64_t pause; // valid where it equals IntroFrames.pause
    uint8_t *bytes; // VMM_PAGE_BYTES, allocated at first use
};

struct IntroFrames {
    VmmMemory *mem;
    uint64_t pause; // counts from 1
    struct slot slots[N_SLOTS];
};

IntroFrames *intro_frames_new(VmmMemory *mem)
{
    IntroFrames *frames = g_new0(IntroFrames, 1);

    frames->mem = vmm_memory_ref(mem);
    frames->pause = 1;
    return frames;
}

void intro_frames_free(IntroFrames *frames)
{
    if (!frames)
        return;
    for (size_t i = 0; i < N_SLOTS; i++)
        g_free(frames->slots[i].bytes);
    vmm_memory_unref(frames->mem);
    g_free(frames);
}

VmmMemory *intro_frames_memory(IntroFrames *frames)
{
    return frames->mem;
}

void intro_frames_forget(IntroFrames *frames)
{
    frames->pause++;
}

bool intro_frames_is_ram(const IntroFrames *frames, struct gpa at, uint64_t len)
{
    size_t n;
    const struct vmm_ram_range *r = vmm_memory_ranges(frames->mem, &n);

    for (size_t i = 0; i < n; i++) {
        if (at.addr >= r[i].start.addr && at.addr - r[i].start.addr < r[i].size_bytes)
            return len <= r[i].size_bytes - (at.addr - r[i].start.addr);
    }
    return false;
}

// The host's error in our own domain, where it is about the guest.
static void set_read_error(GError *cause, struct gpa at, GError **error)
{
    if (g_error_matches(cause, VMM_MEMORY_ERROR, VMM_MEMORY_ERROR_FAULT)) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_FAULT, "the guest has no RAM at 0x%" PRIx64,
                    at.addr);
        g_error_free(cause);
        return;
    }
    g_propagate_error(error, cause);
}

const uint8_t *intro_frames_get(IntroFrames *frames, struct gpa at, GError **error)
{
    const uint8_t *bytes = vmm_memory_peek(frames->mem, at, VMM_PAGE_BYTES);
    struct slot *slot = &frames->slots[(at.addr >> VMM_PAGE_SHIFT) % N_SLOTS];
    GError *cause = NULL;

    if (bytes)
        return bytes;
    if (slot->pause == frames->pause && slot->page == at.addr)
        return slot->bytes;
    if (!slot->bytes)
        slot->bytes = g_malloc(VMM_PAGE_BYTES);
    slot->pause = 0;
    if (!vmm_memory_read(frames->mem, at, slot->bytes, VMM_PAGE_BYTES, &cause)) {
        set_read_error(cause, at, error);
        return NULL;
    }
    slot->page = at.addr;
    slot->pause = frames->pause;
    return slot->bytes;
}

bool intro_frames_read(IntroFrames *frames, struct gpa at, void *ret, size_t len, GError **error)
{
    uint8_t *to = ret;
    GError *cause = NULL;

    if (len > VMM_PAGE_BYTES) {
        if (vmm_memory_read(frames->mem, at, ret, len, &cause))
            return true;
        set_read_error(cause, at, error);
        return false;
    }
    while (len > 0) {
        uint64_t offset = at.addr & ~VMM_PAGE_MASK;
        size_t n = MIN(len, VMM_PAGE_BYTES - offset);
        const uint8_t *bytes = intro_frames_get(frames, GPA(at.addr - offset), error);

        if (!bytes)
            return false;
        memcpy(to, bytes + offset, n);
        to += n;
        at.addr += n;
        len -= n;
    }
    return true;
}
