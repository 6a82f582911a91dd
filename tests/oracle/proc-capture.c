// SPDX-License-Identifier: GPL-2.0-or-later
// proc-capture PID FILE: writes an image of a process of this machine and its descendants.
//
// An oracle for the walk from outside, and a source of images for tests of the restore engine. With
// --kill the processes are ended once the image is written.

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "formats/cpu_features.h"
#include "formats/stream.h"
#include "tests/oracle/oracle.h"

#define SCRATCH_BYTES 65536

bool oracle_fail(GError **error, const char *what)
{
    g_set_error(error, ORACLE_ERROR, 0, "%s: %s", what, g_strerror(errno));
    return false;
}

char *oracle_proc_file(pid_t pid, const char *name)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/%s", pid, name);
    char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ? text : NULL;
}

uint64_t oracle_status(pid_t pid, const char *key, int base)
{
    g_autofree char *text = oracle_proc_file(pid, "status");
    g_autofree char *line = g_strdup_printf("\n%s:", key);
    const char *at = text ? strstr(text, line) : NULL;

    return at ? g_ascii_strtoull(at + strlen(line), NULL, base) : 0;
}

int64_t oracle_call(const struct agent_tracee *t, long nr, uint64_t a, uint64_t b, uint64_t c,
                    uint64_t d)
{
    const uint64_t args[6] = {a, b, c, d, nr == SYS_mmap ? -1ull : 0};
    g_autoptr(GError) error = NULL;
    int64_t ret;

    if (!agent_remote_raw(t, nr, args, &ret, &error)) {
        fprintf(stderr, "proc-capture: %s\n", error->message);
        exit(1);
    }
    return ret;
}

