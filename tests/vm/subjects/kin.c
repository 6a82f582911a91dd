// SPDX-License-Identifier: GPL-2.0-or-later
// Who is whose child, in which session and group, and what tasks share with each other.
// Argument sessions: sessions and groups with and without leaders, orphans, children of threads.
// Argument sharing: memory, descriptors, directories and actions shared between processes and
// threads. Argument leader: the main thread has ended, another one goes on.
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/sched.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "subject.h"

#define MAX_TASKS 32

// Memory that all of them share; each writes what it is at its place.
static struct common {
    volatile pid_t tids[MAX_TASKS];
    volatile int ready[MAX_TASKS];
    volatile int n;
    volatile int quit;
} * common;

static pid_t own_tid(void)
{
    return (pid_t)syscall(SYS_gettid);
}

static pid_t clone_with(uint64_t flags, uint64_t exit_signal)
{
    struct clone_args args = {.flags = flags, .exit_signal = exit_signal};
    const pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);

    MUST(pid >= 0);
    return pid;
}

static int enlist(void)
{
    const int i = __atomic_fetch_add(&common->n, 1, __ATOMIC_SEQ_CST);

    MUST(i < MAX_TASKS);
    common->tids[i] = own_tid();
    __atomic_store_n(&common->ready[i], 1, __ATOMIC_SEQ_CST);
    return i;
}

static void await_n(int n)
{
    for (int i = 0; i < n; i++)
        while (!__atomic_load_n(&common->ready[i], __ATOMIC_SEQ_CST))
            subject_sleep_ms(1);
}

static _Noreturn void stay(void)
{
    for (;;)
        pause();
}

// One that stays, and ends with the parent that it has in the end.
static _Noreturn void stay_with(pid_t parent)
{
    while (getppid() != parent)
        subject_sleep_ms(1);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    enlist();
    stay();
}

/* ---- what is compared before and after ---- */

struct facts {
    int ppid, pgid, sid, subreaper_of;
    int same[4][MAX_TASKS]; // kcmp with each other
    char children[256];     // of the thread
    char cwd[256];
};

static const int kinds[4] = {KCMP_VM, KCMP_FILES, KCMP_FS, KCMP_SIGHAND};

