// SPDX-License-Identifier: GPL-2.0-or-later
// What a fuzz target is: libFuzzer's entry, which replay.c calls as well.
#pragma once

#include <glib.h>
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
