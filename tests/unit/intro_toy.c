// SPDX-License-Identifier: GPL-2.0-or-later
// A kernel of which nothing is there but some memory and the places of some members.
#include "intro_toy.h"

#include <string.h>

#include "introspect/kernel_private.h"

static const struct {
    enum intro_member member;
    uint32_t offset, size_bytes, n_elements;
} places[] = {
    {M_list_next, 0, 8, 1},          {M_list_prev, 8, 8, 1},      {M_rb_right, 8, 8, 1},
    {M_rb_left, 16, 8, 1},           {M_xarray_head, 8, 8, 1},    {M_xa_node_shift, 0, 1, 1},
    {M_xa_node_offset, 1, 1, 1},     {M_xa_node_parent, 8, 8, 1}, {M_xa_node_slots, 40, 512, 64},
    {M_spinlock_word, 0, 4, 1},      {M_mutex_owner, 0, 8, 1},    {M_rwsem_count, 0, 8, 1},
    {M_dentry_hash_pprev, 16, 8, 1}, {M_dentry_parent, 24, 8, 1}, {M_dentry_name_len, 36, 4, 1},
    {M_dentry_name, 40, 8, 1},       {M_dentry_inode, 48, 8, 1},  {M_dentry_op, 96, 8, 1},
    {M_dentry_sb, 104, 8, 1},        {M_dop_dname, 72, 8, 1},     {M_mount_parent, 16, 8, 1},
    {M_mount_mountpoint, 24, 8, 1},  {M_mount_mnt, 32, 32, 1},    {M_mount_ns, 232, 8, 1},
    {M_vfsmount_root, 0, 8, 1},      {M_inode_mapping, 48, 8, 1}, {M_inode_ino, 64, 8, 1},
    {M_mapping_pages, 8, 16, 1},     {M_page_flags, 0, 8, 1},     {M_page_mapping, 24, 8, 1},
    {M_page_index, 32, 8, 1},        {M_sb_type, 40, 8, 1},       {M_fstype_name, 0, 8, 1},
    {M_files_fdt, 32, 8, 1},         {M_fdt_max_fds, 0, 4, 1},    {M_fdt_fd, 8, 8, 1},
    {M_fdt_close_on_exec, 16, 8, 1}, {M_fdt_open_fds, 24, 8, 1},
};

void toy_init(struct toy *toy, const void *bytes, size_t size_bytes)
{
    struct vmm_ram_range range = {.size_bytes = TOY_BYTES};

    toy->ram = g_malloc0(TOY_BYTES);
    if (size_bytes)
        memcpy(toy->ram, bytes, MIN(size_bytes, TOY_BYTES));
    g_autoptr(VmmMemory) mem =
        vmm_memory_new_from_buffers(&range, (const void *const *)&toy->ram, 1, NULL, NULL);

    IntroKernel *k = toy->k = g_new0(IntroKernel, 1);
    k->frames = intro_frames_new(mem);
    k->pause = 1;
    k->page_table = (struct intro_page_table){.frames = k->frames, .levels = 4};
    k->direct_map = TOY_BASE;
    k->vmemmap = TOY_BASE;
    k->ram_end = TOY_BYTES;
    for (size_t i = 0; i < G_N_ELEMENTS(places); i++)
        k->layout.places[places[i].member] = (struct intro_place){
            .present = true,
            .offset = places[i].offset,
            .size_bytes = places[i].size_bytes,
            .n_elements = places[i].n_elements,
        };
    k->layout.type_bytes[T_page] = 64;
    k->layout.constants[C_PG_uptodate].present = true;
    k->layout.constants[C_PG_uptodate].value = 2;
}

void toy_clear(struct toy *toy)
{
    intro_kernel_free(toy->k);
    g_free(toy->ram);
}

void toy_put(struct toy *toy, uint64_t at, uint64_t value, size_t size_bytes)
{
    value = GUINT64_TO_LE(value);
    memcpy(toy->ram + at, &value, size_bytes);
}
