// SPDX-License-Identifier: GPL-2.0-or-later
// What identifies a file (struct inode), for the target to compare with its own.
#include "introspect/context.h"
#include "introspect/reader.h"

#include <elf.h>
#include <string.h>
#include <sys/stat.h>

// A kernel dev_t has 12 bits of major above 20 bits of minor; stat shows it rearranged
// (new_encode_dev in include/linux/kdev_t.h).
static uint64_t encode_dev(uint64_t dev)
{
    uint64_t major = dev >> 20, minor = dev & 0xfffff;

    return (minor & 0xff) | major << 8 | (minor & ~UINT64_C(0xff)) << 12;
}

static bool note_is_build_id(const Elf64_Nhdr *note, const uint8_t *name)
{
    return note->n_type == NT_GNU_BUILD_ID && note->n_namesz == 4 && memcmp(name, "GNU", 4) == 0;
}

// Finds the build id in the notes at [at, end) of the page: its first 16 bytes, zeros behind.
static bool find_build_id(const uint8_t *page, uint64_t at, uint64_t end, uint8_t ret[16])
{
    Elf64_Nhdr note;

    while (at + sizeof(note) <= end) {
        memcpy(&note, page + at, sizeof(note));
        uint64_t name = at + sizeof(note);
        uint64_t desc = name + (((uint64_t)note.n_namesz + 3) & ~UINT64_C(3));
        uint64_t next = desc + (((uint64_t)note.n_descsz + 3) & ~UINT64_C(3));
        if (next > end)
            return false;
        if (note_is_build_id(&note, page + name)) {
            memset(ret, 0, 16);
            memcpy(ret, page + desc, MIN(note.n_descsz, 16));
            return true;
        }
        at = next;
    }
    return false;
}

// The build id of an ELF file whose first page this is. Linkers put the notes right behind the
// program headers; one that lies elsewhere is not worth looking for: it is a check, not a must.
static bool elf_build_id(const uint8_t page[VMM_PAGE_BYTES], uint8_t ret[16])
{
    Elf64_Ehdr head;
    Elf64_Phdr seg;

    memcpy(&head, page, sizeof(head));
    if (memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 || head.e_ident[EI_CLASS] != ELFCLASS64 ||
        head.e_ident[EI_DATA] != ELFDATA2LSB || head.e_phentsize != sizeof(seg))
        return false;
    for (unsigned i = 0; i < head.e_phnum; i++) {
        uint64_t at = head.e_phoff + i * sizeof(seg);
        if (head.e_phoff > VMM_PAGE_BYTES || at + sizeof(seg) > VMM_PAGE_BYTES)
            return false;
        memcpy(&seg, page + at, sizeof(seg));
        if (seg.p_type != PT_NOTE || seg.p_offset > VMM_PAGE_BYTES ||
            seg.p_filesz > VMM_PAGE_BYTES - seg.p_offset)
            continue;
        if (find_build_id(page, seg.p_offset, seg.p_offset + seg.p_filesz, ret))
            return true;
    }
    return false;
}

static bool read_build_id(IntroKernel *k, struct gva inode, struct fmt_inode *rec, GError **error)
{
    uint8_t page[VMM_PAGE_BYTES], id[16];
    bool there;

    if (!S_ISREG(rec->mode) || rec->size_bytes < sizeof(Elf64_Ehdr))
        return true;
    if (!intro_pagecache_read(k, inode, 0, page, &there, error))
        return false;
    if (!there || !elf_build_id(page, id))
        return true;
    memcpy(&rec->build_id_lo, id, 8);
    memcpy(&rec->build_id_hi, id + 8, 8);
    rec->build_id_lo = GUINT64_FROM_LE(rec->build_id_lo);
    rec->build_id_hi = GUINT64_FROM_LE(rec->build_id_hi);
    return true;
}

uint64_t intro_inode(struct intro_ctx *c, struct gva inode, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    // A FIFO that somebody has open is a PIPE under the address of its inode.
    bool is_fifo = S_ISFIFO(rd(&r, inode, M_inode_mode));
    struct gva key = is_fifo ? intro_member_addr(c->k, inode, M_inode_sb) : inode;
    uint64_t known = intro_object_ref(c, key);

    if (known)
        return known;

    struct fmt_inode *rec = intro_object_add(c, key, FMT_INODE);
    struct gva sb = rd_ptr(&r, inode, M_inode_sb);
    struct gva fstype = rd_ptr(&r, rd_ptr(&r, sb, M_sb_type), M_fstype_name);
    rec->mode = rd(&r, inode, M_inode_mode);
    rec->rdev = encode_dev(rd(&r, inode, M_inode_rdev));
    rec->dev = encode_dev(rd(&r, sb, M_sb_dev));
    rec->ino = rd(&r, inode, M_inode_ino);
    rec->size_bytes = rd(&r, inode, M_inode_size);
    rec->mtime_ns = rd_time_ns(&r, inode, M_inode_mtime_sec, M_inode_mtime_nsec);
    rec->atime_ns = rd_time_ns(&r, inode, M_inode_atime_sec, M_inode_atime_nsec);
    rec->uid = rd(&r, inode, M_inode_uid);
    rec->gid = rd(&r, inode, M_inode_gid);
    rec->nlink = rd(&r, inode, M_inode_nlink);
    if (!rd_done(&r, error) || !(rec->fstype = intro_read_str(c->k, fstype, 64, error)) ||
        !read_build_id(c->k, inode, rec, error))
        return 0;
    return rec->rec.objref;
}
