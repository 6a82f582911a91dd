// SPDX-License-Identifier: GPL-2.0-or-later
// Fuzzes the walks of lists, trees, xarrays, paths and descriptor tables over memory that lies.
#include "introspect/context.h"
#include "introspect/fd.h"

#include "../unit/intro_toy.h"
#include "fuzz.h"

/*
 * The input is a list of words to write into otherwise empty RAM, six bytes each: where (in units
 * of 8 bytes, 16 bits), what it is to become (8 bits), and a number for that (24 bits). Whole
 * memory images would be too large for a fuzzer to find its way in.
 */
enum word { POINTER, XA_NODE, XA_SIBLING, NUMBER, BYTES, N_WORDS };

// Where the walks begin. Corpus files are made for these places.
enum {
    XA = 0x40,
    INODE = 0x100,
    LIST = 0x8000,
    RB = 0x8400,
    FILES = 0x9000,
    MOUNT_A = 0x1000,
    ROOT_A = 0x2000,
    MOUNT_B = 0x1200,
    DENTRY = 0x2800
};

static void write_word(struct toy *toy, const uint8_t *input)
{
    uint64_t at = (uint64_t)(input[0] | input[1] << 8) * 8 % TOY_BYTES;
    uint64_t number = input[3] | (uint64_t)input[4] << 8 | (uint64_t)input[5] << 16;
    uint64_t value = 0;

    switch ((enum word)(input[2] % N_WORDS)) {
    case POINTER:
        value = TOY_BASE + number;
        break;
    case XA_NODE:
        value = TOY_BASE + number + 2;
        break;
    case XA_SIBLING:
        value = number << 2 | 2;
        break;
    case NUMBER:
        value = number;
        break;
    default: // shift and offset of a node, length of a name ...
        value = number << 32 | number;
    }
    toy_put(toy, at, value, 8);
}

static bool see_node(struct gva node, void *user, GError **error)
{
    return true;
}

static bool see_entry(uint64_t index, unsigned order, uint64_t entry, void *user, GError **error)
{
    return true;
}

static bool see_fd(uint64_t fd, struct gva file, bool cloexec, void *user, GError **error)
{
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct toy toy;
    uint8_t page[VMM_PAGE_BYTES];
    bool there, deleted;

    toy_init(&toy, NULL, 0);
    for (size_t i = 0; i + 6 <= size; i += 6)
        write_word(&toy, data + i);
    intro_walk_list(toy.k, TOY(LIST), 1000, see_node, NULL, NULL);
    intro_walk_rbtree(toy.k, TOY(RB), 1000, see_node, NULL, NULL);
    intro_walk_xarray(toy.k, TOY(XA), 5, UINT64_MAX, see_entry, NULL, NULL);
    intro_pagecache_read(toy.k, TOY(INODE), 8, page, &there, NULL);
    intro_walk_fds(toy.k, TOY(FILES), see_fd, NULL, NULL);
    g_free(intro_path_str(toy.k, (struct intro_path){TOY(MOUNT_B + 32), TOY(DENTRY)},
                          (struct intro_path){TOY(MOUNT_A + 32), TOY(ROOT_A)}, &deleted, NULL));
    toy_clear(&toy);
    return 0;
}
