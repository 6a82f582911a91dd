// SPDX-License-Identifier: GPL-2.0-or-later
// Vector state that the kernel keeps in memory: found, bounded, expanded.
#include "introspect/xsave.h"

#include <string.h>

#include "introspect/reader.h"

/*
 * struct fpu holds the XSAVE area in three places, depending on the release:
 *
 *   before 5.16   task->thread.fpu.state            (in place)
 *   5.16 .. 6.15  task->thread.fpu.fpstate->regs    (a pointer: AMX areas are allocated)
 *   since 6.16    the struct fpu lies right behind the task_struct
 *
 * With XSAVES the area is compacted: only the components of xcomp_bv, packed in order. Where
 * XSTATE_BV lacks a bit the component is in its initial state and its bytes are stale: they must
 * not be copied.
 *
 * On a CPU without XSAVE the area is what FXSAVE writes: the legacy region alone.
 */
#define LEGACY_BYTES   512
#define HEADER_BYTES   64
#define AREA_MIN_BYTES (LEGACY_BYTES + HEADER_BYTES)
#define AREA_MAX_BYTES 16384
#define XCOMP_COMPACT  (1ull << 63)
#define MXCSR_OFFSET   24
#define MXCSR_DEFAULT  0x1f80
#define FCW_DEFAULT    0x037f

bool intro_xsave_layout(IntroKernel *k, struct intro_xsave_layout *ret, GError **error)
{
    struct gva offsets, sizes;
    const uint32_t n = 19; // XFEATURE_MAX: up to and including the AMX tiles

    if (!intro_symbol(k, "xstate_offsets", &offsets, error) ||
        !intro_symbol(k, "xstate_sizes", &sizes, error))
        return false;
    memset(ret, 0, sizeof(*ret));
    ret->aligned = XFEATURE_TILE;
    for (uint32_t i = 2; i < n; i++) {
        if (!(XFEATURE_USER & 1ull << i))
            continue;
        if (!intro_read_u32(k, GVA(offsets.addr + 4 * i), &ret->offset[i], error) ||
            !intro_read_u32(k, GVA(sizes.addr + 4 * i), &ret->size[i], error))
            return false;
        // The kernel marks what the CPU lacks with -1 (offsets) and 0 or -1 (sizes).
        if (ret->offset[i] < AREA_MIN_BYTES || ret->offset[i] >= AREA_MAX_BYTES ||
            ret->size[i] == 0 || ret->size[i] > AREA_MAX_BYTES - ret->offset[i])
            ret->offset[i] = ret->size[i] = 0;
    }
    return true;
}

static uint64_t get_u64(const uint8_t *at)
{
    uint64_t value;

    memcpy(&value, at, sizeof(value));
    return GUINT64_FROM_LE(value);
}

static bool corrupt(GError **error, unsigned component)
{
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                "XSAVE area: component %u lies outside of it or has no known size", component);
    return false;
}

// Where component i is in the given area.
static bool find_component(const struct intro_xsave_layout *layout, uint64_t xcomp, unsigned i,
                           size_t *ret, GError **error)
{
    size_t at = AREA_MIN_BYTES;

    if (!(xcomp & XCOMP_COMPACT)) {
        *ret = layout->offset[i];
        return layout->offset[i] || corrupt(error, i);
    }
    for (unsigned j = 2; j <= i; j++) {
        if (!(xcomp & 1ull << j))
            continue;
        if (layout->aligned & 1ull << j)
            at = (at + 63) & ~(size_t)63;
        if (j == i)
            break;
        if (!layout->size[j])
            return corrupt(error, j);
        at += layout->size[j];
    }
    *ret = at;
    return true;
}

size_t intro_xsave_bytes(const struct intro_xsave_layout *layout, uint64_t components)
{
    size_t bytes = AREA_MIN_BYTES;

    for (unsigned i = 2; i < 64; i++)
        if (components & 1ull << i)
            bytes = MAX(bytes, (size_t)layout->offset[i] + layout->size[i]);
    return bytes;
}

