// SPDX-License-Identifier: GPL-2.0-or-later
// Images in the formats of others.
#pragma once

#include <json-c/json.h>

#include "formats/stream.h"

// An ELF core of the image's process `pid` (0: the root) with all threads, the leader first
// (NT_PRSTATUS, NT_FPREGSET, NT_X86_XSTATE), NT_PRPSINFO, NT_AUXV and NT_FILE. Written like
// fmt_save: whole or not at all, and sparse. ABSENT where the image has no such process or it has
// no memory.
bool fmt_export_core(const FmtImage *img, uint64_t pid, const char *path, GError **error);

// All records as JSON, for `vmgraft inspect --json`; page contents as extents only. Owned by the
// caller.
struct json_object *fmt_export_json(const FmtImage *img);
