// SPDX-License-Identifier: GPL-2.0-or-later
// Opens that wait, as of a FIFO for its other side: they begin anew, so what they open must be
// here.

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "guestagent/engine.h"

#define ERESTARTSYS    512 // include/linux/errno.h
#define ERESTARTNOHAND 514

// The calls that open by a name; `at`: the first argument is a directory.
static const struct {
    int64_t nr, ia32_nr;
    bool at;
} calls[] = {
    {SYS_open, 5, false},
    {SYS_creat, 8, false},
    {SYS_openat, 295, true},
    {SYS_openat2, 437, true},
};

static bool is_about_to(const struct fmt_task *t, size_t i)
{
    const int64_t result = -(int64_t)t->rax;

    return result >= ERESTARTSYS && result <= ERESTARTNOHAND &&
           (int64_t)t->orig_rax == (t->compat_call ? calls[i].ia32_nr : calls[i].nr);
}

// Whoever waits has found it at home. The thread itself looks: with its root, directories and
// rights.
static bool look(const AgentTask *t, bool at, GError **error)
{
    const uint64_t first = t->rec->compat_call ? (uint32_t)t->rec->rbx : t->rec->rdi;
    const uint64_t second = t->rec->compat_call ? (uint32_t)t->rec->rcx : t->rec->rsi;
    const uint64_t directory = at ? (uint64_t)(int64_t)(int32_t)first : (uint64_t)AT_FDCWD;

    if (agent_remote(&t->tracee, "stat", SYS_newfstatat, NULL, error, directory,
                     at ? second : first, t->tracee.site->scratch, 0))
        return true;
    g_prefix_error(error,
                   "thread %" G_GUINT64_FORMAT " waits to open what is not there in this machine, "
                   "a FIFO perhaps; make it and try again: ",
                   t->rec->tid);
    return false;
}

static bool finish_task(AgentTask *t, GError **error)
{
    for (size_t i = 0; i < G_N_ELEMENTS(calls); i++)
        if (!agent_has_ended(t) && is_about_to(t->rec, i) && !look(t, calls[i].at, error))
            return false;
    return true;
}

const struct agent_aspect agent_aspect_opening = {
    .name = "opening",
    .finish_task = finish_task,
};
