// SPDX-License-Identifier: GPL-2.0-or-later
// Fields of which two true accounts may differ: times, vector state, calls that were interrupted.

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "formats/catalogue.h"
#include "tests/oracle/image-compare.h"

#define SYSCALL_BYTES  2
#define TOLERANCE_NS   100000000 // reading one process under emulation, tick of a timeout
#define XSAVE_LEGACY   416       // what is behind is the kernel's own
#define XSAVE_EXTENDED 576
#define MXCSR_MASK     28 // of the CPU, not of the task

static const uint8_t *bytes_of(GBytes *bytes, gsize *ret)
{
    *ret = 0;
    return bytes ? g_bytes_get_data(bytes, ret) : NULL;
}

static uint8_t byte_at(const uint8_t *data, gsize len, gsize at)
{
    return at < len ? data[at] : 0;
}

// Components in their initial state may be there or not: both give zeros behind the legacy part.
static void compare_xsave(struct compare *c, GBytes *a, GBytes *b)
{
    gsize a_len, b_len;
    const uint8_t *x = bytes_of(a, &a_len), *y = bytes_of(b, &b_len);

    for (gsize i = 0; i < MAX(a_len, b_len); i++) {
        if ((i >= MXCSR_MASK && i < MXCSR_MASK + 4) || (i >= XSAVE_LEGACY && i < XSAVE_EXTENDED))
            continue;
        if (byte_at(x, a_len, i) != byte_at(y, b_len, i)) {
            compare_differ(c, "xsave: byte %zu is %02x, the guest says %02x", i,
                           byte_at(x, a_len, i), byte_at(y, b_len, i));
            return;
        }
    }
}

// NULL is every CPU that there is: the guest then counts them from 0 without a gap.
static void compare_affinity(struct compare *c, GBytes *a, GBytes *b)
{
    gsize a_len, b_len;
    const uint8_t *x = bytes_of(a, &a_len), *y = bytes_of(b, &b_len);
    bool gap = false;

    for (gsize i = 0; i < MAX(a_len, b_len) * 8; i++) {
        const bool in_a = byte_at(x, a_len, i / 8) >> i % 8 & 1;
        const bool in_b = byte_at(y, b_len, i / 8) >> i % 8 & 1;

        if (x ? in_a != in_b : in_b && gap) {
            compare_differ(c, "cpus_allowed: CPU %zu", i);
            return;
        }
        gap |= !in_b;
    }
}

// a was read earlier: more was left then.
static void compare_left(struct compare *c, const char *name, uint64_t a, uint64_t b)
{
    const int64_t passed = fmt_image_head(c->b)->monotonic_ns - fmt_image_head(c->a)->monotonic_ns;
    const int64_t off = (int64_t)(a - b) - passed;

    if (llabs(off) > TOLERANCE_NS && (b || (int64_t)a > passed + TOLERANCE_NS))
        compare_differ(c, "%s: %lu, the guest says %lu, %ld ns off what has passed", name, a, b,
                       off);
}

// Some calls fail when they are looked at from inside (epoll_wait): they were waiting all the same.
static bool was_disturbed(const struct fmt_task *a, const struct fmt_task *b)
{
    return (int64_t)b->rax == -EINTR && a->rip == b->rip - SYSCALL_BYTES &&
           a->rax == (uint64_t)a->syscall;
}

static bool is_register(const char *field)
{
    static const char *const names[] = {
        "r15", "r14",    "r13", "r12",   "rbp",     "rbx",     "r11",    "r10",      "r9",
        "r8",  "rax",    "rcx", "rdx",   "rsi",     "rdi",     "rip",    "orig_rax", "rsp",
        "cs",  "eflags", "ss",  "xsave", "syscall", "restart", "blocked"};

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++)
        if (strcmp(names[i], field) == 0)
            return true;
    return false;
}

// Before 5.13 nobody can ask for the registration of another's rseq: then no thread has any.
static bool knows_rseq(const struct compare *c)
{
    const struct fmt_task *t;

    for (size_t i = 0; FMT_NEXT(c->b, TASK, i, t); i++)
        if (t->rseq)
            return true;
    return false;
}

// Without a class the priority follows nice; some kernels then say what it would be.
static bool has_no_io_class(const struct fmt_task *t)
{
    return t->ioprio >> 13 == 0;
}

static bool special_task(struct compare *c, const struct fmt_task *a, const struct fmt_task *b,
                         const char *field)
{
    const bool disturbed = was_disturbed(a, b);

    if (c->running && is_register(field))
        return true;
    if (g_str_has_prefix(field, "rseq"))
        return b->rseq == 0 && !knows_rseq(c);
    if (strcmp(field, "ioprio") == 0)
        return has_no_io_class(a) && has_no_io_class(b);
    if (strcmp(field, "xsave") == 0)
        compare_xsave(c, a->xsave, b->xsave);
    else if (strcmp(field, "cpus_allowed") == 0)
        compare_affinity(c, a->cpus_allowed, b->cpus_allowed);
    else if (g_str_has_prefix(field, "restart_")) {
        // Which clock, and what is left of it, is told of sleeps alone.
        const bool sleeps =
            a->restart == b->restart && a->restart == FMT_RESTART_NANOSLEEP && !c->running;
        const bool left = strcmp(field, "restart_ns") == 0;

        if (!left && strcmp(field, "restart_clock") != 0)
            return c->running || a->restart != b->restart;
        if (left && sleeps)
            compare_left(c, field, a->restart_ns, b->restart_ns);
        return left || !sleeps;
    } else if (strcmp(field, "r10") == 0) // epoll_wait's timeout is already what is left
        return disturbed;
    else
        return disturbed && (strcmp(field, "rip") == 0 || strcmp(field, "rax") == 0 ||
                             strcmp(field, "orig_rax") == 0);
    return true;
}

static bool special_file(const struct fmt_file *a, const struct fmt_file *b, const char *field)
{
    // Only named, never carried.
    return a->kind == FMT_FILE_OTHER && b->kind == FMT_FILE_OTHER &&
           (strcmp(field, "path") == 0 || strcmp(field, "object") == 0);
}

// smaps has a word for MLOCK_ONFAULT in newer kernels only.
static bool special_flags(const struct fmt_vma *a, const struct fmt_vma *b)
{
    return a->flags & FMT_VMA_LOCKED && a->flags == (b->flags | FMT_VMA_LOCKONFAULT);
}

bool compare_special(struct compare *c, const void *a, const void *b, const char *field)
{
    const struct fmt_record *rec = a;

    if (rec->type == FMT_TASK)
        return special_task(c, a, b, field);
    if (rec->type == FMT_FILE)
        return special_file(a, b, field);
    if (rec->type == FMT_VMA && strcmp(field, "flags") == 0)
        return special_flags(a, b);
    if (rec->type != FMT_ITIMER || strcmp(field, "value_ns") != 0)
        return false;
    compare_left(c, field, ((const struct fmt_itimer *)a)->value_ns,
                 ((const struct fmt_itimer *)b)->value_ns);
    return true;
}
