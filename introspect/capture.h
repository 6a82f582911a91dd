// SPDX-License-Identifier: GPL-2.0-or-later
// Captures a process tree of a paused guest into an image.
#pragma once

#include "formats/image.h"
#include "introspect/kernel.h"
#include "vmm/vcpu.h"

/*
 * Goal: the shortest pause that gives a consistent image. So the work comes in three parts:
 *
 *   prepare   guest running: find the process, estimate its size, have the memory for its pages
 * ready take      guest paused: check that every thread is at a safe point, walk the kernel's
 *             structures, copy the pages. May say RETRY: resume for about a millisecond, take again
 *   finish    guest running again: find zero pages, hash, lay out the image
 *
 * Nothing is kept from a take that did not end in DONE.
 */
typedef struct IntroCapture IntroCapture;

// When the threads of a tree would have been woken by a timer; see intro_sleepers_read.
typedef struct IntroSleepers IntroSleepers;

// A run of whole pages of a file that the guest does not have in memory, and where they go.
struct intro_disk_gap {
    uint64_t start, size_bytes;
    uint8_t *to; // zeros as yet
};

/*
 * A file on a disk of the guest, as its kernel knows it now. What the disk says of it is the truth
 * for these gaps where it has the same ino, ctime, mtime and sectors: every change of what is where
 * in a file changes one of them. A size that is smaller there is that of a file which grew in
 * memory only, and no gap may reach behind it.
 */
struct intro_disk_file {
    uint8_t uuid[16]; // of the file system
    const char *path; // from the root of the file system
    uint64_t ino;
    uint64_t size_bytes;
    uint64_t n_sectors; // 512 bytes each, as st_blocks
    int64_t mtime_ns, ctime_ns;
    const struct intro_disk_gap *gaps; // by start
    size_t n_gaps;
};

/*
 * A swap area on a disk of the guest: a file in the file system `uuid`, or a device of this size;
 * it has the swap header there, and the twins. All places are those of the device that the area, or
 * the file system, is on.
 */
struct intro_disk_swap {
    bool is_file;
    uint8_t uuid[16];
    uint64_t device_bytes;
    char partition[37];                 // UUID of the partition, as text; empty where there is none
    uint64_t header_page;               // number of the page with the header
    uint64_t last_page;                 // of the area, as the header has it or less
    const struct intro_disk_gap *twins; // pages whose contents memory has as well, in `to`
    size_t n_twins;                     // not 0 for a device without UUID
    const struct intro_disk_gap *pages; // by start; not zeros only
    size_t n_pages;
};

// Who can read a guest's disks; the guest is paused. Files are read for one take at most.
struct intro_disks {
    // Fills the gaps; the last may end in the middle of a page. On error their contents are void.
    bool (*read)(void *user, const struct intro_disk_file *file, GError **error);
    bool (*read_swap)(void *user, const struct intro_disk_swap *swap, GError **error);
    void *user;
};

struct intro_capture_options {
    uint32_t pid;
    bool forensic;        // never refuse: record what is found, with the reasons as NOTE records
    bool records_only;    // for a look: the image gets no pages, and nothing is copied
    uint64_t carry_bytes; // regular files up to this size go into the image; 0: none
    const struct intro_disks *disks; // for what is not in memory; may be NULL
    bool programs;    // with disks: of mapped programs and libraries also what was never read in
    GPtrArray *allow; // char *: kinds of refusal that the user accepts to lose; may be NULL
    uint32_t
        frozen_by; // pid of the guest's own agent where it has stopped the tree (ptrace); else 0
    const char *source;            // target name, for HEAD
    const IntroSleepers *sleepers; // where the tree was frozen: read before that; may be NULL
};

/*
 * A freeze interrupts calls, and some forget what was left of their timeout. So this is to be read
 * before it, from a paused guest: vcpus and clock as for a take. A thread that has done nothing but
 * stop since then is still in the call that it was in. NULL with an error, BUSY included.
 */
IntroSleepers *intro_sleepers_read(IntroKernel *k, uint32_t pid, GArray *vcpus,
                                   const struct vmm_clock *clock, GError **error);
void intro_sleepers_free(IntroSleepers *sleepers); // NULL-safe
G_DEFINE_AUTOPTR_CLEANUP_FUNC(IntroSleepers, intro_sleepers_free)

enum intro_capture_result {
    INTRO_CAPTURE_DONE,
    INTRO_CAPTURE_RETRY,   // *why says which thread was where
    INTRO_CAPTURE_REFUSED, // `refusals` has at least one entry
    INTRO_CAPTURE_FAILED,  // error is set
};

// Why something cannot go along. Free with intro_refusal_free.
struct intro_refusal {
    char *kind;   // what --allow takes
    uint64_t pid; // 0 for none
    int64_t fd;   // -1 for none
    char *text;   // a sentence
};
void intro_refusal_free(struct intro_refusal *refusal);

// opt is copied. k and the options' strings must outlive the capture.
IntroCapture *intro_capture_prepare(IntroKernel *k, const struct intro_capture_options *opt,
                                    GError **error);
void intro_capture_free(IntroCapture *c); // NULL-safe
G_DEFINE_AUTOPTR_CLEANUP_FUNC(IntroCapture, intro_capture_free)

// vcpus: struct vmm_vcpu of all vCPUs; clock: of the same pause. why and error are set as the
// result says. refusals (struct intro_refusal, which the array must free) are those of this take,
// by pid and descriptor: all of them where it says REFUSED, what was met with until then where
// RETRY, which may be of that moment alone.
enum intro_capture_result intro_capture_take(IntroCapture *c, GArray *vcpus,
                                             const struct vmm_clock *clock, char **why,
                                             GPtrArray *refusals, GError **error);

// Ends a capture that was taken. pause_ns goes into HEAD. Ownership of the image passes to the
// caller.
FmtImage *intro_capture_finish(IntroCapture *c, uint64_t pause_ns, GError **error);