static int64_t clock_ns(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

int64_t oracle_monotonic_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

static void head(FmtImage *img, pid_t root)
{
    struct fmt_head *h = fmt_image_head(img);
    struct fmt_cpu *cpu = fmt_image_add(img, FMT_CPU);
    struct utsname here;
    uint32_t low, high, eax, cpu_bytes, ecx, edx;

    uname(&here);
    h->format = FMT_FORMAT_VERSION;
    h->writer = g_strdup("proc-capture");
    h->source = g_strdup("local");
    h->hostname = g_strdup(here.nodename);
    h->release = g_strdup(here.release);
    h->version = g_strdup(here.version);
    h->machine = g_strdup(here.machine);
    h->realtime_ns = clock_ns(CLOCK_REALTIME);
    h->monotonic_ns = clock_ns(CLOCK_MONOTONIC);
    h->boottime_ns = clock_ns(CLOCK_BOOTTIME);
    h->root_pid = (uint64_t)root;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    cpu->features = fmt_cpu_features_here();
    __asm__("cpuid" : "=a"(eax), "=b"(cpu_bytes), "=c"(ecx), "=d"(edx) : "a"(0xd), "c"(0));
    cpu->xsave_bytes = cpu_bytes;
    cpu->xcr0 = low | (uint64_t)high << 32;
}

static struct oracle_proc *add_proc(struct oracle *o, pid_t pid)
{
    struct oracle_proc *p = g_new0(struct oracle_proc, 1);

    p->img = o->img;
    p->pid = pid;
    p->tasks = g_array_new(false, true, sizeof(struct oracle_task));
    g_ptr_array_add(o->procs, p);
    return p;
}

static bool seize_thread(struct oracle_proc *p, pid_t tid, GError **error)
{
    struct oracle_task t = {.tracee = {tid, &p->site}};
    const uint64_t all = ~0ull;

    if (!agent_remote_seize(tid, PTRACE_O_TRACESYSGOOD, error))
        return false;
    if (ptrace(PTRACE_GETREGS, tid, NULL, &t.regs) < 0 ||
        ptrace(PTRACE_GETSIGMASK, tid, sizeof t.blocked, &t.blocked) < 0 ||
        ptrace(PTRACE_SETSIGMASK, tid, sizeof all, &all) < 0)
        return oracle_fail(error, "ptrace");
    g_array_append_val(p->tasks, t);
    return true;
}

static bool seize_threads(struct oracle_proc *p, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task", p->pid);
    g_autoptr(GDir) dir = NULL;
    const char *name;

    if (!seize_thread(p, p->pid, error) || !(dir = g_dir_open(path, 0, error)))
        return false;
    while ((name = g_dir_read_name(dir))) {
        if (atoi(name) != p->pid && !seize_thread(p, atoi(name), error))
            return false;
    }
    return true;
}

// A process, stopped, and all that descend from it.
static bool seize_tree(struct oracle *o, pid_t pid, GError **error)
{
    struct oracle_proc *p = add_proc(o, pid);
    g_autofree char *stat = oracle_proc_file(pid, "stat");

    if (stat && strstr(stat, ") Z ")) // nothing is left to be stopped
        return true;
    p->stopped = stat && strstr(stat, ") T ");
    if (!seize_threads(p, error))
        return false;
    for (guint i = 0; i < p->tasks->len; i++) {
        g_autofree char *name = g_strdup_printf(
            "task/%d/children", g_array_index(p->tasks, struct oracle_task, i).tracee.tid);
        g_autofree char *text = oracle_proc_file(pid, name);
        g_auto(GStrv) children = g_strsplit(text ? text : "", " ", -1);

        for (guint j = 0; children[j] && *children[j]; j++) {
            if (!seize_tree(o, atoi(children[j]), error))
                return false;
        }
    }
    return true;
}

static bool find_site(struct oracle_proc *p, GError **error)
{
    const struct oracle_task *leader = &g_array_index(p->tasks, struct oracle_task, 0);
    g_autofree char *maps = oracle_proc_file(p->pid, "maps");
    g_auto(GStrv) lines = g_strsplit(maps ? maps : "", "\n", -1);
    uint64_t start, end;
    uint8_t code[16384];

    for (guint i = 0; lines[i]; i++) {
        if (!g_str_has_suffix(lines[i], "[vdso]") ||
            sscanf(lines[i], "%lx-%lx", &start, &end) != 2 || end - start > sizeof code)
            continue;
        if (!agent_remote_read(&leader->tracee, start, code, end - start, error))
            return false;
        const uint8_t *at = memmem(code, end - start, "\x0f\x05", 2);

        if (!at)
            break;
        p->site.syscall_ip = start + (at - code);
        p->site.scratch =
            oracle_call(&leader->tracee, SYS_mmap, 0, SCRATCH_BYTES, PROT_READ | PROT_WRITE, 0x22);
        p->site.scratch_bytes = SCRATCH_BYTES;
        return true;
    }
    g_set_error(error, ORACLE_ERROR, 0, "no system call instruction in the vdso");
    return false;
}

static bool capture(struct oracle *o, struct oracle_proc *p, GError **error)
{
    if (p->tasks->len == 0)
        return oracle_zombie(o, p);
    if (!oracle_tasks(o, p, error) || !oracle_memory(o, p, error) || !find_site(p, error) ||
        !oracle_signals(o, p, error) || !oracle_files(o, p, error))
        return false;
    oracle_call(&g_array_index(p->tasks, struct oracle_task, 0).tracee, SYS_munmap, p->site.scratch,
                SCRATCH_BYTES, 0, 0);
    return true;
}

static void let_go(struct oracle *o, bool end)
{
    for (guint i = 0; i < o->procs->len; i++) {
        struct oracle_proc *p = g_ptr_array_index(o->procs, i);

        if (end)
            kill(p->pid, SIGKILL);
        for (guint j = 0; j < p->tasks->len; j++) {
            struct oracle_task *t = &g_array_index(p->tasks, struct oracle_task, j);
            g_autoptr(GError) ignored = NULL;

            if (!end && p->site.syscall_ip && agent_remote_settle(&t->tracee, &ignored)) {
                ptrace(PTRACE_SETREGS, t->tracee.tid, NULL, &t->regs);
                ptrace(PTRACE_SETSIGMASK, t->tracee.tid, sizeof t->blocked, &t->blocked);
            }
            ptrace(PTRACE_DETACH, t->tracee.tid, NULL, NULL);
        }
    }
}

int main(int argc, char **argv)
{
    const bool end = argc == 4 && strcmp(argv[1], "--kill") == 0;
    struct oracle o = {0};
    g_autoptr(GError) error = NULL;
    bool ok = true;

    if (argc != 3 && !end) {
        fprintf(stderr, "usage: proc-capture [--kill] PID FILE\n");
        return 2;
    }
    o.img = fmt_image_new();
    o.procs = g_ptr_array_new();
    o.windows = oracle_windows_new();
    o.objects = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    ok = seize_tree(&o, atoi(argv[argc - 2]), &error);
    head(o.img, atoi(argv[argc - 2]));
    for (guint i = 0; ok && i < o.procs->len; i++)
        ok = capture(&o, g_ptr_array_index(o.procs, i), &error);
    oracle_shared_files(&o);
    for (size_t i = 0; i < fmt_image_n_extents(o.img); i++)
        fmt_image_head(o.img)->n_pages += fmt_image_extent(o.img, i)->pages.n_pages;
    ok = ok && fmt_save(o.img, argv[argc - 1], NULL, NULL, &error);
    let_go(&o, end && ok);
    if (!ok)
        fprintf(stderr, "proc-capture: %s\n", error->message);
    fmt_image_unref(o.img);
    return ok ? 0 : 1;
}