GBytes *intro_xsave_expand(const struct intro_xsave_layout *layout, const uint8_t *area,
                           size_t area_bytes, GError **error)
{
    uint8_t with_header[AREA_MIN_BYTES] = {0};

    if (area_bytes == LEGACY_BYTES) { // FXSAVE, which leaves nothing out
        memcpy(with_header, area, LEGACY_BYTES);
        with_header[LEGACY_BYTES] = XFEATURE_X87 | XFEATURE_SSE;
        area = with_header;
        area_bytes = sizeof(with_header);
    }
    if (area_bytes < AREA_MIN_BYTES) {
        corrupt(error, 0);
        return NULL;
    }
    uint64_t valid = get_u64(area + LEGACY_BYTES) & XFEATURE_USER;
    uint64_t xcomp = get_u64(area + LEGACY_BYTES + 8);
    if (xcomp & XCOMP_COMPACT)
        valid &= xcomp;

    size_t bytes = intro_xsave_bytes(layout, valid);
    g_autofree uint8_t *out = g_malloc0(bytes);
    uint32_t mxcsr = GUINT32_TO_LE(MXCSR_DEFAULT);

    out[0] = FCW_DEFAULT & 0xff;
    out[1] = FCW_DEFAULT >> 8;
    if (valid & XFEATURE_X87) {
        memcpy(out, area, MXCSR_OFFSET);
        memcpy(out + 32, area + 32, 128);
    }
    // MXCSR has no bit of its own: it is saved with SSE or AVX state, in its initial state or not.
    memcpy(&mxcsr, area + MXCSR_OFFSET, 4);
    if ((GUINT32_FROM_LE(mxcsr) & ~0xffffu) == 0)
        memcpy(out + MXCSR_OFFSET, &mxcsr, 4);
    if (valid & XFEATURE_SSE)
        memcpy(out + 160, area + 160, 256);

    for (unsigned i = 2; i < 64; i++) {
        size_t at;
        if (!(valid & 1ull << i))
            continue;
        if (!find_component(layout, xcomp, i, &at, error))
            return NULL;
        if (!layout->size[i] || at > area_bytes || layout->size[i] > area_bytes - at) {
            corrupt(error, i);
            return NULL;
        }
        memcpy(out + layout->offset[i], area + at, layout->size[i]);
    }
    // x87 and SSE are always given, in their initial state where they were: MXCSR needs their bits.
    valid = GUINT64_TO_LE(valid | XFEATURE_X87 | XFEATURE_SSE);
    memcpy(out + LEGACY_BYTES, &valid, 8);
    return g_bytes_new_take(g_steal_pointer(&out), bytes);
}

static struct gva fpu_of(IntroKernel *k, struct gva task)
{
    return intro_has(k, M_thread_fpu) ? intro_member_addr(k, task, M_thread_fpu)
                                      : GVA(task.addr + intro_sizeof(k, T_task_struct));
}

uint64_t intro_xsave_permitted(IntroReader *r, struct gva task)
{
    return rd_opt(r, fpu_of(r->k, task), M_fpu_perm, 0);
}

// The XSAVE area of a task and how many bytes of it may be read.
static bool find_area(IntroKernel *k, struct gva task, struct gva *ret, size_t *ret_bytes,
                      GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva fpu = fpu_of(k, task);

    if (intro_has(k, M_fpu_fpstate)) {
        struct gva fpstate = rd_ptr(&r, fpu, M_fpu_fpstate);
        *ret_bytes = rd(&r, fpstate, M_fpstate_size);
        *ret = intro_member_addr(k, fpstate, M_fpstate_regs);
    } else {
        struct gva size;
        if (!intro_symbol(k, "fpu_kernel_xstate_size", &size, error))
            return false;
        *ret_bytes = rd_u32_at(&r, size);
        *ret = intro_member_addr(k, fpu, M_fpu_state);
    }
    if (!rd_done(&r, error))
        return false;
    if (*ret_bytes < LEGACY_BYTES || *ret_bytes > AREA_MAX_BYTES) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "XSAVE area of task at %" G_GINT64_MODIFIER "x: %zu bytes", task.addr,
                    *ret_bytes);
        return false;
    }
    return true;
}

// Since 5.14 PKRU of a task that does not run is not in its XSAVE area but in thread.pkru.
static GBytes *with_pkru(IntroKernel *k, struct gva task, const struct intro_xsave_layout *layout,
                         GBytes *area, GError **error)
{
    uint64_t pkru;
    const unsigned i = 9;

    // The size comes from the guest: less than the register has is no size.
    if (!intro_has(k, M_thread_pkru) || layout->size[i] < sizeof(uint32_t))
        return g_bytes_ref(area);
    if (!intro_get(k, task, M_thread_pkru, &pkru, error))
        return NULL;

    size_t len, need = layout->offset[i] + layout->size[i];
    const uint8_t *data = g_bytes_get_data(area, &len);
    g_autofree uint8_t *out = g_malloc0(MAX(len, need));
    uint32_t value = GUINT32_TO_LE((uint32_t)pkru);
    uint64_t valid = GUINT64_TO_LE(get_u64(data + LEGACY_BYTES) | XFEATURE_PKRU);

    memcpy(out, data, len);
    memcpy(out + layout->offset[i], &value, 4);
    memcpy(out + LEGACY_BYTES, &valid, 8);
    return g_bytes_new_take(g_steal_pointer(&out), MAX(len, need));
}

GBytes *intro_xsave_of_task(IntroKernel *k, struct gva task,
                            const struct intro_xsave_layout *layout, GError **error)
{
    uint8_t area[AREA_MAX_BYTES];
    struct gva at;
    size_t bytes;

    if (!find_area(k, task, &at, &bytes, error) || !intro_read(k, at, area, bytes, error))
        return NULL;
    g_autoptr(GBytes) expanded = intro_xsave_expand(layout, area, bytes, error);
    if (!expanded) {
        g_prefix_error(error, "task at %" G_GINT64_MODIFIER "x: ", task.addr);
        return NULL;
    }
    return with_pkru(k, task, layout, expanded, error);
}
