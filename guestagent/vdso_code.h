// SPDX-License-Identifier: GPL-2.0-or-later
// The code of a vdso: what it exports, and how to lead it to another one.
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

// An exported function of a vdso: offset from its start.
struct agent_vdso_function {
    const char *name; // in the image
    uint64_t offset, bytes;
};

// Functions in the dynamic symbol table of the vdso at `image`, of 64 or 32 bits, as struct
// agent_vdso_function. Empty where it is no ELF file; every access is checked, the captured one
// comes from outside.
GArray *agent_vdso_functions(const uint8_t *image, size_t len);

// How much of it is not zeros at its end.
size_t agent_vdso_used(const uint8_t *image, size_t len);

// Writes a jump that changes no register, for code at address `at`. Returns its bytes.
size_t agent_vdso_put_jump(uint8_t *code, uint64_t at, uint64_t target, bool ia32);

// Whether `code`, which follows an instruction that enters the kernel, is that of a detour: loads
// of registers and a jump (detour.c).
#define AGENT_VDSO_DETOUR_BYTES 44 // of the longest one, behind that instruction
bool agent_vdso_is_detour(const uint8_t *code, size_t n);

// Without the prefix that all of them have.
const char *agent_vdso_base_name(const char *name);

// Whether the function works everywhere as it is.
bool agent_vdso_stays(const char *name);

/*
 * Replaces the first instructions of `f` in `image`, which lies at address `base`, by a jump to the
 * function of that name among `new`, the functions of a vdso at `new_base`, or by a system call.
 * Returns how many bytes have changed, 0 where nothing can stand in.
 */
size_t agent_vdso_redirect(uint8_t *image, const struct agent_vdso_function *f, uint64_t base,
                           const GArray *new, uint64_t new_base, bool ia32);
