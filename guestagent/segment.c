// SPDX-License-Identifier: GPL-2.0-or-later
// Segments of a program's own: the local descriptor table, thread-local entries of the global one.

#include <asm/ldt.h>
#include <errno.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guestagent/engine.h"

#define TLS_FIRST_ENTRY 12 // GDT_ENTRY_TLS_MIN
#define ENTRY_BYTES     8
#define LDT_WRITE       0x11
#define SET_THREAD_AREA 26 // PTRACE_SET_THREAD_AREA of <asm/ptrace-abi.h>

// A descriptor of the processor (Intel SDM volume 3, 3.4.5) as the kernel's calls take it. `lm` is
// none of a program's.
static struct user_desc unpack(uint64_t d, unsigned entry)
{
    const struct user_desc empty = {
        .entry_number = entry, .read_exec_only = 1, .seg_not_present = 1};

    if (d == 0)
        return empty;
    return (struct user_desc){
        .entry_number = entry,
        .base_addr = (uint32_t)((d >> 16 & 0xffffff) | (d >> 56) << 24),
        .limit = (uint32_t)((d & 0xffff) | (d >> 48 & 0xf) << 16),
        .seg_32bit = d >> 54 & 1,
        .contents = d >> 42 & 3,
        .read_exec_only = !(d >> 41 & 1),
        .limit_in_pages = d >> 55 & 1,
        .seg_not_present = !(d >> 47 & 1),
        .useable = d >> 52 & 1,
    };
}

static const uint8_t *ldt(const AgentProc *p, size_t *ret_n)
{
    size_t size = 0;
    const uint8_t *entries =
        p->mm && p->mm->ldt ? g_bytes_get_data(p->mm->ldt, &size) : (const uint8_t *)"";

    *ret_n = size / ENTRY_BYTES;
    return entries;
}

static bool has_segments(const AgentProc *p)
{
    size_t n;

    ldt(p, &n);
    for (guint i = 0; i < p->tasks->len; i++) {
        const struct fmt_task *t = ((AgentTask *)g_ptr_array_index(p->tasks, i))->rec;

        n += (t->tls0 | t->tls1 | t->tls2) != 0;
    }
    return n > 0;
}

static bool kernel_takes_ldt(void)
{
    return syscall(SYS_modify_ldt, 0, NULL, 0) >= 0;
}

static void plan(AgentRestore *r)
{
    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);
        size_t n;

        ldt(p, &n);
        if (n > 0 && !kernel_takes_ldt())
            agent_refuse(r, "ldt", p->rec->pid, -1,
                         "it has segments of its own (modify_ldt), which this kernel does not "
                         "offer (CONFIG_MODIFY_LDT_SYSCALL)");
        if (n > LDT_ENTRIES)
            agent_refuse(r, "ldt", p->rec->pid, -1, "its descriptor table is too long");
        if (has_segments(p) && p->rec->state == FMT_PROC_ZOMBIE)
            agent_refuse(r, "ldt", p->rec->pid, -1, "a process that has ended has segments");
    }
}

// An empty last entry says how long the table is, so it is written; others need not be.
static bool finish(AgentProc *p, GError **error)
{
    size_t n;
    const uint8_t *entries = ldt(p, &n);

    for (size_t i = 0; i < n; i++) {
        uint64_t d, at;

        memcpy(&d, entries + i * ENTRY_BYTES, sizeof d);
        if (d == 0 && i + 1 < n)
            continue;
        const struct user_desc desc = unpack(d, (unsigned)i);

        if (!agent_remote_put(&agent_leader(p)->tracee, 0, &desc, sizeof desc, &at, error) ||
            !agent_remote(&agent_leader(p)->tracee, "modify_ldt", SYS_modify_ldt, NULL, error,
                          LDT_WRITE, at, sizeof desc)) {
            g_prefix_error(error, "segment %zu: ", i);
            return false;
        }
    }
    return true;
}

static bool finish_task(AgentTask *t, GError **error)
{
    const uint64_t tls[] = {t->rec->tls0, t->rec->tls1, t->rec->tls2};

    for (unsigned i = 0; i < G_N_ELEMENTS(tls); i++) {
        struct user_desc desc = unpack(tls[i], TLS_FIRST_ENTRY + i);

        if (tls[i] && ptrace(SET_THREAD_AREA, t->tracee.tid, TLS_FIRST_ENTRY + i, &desc) < 0)
            return agent_fail_errno(error, "thread %d: segment %u", t->tracee.tid,
                                    TLS_FIRST_ENTRY + i);
    }
    return true;
}

const struct agent_aspect agent_aspect_segments = {
    .name = "segments",
    .plan = plan,
    .finish = finish,
    .finish_task = finish_task,
};
