// SPDX-License-Identifier: GPL-2.0-or-later
// The model of a process image: its records, and the page contents that belong to them.
#pragma once

#include <glib.h>
#include <stdbool.h>

#include "formats/records.h"

/*
 * An FmtImage is the hub between capture, file, exporters and the agent. It owns its records;
 * pointers to them stay valid until fmt_image_unref. Shared objects are one record, referred to by
 * objref.
 *
 * Page contents are not copied into the image: an extent points into memory that some GBytes added
 * with fmt_image_hold() keeps alive.
 */
typedef struct FmtImage FmtImage;

#define FMT_ERROR (fmt_error_quark())
GQuark fmt_error_quark(void);

enum fmt_error {
    FMT_ERROR_FOREIGN,   // not a vmgraft image
    FMT_ERROR_VERSION,   // an incompatible feature or version: the message names it
    FMT_ERROR_TRUNCATED, // ends before TAIL
    FMT_ERROR_CORRUPT,   // a checksum, length or reference is wrong; the message has the offset
    FMT_ERROR_IO,
    FMT_ERROR_LIMIT,  // more or larger records than a sane image has
    FMT_ERROR_ABSENT, // the image does not have what was asked for
};

#define FMT_PAGE_BYTES 4096u
// The most pages with contents in one PAGES record: 1 MiB. FMT_PAGES_ZERO has no limit.
#define FMT_EXTENT_MAX_PAGES 256u

// A run of pages (objref and hash are the encoder's, 0 until then): PAGES record and its contents
// (NULL for FMT_PAGES_ZERO). Borrowed memory.
struct fmt_extent {
    struct fmt_pages pages;
    const uint8_t *data; // pages.n_pages * FMT_PAGE_BYTES
};

FmtImage *fmt_image_new(void);
FmtImage *fmt_image_ref(FmtImage *img);
void fmt_image_unref(FmtImage *img); // NULL-safe
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FmtImage, fmt_image_unref)

// Appends a record of this type with a fresh objref, all fields 0. Owned by the image. HEAD and the
// records of the encoding itself (STRING, BYTES, BODY, PAGES, TAIL) are not added this way: HEAD is
// there from the start, the others the encoder makes.
void *fmt_image_add(FmtImage *img, enum fmt_type type);
struct fmt_head *fmt_image_head(FmtImage *img);

size_t fmt_image_count(const FmtImage *img, enum fmt_type type);
void *fmt_image_nth(const FmtImage *img, enum fmt_type type, size_t i); // in order of addition
// The record with this objref if it has this type (FMT_ANY: whatever it is), else NULL.
void *fmt_image_by_ref(const FmtImage *img, uint64_t objref, enum fmt_type type);

// for (size_t i = 0; FMT_NEXT(img, TASK, i, task); i++): walks the records of one type.
#define FMT_NEXT(img, TYPE, i, var)                                                                \
    ((i) < fmt_image_count((img), FMT_##TYPE) &&                                                   \
     ((var) = fmt_image_nth((img), FMT_##TYPE, (i)), true))

/*
 * Extents, in the order of addition; the encoder writes them in this order. Those of one owner must
 * be added with ascending addresses and may not overlap, and one of an MM lies within one VMA: the
 * encoder refuses what a reader would. Runs of more than FMT_EXTENT_MAX_PAGES become several
 * extents; nothing is ever joined, and each record of pages costs up to 8 KiB in the file, so join
 * first.
 */
void fmt_image_add_extent(FmtImage *img, uint64_t owner, uint64_t start, uint64_t n_pages,
                          enum fmt_pages_kind kind, const void *data);
size_t fmt_image_n_extents(const FmtImage *img);
struct fmt_extent *fmt_image_extent(const FmtImage *img, size_t i); // until the next is added
// Keeps memory alive for as long as the image; takes ownership of the reference.
void fmt_image_hold(FmtImage *img, GBytes *memory);

// The MM that share the pages of a COW_SET, by objref, ascending.
size_t fmt_cow_set_count(const struct fmt_cow_set *set);
uint64_t fmt_cow_set_member(const struct fmt_cow_set *set, size_t i);
bool fmt_cow_set_has(const struct fmt_cow_set *set, uint64_t mm);

// Whether a mapping is one of those that may have pages of a COW.
bool fmt_cow_fits(const struct fmt_cow *cow, const struct fmt_vma *vma);

// The mapping that holds addr, NULL for none.
struct fmt_vma *fmt_image_vma(const FmtImage *img, uint64_t mm, uint64_t addr);

// Addresses [start, end) whose contents the image has; data is NULL where they are zeros.
struct fmt_run {
    uint64_t start;
    uint64_t end;
    const uint8_t *data;
};

/*
 * The first run of pages in a mapping at or behind addr (page aligned): from the extents of the
 * address space, else from those of the file or shared memory that is mapped. False where no more
 * come.
 *
 * This and the functions around it use an index that is made at the first call and dropped when a
 * mapping or an extent is added: call them from one thread, once mappings are filled in.
 */
bool fmt_image_next_run(const FmtImage *img, const struct fmt_vma *vma, uint64_t addr,
                        struct fmt_run *ret);

// Reads bytes of an address space from the extents (DATA, ZERO and CLEAN); false where some page is
// not there.
bool fmt_image_read(const FmtImage *img, uint64_t mm, uint64_t addr, void *ret, size_t len);
