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

struct intro_capture_options {
    uint32_t pid;
    bool forensic;        // never refuse: record what is found, with the reasons as NOTE records
    bool records_only;    // for a look: the image gets no pages, and nothing is copied
    uint64_t carry_bytes; // regular files up to this size go into the image; 0: none
    GPtrArray *allow;     // char *: kinds of refusal that the user accepts to lose; may be NULL
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
// RETRY.
enum intro_capture_result intro_capture_take(IntroCapture *c, GArray *vcpus,
                                             const struct vmm_clock *clock, char **why,
                                             GPtrArray *refusals, GError **error);

// Ends a capture that was taken. pause_ns goes into HEAD. Ownership of the image passes to the
// caller.
FmtImage *intro_capture_finish(IntroCapture *c, uint64_t pause_ns, GError **error);
