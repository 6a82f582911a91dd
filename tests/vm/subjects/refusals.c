// SPDX-License-Identifier: GPL-2.0-or-later
// A tree that holds as much at once of what cannot go along as a guest has to offer.
//
// WORKDIR/expected lists it, a line each: kind, pid, descriptor (-1: none), a word of the text.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <net/ethernet.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "oddities.h"
#include "subject.h"

#define PAGE 4096

static int expected; // WORKDIR/expected, while it is written

static void expect(const char *kind, pid_t pid, int fd, const char *word)
{
    char line[128];
    const int n = snprintf(line, sizeof line, "%s %d %d %s\n", kind, (int)pid, fd, word);

    MUST(n < (int)sizeof line && write(expected, line, (size_t)n) == n);
}

/* ---- descriptors ---- */

static int open_uring(void)
{
    static struct io_uring_params params;

    const int fd = (int)syscall(SYS_io_uring_setup, 4, &params);

    // The rings are memory of the kernel's, and not refused for themselves.
    if (fd >= 0)
        MUST(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, IORING_OFF_SQ_RING) != MAP_FAILED);
    return fd;
}

static int open_uffd(void)
{
    struct uffdio_api api = {.api = UFFD_API};
    const int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

    return fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0 ? fd : -1;
}

static int open_kvm(void)
{
    return open("/dev/kvm", O_RDWR);
}

static int open_vm(void)
{
    const int kvm = open_kvm(), vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);

    if (kvm >= 0)
        close(kvm);
    return vm;
}

static int open_init(void)
{
    return open("/proc/1/status", O_RDONLY);
}

static int open_tcp(void)
{
    const struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons(4242)};
    const int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;

    return fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0 &&
                   bind(fd, (const struct sockaddr *)&name, sizeof name) == 0 && listen(fd, 5) == 0
               ? fd
               : -1;
}

static int open_raw(void)
{
    return socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
}

static int open_udp(void)
{
    return socket(AF_INET6, SOCK_DGRAM, 0);
}

static int open_packet(void)
{
    return socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
}

static int open_watched(void)
{
    const int fd = open("/tmp", O_RDONLY | O_DIRECTORY);

    return fd >= 0 && fcntl(fd, F_NOTIFY, DN_RENAME) == 0 ? fd : -1;
}

// Somebody asks for a lease back, who does not wait for it; the kernel gives us time.
static int open_leased(void)
{
    const int time = open("/proc/sys/fs/lease-break-time", O_WRONLY);
    const int fd = open("/tmp/leased", O_RDWR | O_CREAT, 0600);

    MUST(time >= 0 && write(time, "10000", 5) == 5 && close(time) == 0);
    MUST(fd >= 0 && signal(SIGIO, SIG_IGN) != SIG_ERR && fcntl(fd, F_SETLEASE, F_WRLCK) == 0);
    MUST(open("/tmp/leased", O_RDONLY | O_NONBLOCK) < 0 && errno == EWOULDBLOCK);
    return unlink("/tmp/leased") == 0 ? fd : -1;
}

static struct thing {
    int (*open)(void);
    const char *kind, *word;
    bool perhaps; // not every guest has it
    int fd;
} things[] = {
    {open_uring, "io_uring", "[io_uring]", false, -1},
    {open_uffd, "userfaultfd", "[userfaultfd]", false, -1},
    {open_perf, "perf-event", "[perf_event]", false, -1},
    {open_bpf_map, "bpf", "bpf-map", false, -1},
    {open_kmsg, "device", "/dev/kmsg", false, -1},
    {open_kvm, "device", "/dev/kvm", true, -1},
    {open_vm, "kvm", "kvm-vm", true, -1},
    {open_fanotify, "fanotify", "[fanotify]", false, -1},
    {open_debugfs, "kernel-file", "clear_warn_once", false, -1},
    {open_fscontext, "kernel-object", "[fscontext]", false, -1},
    {open_uts_namespace, "namespace", "nsfs:", false, -1},
    {open_init, "proc-file", "/proc/1/status", false, -1},
    {open_tcp, "socket", "0.0.0.0:4242", false, -1},
    {open_raw, "socket", "raw", false, -1},
    {open_udp, "socket", "UDP", false, -1},
    {open_packet, "socket", "packet", false, -1},
    {open_netlink, "socket", "netlink", false, -1},
    {open_watched, "dnotify", "F_NOTIFY", false, -1},
    {open_leased, "lease", "asked", false, -1},
};

#define N_THINGS (sizeof things / sizeof things[0])

static void make_things(void)
{
    for (size_t i = 0; i < N_THINGS; i++) {
        things[i].fd = things[i].open();
        if (things[i].fd < 0 && things[i].perhaps)
            continue;
        CHECK(things[i].fd >= 0, "%s: %m", things[i].word);
        expect(things[i].kind, getpid(), things[i].fd, things[i].word);
    }
}

/* ---- memory that another thread fills ---- */

static uint8_t *filled;

