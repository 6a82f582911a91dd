// SPDX-License-Identifier: GPL-2.0-or-later
// A file that appears under its name whole or not at all.
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * The file has no name (O_TMPFILE) until fmt_outfile_commit, where the file system can do that,
 * else a temporary one in the same folder. Its mode is 0600. fmt_outfile_free without commit leaves
 * nothing. Errors are FMT_ERROR_IO and name the path.
 */
typedef struct FmtOutfile FmtOutfile;

// size_bytes: what will be written, so that a full disk is an error now rather than later; 0 where
// it is not known. A symbolic link is followed; what exists and is no regular file is refused.
FmtOutfile *fmt_outfile_new(const char *path, uint64_t size_bytes, GError **error);
void fmt_outfile_free(FmtOutfile *out); // NULL-safe
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FmtOutfile, fmt_outfile_free)

int fmt_outfile_fd(const FmtOutfile *out);

// Syncs, gives the file its name in place of what was there, syncs the folder.
bool fmt_outfile_commit(FmtOutfile *out, GError **error);

// Sets an FMT_ERROR_IO for errno after a write of path failed; says what to do where there is no
// room. Returns false.
bool fmt_set_write_error(GError **error, const char *path, int errnum);

// "1.5 GiB", with a plain space. To be freed by the caller.
char *fmt_size_text(uint64_t bytes);
