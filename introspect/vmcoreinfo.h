// SPDX-License-Identifier: GPL-2.0-or-later
// VMCOREINFO: the text in which a Linux kernel tells a crash dumper where it was loaded.
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/memory.h"

/*
 * kernel/vmcore_info.c (kernel/crash_core.c before 6.9) keeps the text twice, each at the start of
 * a page: bare (vmcoreinfo_data), and as the description of an ELF note named "VMCOREINFO"
 * (vmcoreinfo_note). It is made of lines KEY=VALUE, of which these are read:
 *
 *   OSRELEASE=6.1.0-56-cloud-amd64    SYMBOL(_stext)=ffffffff8a200000   (hex)
 *   KERNELOFFSET=9200000  (hex)       NUMBER(phys_base)=-123456         (signed decimal)
 */
#define INTRO_VMCOREINFO_MAX_BYTES 16384 // four times what any kernel so far may write

typedef struct IntroVmcoreinfo {
    char *text; // NUL-terminated; nothing but printable characters and newlines
    struct gpa found_at;
    char *release;
    uint64_t phys_base; // two's complement
    uint64_t kaslr_bytes;
    uint64_t sme_mask; // the bit of a page table entry that says "encrypted"; 0 without SME
    unsigned page_levels;
    uint64_t stext;        // gva
    uint64_t init_top_pgt; // gva
} IntroVmcoreinfo;

// Parses text of len bytes (it need not be terminated). NULL with INTRO_ERROR_CORRUPT where it is
// not the whole VMCOREINFO of an x86-64 kernel.
IntroVmcoreinfo *intro_vmcoreinfo_parse(const char *text, size_t len, GError **error);
void intro_vmcoreinfo_free(IntroVmcoreinfo *info); // NULL-safe
G_DEFINE_AUTOPTR_CLEANUP_FUNC(IntroVmcoreinfo, intro_vmcoreinfo_free)

// The value of SYMBOL(name); false where there is no such line.
bool intro_vmcoreinfo_symbol(const IntroVmcoreinfo *info, const char *name, uint64_t *ret);

// The text that a page starts with, as the note or as the bare text: its start and length within
// page; false where there is none or it does not end within len.
bool intro_vmcoreinfo_text(const uint8_t *page, size_t len, size_t *ret_start, size_t *ret_len);

// Called for each text that parses, once for each different one. Returns false to end the search.
typedef bool (*intro_vmcoreinfo_fn)(const IntroVmcoreinfo *info, void *user);

// Looks at the start of each page of RAM.
bool intro_vmcoreinfo_search(VmmMemory *mem, intro_vmcoreinfo_fn fn, void *user, GError **error);