static void *fill(void *unused)
{
    static uint8_t page[PAGE] __attribute__((aligned(PAGE)));
    struct uffd_msg message;

    (void)unused;
    memset(page, 0x5e, PAGE);
    while (read(things[1].fd, &message, sizeof message) == sizeof message) {
        struct uffdio_copy copy = {.dst = message.arg.pagefault.address & ~(PAGE - 1ull),
                                   .src = (uintptr_t)page,
                                   .len = PAGE};
        MUST(ioctl(things[1].fd, UFFDIO_COPY, &copy) == 0);
    }
    return NULL;
}

static void make_filled(void)
{
    struct uffdio_register reg = {.range = {.len = 4 * PAGE}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    pthread_t thread;

    filled = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(filled != MAP_FAILED);
    reg.range.start = (uintptr_t)filled;
    MUST(ioctl(things[1].fd, UFFDIO_REGISTER, &reg) == 0);
    MUST(pthread_create(&thread, NULL, fill, NULL) == 0);
    CHECK(filled[0] == 0x5e, "memory that is filled by a thread");
    expect("userfaultfd", getpid(), -1, "registered");
}

/* ---- what a process is, rather than holds ---- */

static aio_context_t aio;

static void make_state(void)
{
    const pid_t pid = getpid();

    expect("io_uring", pid, -1, "uses");
    expect("perf", pid, -1, "perf_event_open");
    MUST(syscall(SYS_io_setup, 1, &aio) == 0);
    expect("aio", pid, -1, "io_setup");
    expect("aio", pid, -1, "ring");
    expect("mapping", pid, -1, "aio");
    MUST(ioperm(0x80, 1, 1) == 0);
    expect("ioperm", pid, -1, "ioperm");
    MUST(iopl(3) == 0);
    expect("iopl", pid, -1, "iopl");
    MUST(unshare(CLONE_NEWUTS) == 0);
    expect("namespace", pid, -1, "UTS");
}

/* ---- what others hold as well ---- */

static int pipe_out[2], pair[2], terminal, event, file;
static volatile uint64_t *shared;

static void make_outsider(pid_t traced)
{
    shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(shared != MAP_FAILED && pipe(pipe_out) == 0);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    MUST((terminal = open("/dev/ptmx", O_RDWR | O_NOCTTY)) >= 0 && (event = eventfd(3, 0)) >= 0);
    MUST((file = open("/proc/self/exe", O_RDONLY)) >= 0);

    const pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        if (fork() != 0)
            _exit(0);
        setsid();
        // All that the parent holds would be held by two.
        for (size_t i = 0; i < N_THINGS; i++)
            close(things[i].fd);
        close(pipe_out[1]), close(pair[0]);
        shared[2] = (uint64_t)getpid();
        shared[0] = ptrace(PTRACE_SEIZE, traced, 0, 0) == 0 ? 1 : 2;
        while (access(subject.workdir, F_OK) == 0) {
            char bytes[16];
            const ssize_t n = recv(pair[1], bytes, sizeof bytes, MSG_DONTWAIT);
            if (n > 0)
                send(pair[1], bytes, (size_t)n, MSG_NOSIGNAL);
            shared[1]++;
            subject_sleep_ms(10);
        }
        _exit(0);
    }
    MUST(waitpid(child, NULL, 0) == child);
    while (shared[0] == 0)
        subject_sleep_ms(1);
    CHECK(shared[0] == 1, "the one outside cannot trace");
    close(pipe_out[0]), close(pair[1]);
    expect("external-pipe", getpid(), pipe_out[1], "other");
    expect("external-socket", getpid(), pair[0], "other");
    expect("external-memory", getpid(), -1, "shares");
    expect("tty-outside", getpid(), terminal, "also held");
    expect("external-file", getpid(), event, "also held");
    expect("ptraced", traced, -1, "traced");
    MUST(ptrace(PTRACE_SEIZE, (pid_t)shared[2], 0, 0) == 0);
    expect("tracer", getpid(), -1, "traces");
}

/* ---- children ---- */

static _Noreturn void idle(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;)
        pause();
}

static int steps[2]; // a child says that it is where it will stay

static void begin_child(void)
{
    MUST(pipe2(steps, O_CLOEXEC) == 0);
}

static void await_child(void)
{
    char byte;

    close(steps[1]);
    CHECK(read(steps[0], &byte, 1) == 1, "a child does not get where it should");
    close(steps[0]);
}

static _Noreturn void stay(void)
{
    MUST(write(steps[1], "", 1) == 1);
    close(steps[0]), close(steps[1]);
    idle();
}

static pid_t make_child(void)
{
    const pid_t child = fork();

    MUST(child >= 0);
    if (child == 0)
        idle();
    return child;
}

// The first of a pid namespace, in other namespaces of its own as well.
static pid_t make_nested(void)
{
    const pid_t child = (pid_t)syscall(
        SYS_clone, CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUSER | SIGCHLD, 0, 0, 0,
        0);

    MUST(child >= 0);
    if (child == 0)
        idle();
    expect("pid-namespace", child, -1, "below");
    expect("namespace", child, -1, "network");
    expect("namespace", child, -1, "IPC");
    expect("user-namespace", child, -1, "user");
    return child;
}