static void read_text(char *ret, size_t size, const char *format, int pid)
{
    char path[128];
    int fd;
    ssize_t n;

    snprintf(path, sizeof path, format, pid, pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    n = fd < 0 ? 0 : read(fd, ret, size - 1);
    ret[n < 0 ? 0 : n] = '\0';
    if (fd >= 0)
        close(fd);
}

static void look(int i, struct facts *ret)
{
    const pid_t tid = common->tids[i];
    char stat[512], path[64];
    ssize_t n;

    memset(ret, 0, sizeof *ret);
    read_text(stat, sizeof stat, "/proc/%d/stat", tid);
    CHECK(strrchr(stat, ')'), "task %d of place %d is gone", tid, i);
    MUST(sscanf(strrchr(stat, ')') + 3, "%d %d %d", &ret->ppid, &ret->pgid, &ret->sid) == 3);
    read_text(ret->children, sizeof ret->children, "/proc/%d/task/%d/children", tid);
    snprintf(path, sizeof path, "/proc/%d/cwd", tid);
    n = readlink(path, ret->cwd, sizeof ret->cwd - 1);
    MUST(n > 0);
    for (int k = 0; k < 4; k++)
        for (int j = 0; j < common->n; j++)
            ret->same[k][j] = syscall(SYS_kcmp, tid, common->tids[j], kinds[k], 0, 0) == 0;
}

static struct facts before_all[MAX_TASKS];

static void compare(const struct facts *before, int i)
{
    struct facts now;

    look(i, &now);
    // The root's own parent is another; so is that of its threads.
    CHECK((before->ppid == before_all[0].ppid || now.ppid == before->ppid) &&
              now.pgid == before->pgid && now.sid == before->sid,
          "place %d: parent %d group %d session %d, not %d %d %d", i, now.ppid, now.pgid, now.sid,
          before->ppid, before->pgid, before->sid);
    CHECK(strcmp(now.children, before->children) == 0, "place %d: children %s, not %s", i,
          now.children, before->children);
    CHECK(strcmp(now.cwd, before->cwd) == 0, "place %d: in %s, not %s", i, now.cwd, before->cwd);
    for (int k = 0; k < 4; k++)
        for (int j = 0; j < common->n; j++)
            CHECK(now.same[k][j] == before->same[k][j], "places %d and %d: kind %d is %sshared", i,
                  j, k, now.same[k][j] ? "" : "not ");
}

static void watch(void (*sabotage)(void))
{
    for (int i = 0; i < common->n; i++)
        look(i, &before_all[i]);
    if (subject.sabotage)
        sabotage();
    subject_ready();
    while (!subject_asked()) {
        compare(&before_all[common->n - 1], common->n - 1);
        subject_sleep_ms(2);
    }
    for (int i = 0; i < common->n; i++)
        compare(&before_all[i], i);
}

/* ---- sessions ---- */

static void *thread_with_child(void *arg)
{
    const pid_t root = getpid();

    enlist();
    if (fork() == 0)
        stay_with(root);
    stay();
    return arg;
}

static void regroup(void)
{
    MUST(setpgid(common->tids[1], 0) == 0);
}

static _Noreturn void session_family(pid_t root)
{
    // Born before its parent's setsid: in the session of the grandparent.
    const pid_t self = getpid();

    if (fork() == 0)
        stay_with(self);
    MUST(setsid() == self);
    if (fork() == 0) {
        // Founds a group, which somebody else stays in.
        MUST(setpgid(0, 0) == 0);
        stay_with(self);
    }
    // An orphan in this session: falls to the root.
    const pid_t between = fork();

    MUST(between >= 0);
    if (between == 0) {
        if (fork() == 0)
            stay_with(root);
        _exit(0);
    }
    MUST(waitpid(between, NULL, 0) == between);
    stay_with(root);
}

static void start_sessions(void)
{
    const pid_t root = getpid();
    pthread_t thread;
    pid_t pid, group;

    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    enlist();
    if (fork() == 0)
        stay_with(root);
    await_n(2);
    if (fork() == 0)
        session_family(root);
    await_n(6);
    // Daemons: their sessions' leaders have ended.
    for (int i = 0; i < 2; i++) {
        pid = fork();
        if (pid == 0) {
            MUST(setsid() > 0);
            for (int j = 0; j <= i; j++)
                if (fork() == 0)
                    stay_with(root);
            _exit(0);
        }
        MUST(waitpid(pid, NULL, 0) == pid);
    }
    await_n(9);
    // A group whose leader has ended, with members of two parents.
    group = fork();
    if (group == 0) {
        MUST(setpgid(0, 0) == 0);
        stay();
    }
    while (getpgid(group) != group)
        subject_sleep_ms(1);
    pid = fork();
    if (pid == 0) {
        const pid_t self = getpid();

        MUST(setpgid(0, group) == 0);
        if (fork() == 0)
            stay_with(self);
        stay_with(root);
    }
    await_n(11);
    MUST(kill(group, SIGKILL) == 0 && waitpid(group, NULL, 0) == group);
    // A group that its founder has left.
    pid = fork();
    if (pid == 0) {
        const pid_t self = getpid();

        MUST(setpgid(0, 0) == 0);
        if (fork() == 0)
            stay_with(self);
        await_n(12);
        MUST(setpgid(0, common->tids[1]) == 0 || setpgid(0, getppid()) == 0);
        stay_with(root);
    }
    await_n(13);
    // A sibling's child in its parent's name.
    pid = fork();
    if (pid == 0) {
        MUST(setsid() > 0);
        if (clone_with(CLONE_PARENT, 0) == 0)
            stay_with(root);
        stay_with(root);
    }
    await_n(15);
    MUST(pthread_create(&thread, NULL, thread_with_child, NULL) == 0);
    await_n(17);
    watch(regroup);
    int reaper = 0;

    MUST(prctl(PR_GET_CHILD_SUBREAPER, &reaper) == 0);
    CHECK(reaper == 1, "it is no subreaper any more");
}

/* ---- sharing ---- */

#define STACK_BYTES 65536

static int vm_child(void *arg)
{
    syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
    enlist();
    for (;;)
        syscall(SYS_pause);
    return arg != NULL;
}

static void start_vm(int flags)
{
    char *stack =
        mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    MUST(stack != MAP_FAILED);
    MUST(clone(vm_child, stack + STACK_BYTES, flags | SIGCHLD, NULL) > 0);
}

static void *own_files(void *arg)
{
    MUST(unshare(CLONE_FILES) == 0);
    MUST(dup2(open("/dev/zero", O_RDONLY), 77) == 77);
    enlist();
    stay();
    return arg;
}

static void *own_fs(void *arg)
{
    MUST(unshare(CLONE_FS) == 0);
    MUST(chdir("/proc") == 0);
    umask(0123);
    enlist();
    if (clone_with(CLONE_FS, SIGCHLD) == 0)
        stay_with((pid_t)(uintptr_t)arg);
    stay();
    return arg;
}

static void unshare_files(void)
{
    MUST(unshare(CLONE_FILES) == 0);
}

static void start_sharing(void)
{
    const pid_t root = getpid();
    pthread_t thread;

    MUST(chdir("/") == 0);
    enlist();
    start_vm(CLONE_VM);
    await_n(2);
    start_vm(CLONE_VM | CLONE_SIGHAND);
    await_n(3);
    start_vm(CLONE_VM | CLONE_FS | CLONE_FILES);
    await_n(4);
    if (clone_with(CLONE_FILES, SIGCHLD) == 0)
        stay_with(root);
    await_n(5);
    if (clone_with(CLONE_FS, SIGCHLD) == 0)
        stay_with(root);
    await_n(6);
    // Two siblings that share what their parent has not.
    if (fork() == 0) {
        MUST(dup2(0, 99) == 99);
        if (clone_with(CLONE_PARENT | CLONE_FILES | CLONE_FS, 0) == 0)
            stay_with(root);
        stay_with(root);
    }
    await_n(8);
    MUST(pthread_create(&thread, NULL, own_files, NULL) == 0);
    await_n(9);
    MUST(pthread_create(&thread, NULL, own_fs, (void *)(uintptr_t)root) == 0);
    await_n(11);
    watch(unshare_files);
    CHECK(fcntl(77, F_GETFD) < 0, "a thread's own descriptor is here");
    // A descriptor that is opened now is there for who shares the table, and for no other.
    const int fd = dup2(open("/dev/null", O_RDONLY), 200);

    for (int i = 0; i < common->n; i++) {
        char path[64];

        snprintf(path, sizeof path, "/proc/%d/fd/%d", common->tids[i], fd);
        CHECK((access(path, F_OK) == 0) == before_all[0].same[1][i], "place %d: descriptor %d", i,
              fd);
    }
}

static void kill_children(void)
{
    for (int i = 1; i < common->n; i++)
        if (syscall(SYS_tgkill, getpid(), common->tids[i], 0) < 0)
            kill(common->tids[i], SIGKILL);
}

/* ---- a leader that has ended ---- */

static volatile uint64_t counted;

static void *count(void *arg)
{
    for (;;) {
        counted++;
        subject_sleep_ms(1);
    }
    return arg;
}

static void *go_on(void *arg)
{
    char stat[512];
    pthread_t thread;
    uint64_t last;

    do
        read_text(stat, sizeof stat, "/proc/self/task/%d/stat", getpid());
    while (strrchr(stat, ')')[2] != 'Z');
    MUST(pthread_create(&thread, NULL, count, NULL) == 0);
    subject_ready();
    do {
        last = counted;
        while (counted == last)
            subject_sleep_ms(1);
        read_text(stat, sizeof stat, "/proc/self/task/%d/stat", getpid());
        CHECK(strrchr(stat, ')')[2] == 'Z', "the main thread is in state %c",
              strrchr(stat, ')')[2]);
        CHECK(access("/dev/null", R_OK) == 0 && fcntl(99, F_GETFD) >= 0, "a descriptor: %m");
        if (subject.sabotage)
            close(99);
    } while (!subject_asked());
    CHECK(getpid() != own_tid(), "it is the main thread");
    subject_pass();
    return arg;
}

int main(int argc, char **argv)
{
    const char *what;
    pthread_t thread;

    subject_begin(argc, argv);
    what = subject.argument ? subject.argument : "sessions";
    common = mmap(NULL, sizeof *common, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(common != MAP_FAILED);
    if (strcmp(what, "leader") == 0) {
        MUST(dup2(0, 99) == 99);
        MUST(pthread_create(&thread, NULL, go_on, NULL) == 0);
        syscall(SYS_exit, 7);
    }
    if (strcmp(what, "sharing") == 0)
        start_sharing();
    else
        start_sessions();
    kill_children();
    subject_pass();
}
