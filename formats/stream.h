// SPDX-License-Identifier: GPL-2.0-or-later
// The native encoding of an image: writing it to and reading it from a stream. docs/image-format.md
// has the bytes.
#pragma once

#include "formats/image.h"

#define FMT_MAGIC          "VMGRAFT\n" // the first eight bytes of an image
#define FMT_FORMAT_VERSION 1

// Bits of HEAD.features that a reader must know or refuse the image.
#define FMT_FEATURE_LIVE   (1ull << 0) // a live transfer: some contents are not in the stream
#define FMT_FEATURES_KNOWN FMT_FEATURE_LIVE

// What one STRING may hold, and what all records before BODY may take in a reader's memory.
#define FMT_STRING_MAX_BYTES (8ull << 20)
#define FMT_BODY_MAX_BYTES   (512ull << 20)

// Takes the next bytes of the stream; returns false with an error to stop.
typedef bool (*fmt_write_fn)(const void *data, size_t len, void *user, GError **error);

struct fmt_progress {
    uint64_t done_bytes;
    uint64_t total_bytes; // 0 where unknown
};
typedef void (*fmt_progress_fn)(const struct fmt_progress *progress, void *user);

/*
 * Prepares an image for a live transfer to an agent that has the same files: CLEAN pages become
 * HASHED. Where the sender can write to the target's memory by itself, DATA pages of address spaces
 * become PLACED, and *ret_placed (NULL: they stay) gets them as struct fmt_extent, whose data stays
 * valid as long as the image. The image is good for nothing else afterwards.
 */
void fmt_image_make_live(FmtImage *img, GArray **ret_placed);
// Makes the PLACED pages DATA again, for a target that they cannot be placed in.
void fmt_image_unplace(FmtImage *img, const GArray *placed);

// Size of the encoded image in bytes.
uint64_t fmt_encoded_size(const FmtImage *img);

// Encodes the image: magic, HEAD, objects, BODY, PAGES..., TAIL. Never seeks. Sets HEAD's format
// and n_pages itself. CORRUPT or LIMIT where a reader would refuse the image, before the first byte
// as far as records go.
bool fmt_encode(const FmtImage *img, fmt_write_fn write, void *user, GError **error);

// Encodes to a descriptor (pipe, socket, file).
bool fmt_encode_fd(const FmtImage *img, int fd, fmt_progress_fn progress, void *user,
                   GError **error);

// Encodes to a file that appears under its name only when it is whole and on disk (temporary name
// in the same folder, fsync, rename). On failure nothing is left. The mode is 0600.
bool fmt_save(const FmtImage *img, const char *path, fmt_progress_fn progress, void *user,
              GError **error);

// Opens an image file, maps it and checks all of it (structure, references, every checksum). The
// image's extents point into the mapping: whoever truncates the file later takes the reader down.
FmtImage *fmt_load(const char *path, GError **error);

/*
 * Push decoder for streams: feed it bytes as they come. `meta` is called once, at BODY, when all
 * records have been read and checked (BODY's checksum included); the image stays owned by the
 * decoder (take a reference to keep it). `pages` is called for each piece of contents in order:
 * size_bytes bytes (a multiple of 4096; data is NULL for zero pages) of `pages` at offset_bytes
 * from its start. `end` is called after TAIL was checked. A callback that returns false with an
 * error stops the decoder. Contents have passed their extent's checksum only when `end` is called.
 */
typedef struct FmtDecoder FmtDecoder;

struct fmt_decoder_ops {
    bool (*meta)(FmtImage *img, void *user, GError **error);
    bool (*pages)(const struct fmt_pages *pages, uint64_t offset_bytes, const void *data,
                  uint64_t size_bytes, void *user, GError **error);
    bool (*end)(void *user, GError **error);
};

FmtDecoder *fmt_decoder_new(const struct fmt_decoder_ops *ops, void *user);
void fmt_decoder_free(FmtDecoder *dec); // NULL-safe
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FmtDecoder, fmt_decoder_free)
bool fmt_decoder_feed(FmtDecoder *dec, const void *data, size_t len, GError **error);
// To be called when the stream ended: TRUNCATED unless TAIL has been seen.
bool fmt_decoder_finish(FmtDecoder *dec, GError **error);
// The image so far; NULL before BODY.
FmtImage *fmt_decoder_image(FmtDecoder *dec);

// Reads a whole image from a descriptor into memory.
FmtImage *fmt_load_fd(int fd, GError **error);
