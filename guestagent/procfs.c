// SPDX-License-Identifier: GPL-2.0-or-later
// Reading /proc.
#include "guestagent/procfs.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PF_KTHREAD 0x00200000u // include/linux/sched.h

static char *read_file(pid_t tid, const char *name)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/%s", tid, name);
    char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ? text : NULL;
}

static const char *field(const char *text, const char *name)
{
    const char *at = strstr(text, name);

    return at ? at + strlen(name) + strspn(at + strlen(name), " \t") : "";
}

static bool is_kernel_thread(pid_t tid)
{
    g_autofree char *stat = read_file(tid, "stat");
    const char *at = stat ? strrchr(stat, ')') : NULL;
    unsigned flags = 0;

    return at && sscanf(at, ") %*c %*d %*d %*d %*d %*d %u", &flags) == 1 && (flags & PF_KTHREAD);
}

bool procfs_read_status(pid_t tid, struct procfs_status *ret)
{
    g_autofree char *text = read_file(tid, "status");

    if (!text)
        return false;
    *ret = (struct procfs_status){
        .state = *field(text, "\nState:"),
        .tgid = atoi(field(text, "\nTgid:")),
        .ppid = atoi(field(text, "\nPPid:")),
        .tracer = atoi(field(text, "\nTracerPid:")),
        .sig_pending = strtoull(field(text, "\nSigPnd:"), NULL, 16) |
                       strtoull(field(text, "\nShdPnd:"), NULL, 16),
        .sig_blocked = strtoull(field(text, "\nSigBlk:"), NULL, 16),
        .sig_ignored = strtoull(field(text, "\nSigIgn:"), NULL, 16),
        .sig_caught = strtoull(field(text, "\nSigCgt:"), NULL, 16),
        .kernel_thread = is_kernel_thread(tid),
    };
    return true;
}

GArray *procfs_list_threads(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task", pid);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    GArray *tids = g_array_new(FALSE, FALSE, sizeof(pid_t));
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        pid_t tid = atoi(name);

        g_array_append_val(tids, tid);
    }
    return tids;
}

void procfs_append_children(pid_t pid, pid_t tid, GArray *ret)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task/%d/children", pid, tid);
    g_autofree char *text = NULL;
    char *end;

    if (!g_file_get_contents(path, &text, NULL, NULL))
        return;
    for (char *at = text; *at; at = end) {
        pid_t child = (pid_t)strtol(at, &end, 10);

        if (end == at)
            break;
        g_array_append_val(ret, child);
    }
}

char *procfs_describe_wait(pid_t tid)
{
    g_autofree char *name = read_file(tid, "wchan");

    return name && *name && strcmp(name, "0") != 0 ? g_steal_pointer(&name) : NULL;
}

int procfs_read_syscall(pid_t tid)
{
    g_autofree char *text = read_file(tid, "syscall");
    int nr;

    return text && sscanf(text, "%d ", &nr) == 1 ? nr : -1;
}

bool procfs_find_vdso(pid_t pid, uint64_t *ret_start, uint64_t *ret_end)
{
    g_autofree char *maps = read_file(pid, "maps");
    const char *at = maps ? strstr(maps, "[vdso]\n") : NULL;

    while (at && at > maps && at[-1] != '\n')
        at--;
    return at && sscanf(at, "%" SCNx64 "-%" SCNx64, ret_start, ret_end) == 2;
}

bool procfs_read_memory(pid_t pid, uint64_t addr, void *ret, size_t len)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/mem", pid);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t n = fd < 0 ? -1 : pread(fd, ret, len, (off_t)addr);

    if (fd >= 0)
        close(fd);
    return n == (ssize_t)len;
}