// Its next children would live elsewhere, and it has shut itself in.
static pid_t make_recluse(void)
{
    static const struct {
        uint64_t handled_access_fs;
    } rules = {1}; // execute
    const int ruleset = (int)syscall(SYS_landlock_create_ruleset, &rules, sizeof rules, 0);
    const bool has_landlock = ruleset >= 0 || errno != ENOSYS; // since 5.13

    begin_child();
    const pid_t child = fork();

    MUST(child >= 0);
    if (child == 0) {
        if (unshare(CLONE_NEWPID) < 0 || unshare(CLONE_NEWTIME) < 0 ||
            prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
            (has_landlock && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0))
            subject_fail("a recluse: %m");
        close(ruleset);
        stay();
    }
    close(ruleset);
    await_child();
    expect("pid-namespace", child, -1, "next children");
    expect("time-namespace", child, -1, "next children");
    if (has_landlock)
        expect("landlock", child, -1, "Landlock");
    return child;
}

#define SHARED (CLONE_VM | CLONE_FILES | CLONE_FS | SIGCHLD)

static int share(void *unused)
{
    (void)unused;
    while (access(subject.workdir, F_OK) == 0)
        subject_sleep_ms(10);
    return 0;
}

static int leave_sharer(void *unused)
{
    static uint8_t stack[64 * 1024] __attribute__((aligned(16)));

    (void)unused;
    return clone(share, stack + sizeof stack, SHARED, NULL) < 0;
}

// Shares memory, descriptors and directories with an orphan, which is init's.
static pid_t make_sharer(void)
{
    static uint8_t stack[64 * 1024] __attribute__((aligned(16)));

    begin_child();
    const pid_t child = fork();

    MUST(child >= 0);
    if (child == 0) {
        const pid_t between = clone(leave_sharer, stack + sizeof stack, SHARED, NULL);
        int status;

        MUST(between > 0 && waitpid(between, &status, 0) == between && status == 0);
        stay();
    }
    await_child();
    expect("shared-mm", child, -1, "outside of the tree");
    expect("shared-files", child, -1, "outside of the tree");
    expect("shared-fs", child, -1, "outside of the tree");
    return child;
}

// Lives in a directory that is gone.
static pid_t make_exile(void)
{
    begin_child();
    const pid_t child = fork();

    MUST(child >= 0);
    if (child == 0) {
        MUST(mkdir("/tmp/exile", 0700) == 0 && chroot("/tmp/exile") == 0 && chdir("/") == 0);
        stay();
    }
    await_child();
    MUST(rmdir("/tmp/exile") == 0);
    expect("deleted-directory", child, -1, "/tmp/exile");
    return child;
}

/* ---- what is lost without a refusal ---- */

static void write_to(const char *path, const char *text)
{
    const int fd = open(path, O_WRONLY);

    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), "%s: %m", path);
    close(fd);
}

static void make_losses(void)
{
    unsigned long nodes = 1;
    void *at = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    MUST(syscall(SYS_mbind, at, PAGE, 2 /* MPOL_BIND */, &nodes, 64, 0) == 0);
    write_to("/proc/self/loginuid", "1234");
    write_to("/proc/self/autogroup", "3");
}

/* ---- unharmed? ---- */

static void check(pid_t traced, pid_t nested)
{
    char bytes[8];

    CHECK(filled[PAGE] == 0x5e && filled[3 * PAGE] == 0x5e, "memory that a thread fills");
    for (size_t i = 0; i < N_THINGS; i++)
        CHECK(things[i].fd < 0 || fcntl(things[i].fd, F_GETFD) >= 0, "%s: %m", things[i].word);
    CHECK(syscall(SYS_io_uring_enter, things[0].fd, 0, 0, 0, NULL, 0) == 0, "io_uring: %m");
    CHECK(write(pipe_out[1], "a", 1) == 1, "pipe: %m");
    CHECK(send(pair[0], "bc", 2, 0) == 2 && recv(pair[0], bytes, 8, 0) == 2, "socket: %m");
    uint64_t count;
    CHECK(read(event, &count, 8) == 8 && count == 3, "eventfd: %m");
    const uint64_t ticks = shared[1];
    AWAIT(shared[1] > ticks, "memory shared with the one outside");
    CHECK(kill(traced, 0) == 0 && kill(nested, 0) == 0, "a child is gone");
    CHECK(syscall(SYS_io_destroy, aio) == 0, "asynchronous I/O: %m");
}

int main(int argc, char **argv)
{
    char path[256];

    subject_begin(argc, argv);
    snprintf(path, sizeof path, "%s/expected", subject.workdir);
    MUST((expected = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)) >= 0);
    const pid_t traced = make_child(), nested = make_nested();
    const pid_t recluse = make_recluse(), sharer = make_sharer(), exile = make_exile();
    make_things();
    make_outsider(traced);
    make_filled();
    make_state();
    make_losses();
    close(expected);
    subject_ready();
    if (subject.sabotage)
        close(things[0].fd);
    while (!subject_asked())
        subject_sleep_ms(10);
    check(traced, nested);
    CHECK(kill(recluse, 0) == 0 && kill(sharer, 0) == 0 && kill(exile, 0) == 0, "a child is gone");
    subject_pass();
}
