// SPDX-License-Identifier: GPL-2.0-or-later
// Socket buffers (struct sk_buff): queues of them, and the bytes in one.
#include "introspect/skb.h"

#include "introspect/reader.h"

/*
 * A buffer's bytes lie in its linear part, [data, data + len - data_len), and then in up to
 * MAX_SKB_FRAGS pieces of pages, which the structure behind the linear part (skb_shared_info, at
 * head + end) lists. Local sockets never chain buffers (frag_list).
 */

#define MAX_QUEUE     (1u << 20)
#define MAX_SKB_BYTES (16u << 20)
#define NET_IOV       1 // low bit of a netmem_ref: memory of a device, include/net/netmem.h

static bool corrupt(GError **error, struct gva skb, const char *what, uint64_t value)
{
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                "sk_buff at %#" G_GINT64_MODIFIER "x: %s %" G_GUINT64_FORMAT, skb.addr, what,
                value);
    return false;
}

bool intro_walk_receive_queue(IntroKernel *k, struct gva sk, intro_skb_fn fn, void *user,
                              GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva head = intro_member_addr(k, sk, M_sk_receive_queue);
    uint64_t len = rd(&r, sk, M_sk_queue_len), n = 0;
    struct gva skb = rd_ptr_at(&r, head);

    for (; !r.error && skb.addr != head.addr && n < len; n++) {
        struct gva next = rd_ptr(&r, skb, M_skb_next);
        if (r.error || !fn(skb, user, error))
            return rd_done(&r, error) && false;
        skb = next;
    }
    if (!rd_done(&r, error))
        return false;
    if (n != len || len > MAX_QUEUE || skb.addr != head.addr)
        return corrupt(error, head, "its queue does not have the length", len);
    return true;
}

static bool read_frag(IntroKernel *k, struct gva skb, struct gva frag, GByteArray *data,
                      uint64_t size, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva page = rd_ptr(&r, frag, M_skb_frag_page);
    uint64_t offset = rd(&r, frag, M_skb_frag_offset), len = rd(&r, frag, M_skb_frag_len);
    guint before = data->len;
    uint64_t pfn;

    if (!rd_done(&r, error))
        return false;
    if (page.addr & NET_IOV)
        return corrupt(error, skb, "a fragment in the memory of a device, of bytes", len);
    if (offset > MAX_SKB_BYTES || len > size - before)
        return corrupt(error, skb, "more bytes than it should have in a fragment of", len);
    if (!intro_page_to_pfn(k, page, &pfn, error))
        return false;
    g_byte_array_set_size(data, before + (guint)len);
    return vmm_memory_read(intro_kernel_memory(k), GPA((pfn << VMM_PAGE_SHIFT) + offset),
                           data->data + before, len, error);
}

static bool read_frags(IntroKernel *k, struct gva skb, struct gva info, GByteArray *data,
                       uint64_t size, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    uint64_t n = rd(&r, info, M_skbinfo_nr_frags);
    struct gva list = rd_ptr(&r, info, M_skbinfo_frag_list);

    if (!rd_done(&r, error))
        return false;
    if (list.addr || n > intro_place(k, M_skbinfo_frags)->n_elements)
        return corrupt(error, skb, "a chain, or too many fragments:", n);
    for (uint64_t i = 0; i < n; i++) {
        struct gva frag = rd_elem(&r, info, M_skbinfo_frags, i, intro_sizeof(k, T_skb_frag));
        if (!read_frag(k, skb, frag, data, size, error))
            return false;
    }
    return true;
}

GBytes *intro_skb_data(IntroKernel *k, struct gva skb, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    g_autoptr(GByteArray) data = g_byte_array_new();
    uint64_t len = rd(&r, skb, M_skb_len), data_len = rd(&r, skb, M_skb_data_len);
    struct gva head = rd_ptr(&r, skb, M_skb_head), at = rd_ptr(&r, skb, M_skb_data);
    uint64_t end = rd(&r, skb, M_skb_end);

    if (!rd_done(&r, error))
        return NULL;
    if (len > MAX_SKB_BYTES || data_len > len || end > MAX_SKB_BYTES) {
        corrupt(error, skb, "an impossible length,", len);
        return NULL;
    }
    g_byte_array_set_size(data, (guint)(len - data_len));
    if (data->len && !intro_read(k, at, data->data, data->len, error))
        return NULL;
    if (data_len && !read_frags(k, skb, GVA(head.addr + end), data, len, error))
        return NULL;
    if (data->len != len) {
        corrupt(error, skb, "its fragments do not add up to bytes:", len);
        return NULL;
    }
    return g_byte_array_free_to_bytes(g_steal_pointer(&data));
}
