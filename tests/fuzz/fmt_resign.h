// SPDX-License-Identifier: GPL-2.0-or-later
// Puts the checksums of a changed image right, so that a fuzzer gets past them.
#pragma once

#include <stddef.h>
#include <stdint.h>

void fmt_resign(uint8_t *data, size_t size);
