// SPDX-License-Identifier: GPL-2.0-or-later
// oracle-subject WHAT: gets itself something of everything that a process can have, then waits.
//
// What the running kernel does not know is left out: the two views of it are compared, not the
// process with a list.
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <linux/securebits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef PR_SET_VMA
#define PR_SET_VMA           0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define MIB (1024 * 1024)
#define RW  (PROT_READ | PROT_WRITE)

static char folder[] = "/tmp/oracle-XXXXXX";

static char *map(size_t bytes, int prot, int flags, int fd, off_t offset)
{
    char *at = mmap(NULL, bytes, prot, flags | (fd < 0 ? MAP_ANONYMOUS : 0), fd, offset);

    if (at == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return at;
}

static void fill(char *at, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 8)
        *(uint64_t *)(void *)(at + i) = (uintptr_t)(at + i) * 0x9e3779b97f4a7c15u;
}

static int file_of(const char *name, size_t bytes)
{
    char path[64];
    char page[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0640);

    for (size_t i = 0; i < bytes; i += sizeof page) {
        memset(page, (int)('a' + i / sizeof page % 26), sizeof page);
        if (write(fd, page, sizeof page) < 0)
            exit(1);
    }
    return fd;
}

/* ---- memory ---- */

static void advise(int advice)
{
    char *at = map(8 * 4096, RW, MAP_PRIVATE, -1, 0);

    fill(at, 3 * 4096);
    madvise(at, 8 * 4096, advice);
}

static void holes(void)
{
    // A page out of two cannot be touched, and one out of three is not there.
    for (int i = 0; i < 200; i++) {
        char *at = map(6 * 4096, PROT_NONE, MAP_PRIVATE, -1, 0);
        mprotect(at + 4096, 4096, RW);
        at[4096] = (char)i;
        mprotect(at + 3 * 4096, 4096, PROT_READ | PROT_EXEC);
        munmap(at + 5 * 4096, 4096);
    }
    char *was = map(4 * 4096, RW, MAP_PRIVATE, -1, 0);
    fill(was, 4 * 4096);
    mprotect(was, 4 * 4096, PROT_NONE); // with contents, which nobody may read
}

static void huge_pages(void)
{
    char *at = map(12 * MIB, RW, MAP_PRIVATE, -1, 0);
    char *aligned = (char *)(((uintptr_t)at + 2 * MIB - 1) & ~(uintptr_t)(2 * MIB - 1));

    madvise(aligned, 8 * MIB, MADV_HUGEPAGE);
    fill(aligned, 5 * MIB);
    mprotect(aligned + MIB, 4096, PROT_READ); // splits one
    madvise(aligned + 3 * MIB, 3 * 4096, MADV_DONTNEED);
    munmap(aligned + 4 * MIB + 4096, 5 * 4096);
    volatile char *zero = map(4 * MIB, PROT_READ, MAP_PRIVATE, -1, 0);
    for (size_t i = 0; i < 4 * MIB; i += 8192)
        (void)zero[i];
}

static void locks(void)
{
    char *at = map(4 * 4096, RW, MAP_PRIVATE, -1, 0);
    char *fault = map(4 * 4096, RW, MAP_PRIVATE, -1, 0);

    mlock(at, 4 * 4096);
    fault[4096] = 1;
    syscall(SYS_mlock2, fault, 4 * 4096, 1 /* MLOCK_ONFAULT */);
    map(4 * 4096, RW, MAP_PRIVATE | MAP_LOCKED, -1, 0);
}

static void names(void)
{
    char *at = map(8 * 4096, RW, MAP_PRIVATE, -1, 0);

    prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, at, 4096, "a name with spaces");
    prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, at + 3 * 4096, 2 * 4096, "other");
    fill(at, 4 * 4096);
}

static void files_mapped(void)
{
    int fd = file_of("mapped", 40 * 4096);
    char *own = map(20 * 4096, RW, MAP_PRIVATE, fd, 4096);
    char *shared = map(20 * 4096, RW, MAP_SHARED, fd, 3 * 4096);
    volatile char *seen = map(8 * 4096, PROT_READ, MAP_SHARED, fd, 30 * 4096);

    fill(own + 4096, 3 * 4096);
    fill(shared + 5 * 4096, 2 * 4096);
    (void)seen[4096];
    map(4 * 4096, PROT_READ, MAP_PRIVATE, open("/proc/self/exe", O_RDONLY | O_CLOEXEC), 0);
    char *beyond = map(20 * 4096, RW, MAP_PRIVATE, file_of("short", 4096), 0);
    beyond[100] = 1;
    mprotect(own + 10 * 4096, 4096, PROT_NONE);
}

static void shared_memory(void)
{
    int fd = memfd_create("vm graft", MFD_ALLOW_SEALING | MFD_CLOEXEC);
    char *anon = map(MIB, RW, MAP_SHARED, -1, 0);

    if (ftruncate(fd, 64 * 4096) < 0)
        exit(1);
    char *shared = map(32 * 4096, RW, MAP_SHARED, fd, 8 * 4096);
    char *own = map(32 * 4096, RW, MAP_PRIVATE, fd, 0);
    fill(shared, 5 * 4096);
    fill(own + 4096, 4096);
    volatile char *look = own + 9 * 4096; // shows the shared page, not one of its own
    (void)*look;
    fill(anon + 7 * 4096, 3 * 4096);
    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
}

static void keys(void)
{
    int key = (int)syscall(SYS_pkey_alloc, 0, 1 /* PKEY_DISABLE_ACCESS */);
    char *at = map(4 * 4096, RW, MAP_PRIVATE, -1, 0);

    fill(at, 4096);
    if (key > 0)
        syscall(SYS_pkey_mprotect, at, 2 * 4096, RW, key);
}

static void memory(void)
{
    static const int advices[] = {MADV_DONTFORK,   MADV_WIPEONFORK, MADV_DONTDUMP,
                                  MADV_NOHUGEPAGE, MADV_MERGEABLE,  MADV_SEQUENTIAL,
                                  MADV_RANDOM,     MADV_HUGEPAGE,   MADV_FREE};

    for (size_t i = 0; i < sizeof advices / sizeof *advices; i++)
        advise(advices[i]);
    holes();
    huge_pages();
    locks();
    names();
    files_mapped();
    shared_memory();
    keys();
    map(MIB, RW, MAP_PRIVATE | MAP_NORESERVE, -1, 0)[5] = 1;
    map(16 * 4096, RW, MAP_PRIVATE | MAP_GROWSDOWN | MAP_STACK, -1, 0)[15 * 4096] = 1;
    char *heap = malloc(300000);
    fill(heap, 200000);
    if (fork() == 0) { // pages that are shared until somebody writes
        fill(heap + 8192, 4096);
        for (;;)
            pause();
    }
}

/* ---- signals, timers ---- */

static void handler(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)info, (void)context;
}

static void signals(void)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    stack_t stack = {.ss_sp = malloc(65536), .ss_size = 65536};
    struct itimerval timer = {{7, 500000}, {3000, 0}};
    sigset_t set;

    sigaltstack(&stack, NULL);
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGUSR2);
    sigaddset(&action.sa_mask, 40);
    sigaction(SIGUSR1, &action, NULL);
    action.sa_flags = SA_SIGINFO | SA_RESTART | SA_NODEFER | SA_RESETHAND;
    sigaction(64, &action, NULL);
    action.sa_flags = SA_NOCLDSTOP | SA_NOCLDWAIT;
    action.sa_handler = SIG_DFL;
    sigaction(SIGCHLD, &action, NULL);
    signal(SIGPIPE, SIG_IGN);

    sigfillset(&set);
    sigdelset(&set, SIGTERM);
    sigprocmask(SIG_SETMASK, &set, NULL);
    for (int i = 0; i < 20; i++)
        sigqueue(getpid(), 35 + i % 3, (union sigval){.sival_int = i * 1000});
    kill(getpid(), SIGUSR1);
    kill(getpid(), SIGHUP);
    raise(SIGUSR2);
    pthread_sigqueue(pthread_self(), 50, (union sigval){.sival_ptr = &set});
    setitimer(ITIMER_REAL, &timer, NULL);
}

/* ---- identity ---- */

static void capabilities(uint64_t permitted, uint64_t inheritable)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];

    for (int i = 0; i < 2; i++)
        data[i] = (struct __user_cap_data_struct){(uint32_t)(permitted >> 32 * i) & 0x7fffffff,
                                                  (uint32_t)(permitted >> 32 * i),
                                                  (uint32_t)(inheritable >> 32 * i)};
    syscall(SYS_capset, &head, data);
}

static void attributes(void)
{
    prctl(PR_SET_TIMERSLACK, 123456);
    prctl(PR_SET_PDEATHSIG, SIGUSR2);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    prctl(PR_SET_NAME, "a (b) c\\d");
    personality(ADDR_NO_RANDOMIZE);
    setpriority(PRIO_PROCESS, 0, -7);
    syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 5);
    umask(0137);
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (write(fd, "-321", 4) < 0)
        exit(1);
    close(fd);
}

static void identity(void)
{
    const gid_t groups[] = {7, 70000, 3, 1000000};
    const struct rlimit files = {300, 4000}, core = {RLIM_INFINITY, RLIM_INFINITY};
    struct sched_param param = {0};

    setsid();
    attributes();
    sched_setscheduler(0, SCHED_BATCH | SCHED_RESET_ON_FORK, &param);
    setrlimit(RLIMIT_NOFILE, &files);
    setrlimit(RLIMIT_CORE, &core);
    if (chdir(folder) < 0)
        exit(1);
    setgroups(4, groups);
    prctl(PR_CAPBSET_DROP, 21);
    prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS);
    setresgid(11, 12, 13);
    setresuid(21, 22, 23);
    capabilities(0x1c0ull | 1ull << 38, 0x40 | 1ull << 38);
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 6, 0, 0);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_DUMPABLE, 0);
}

/* ---- descriptors ---- */

static void files(void)
{
    int fds[2], positioned = file_of("positioned", 3 * 4096);
    char text[5000];

    memset(text, 'x', sizeof text);
    lseek(positioned, 12345, SEEK_SET);
    dup2(positioned, 100);
    fcntl(100, F_SETFD, FD_CLOEXEC);
    fcntl(file_of("append", 0), F_SETFL, O_APPEND | O_NONBLOCK);
    open(folder, O_RDONLY | O_DIRECTORY);
    open(folder, O_PATH | O_CLOEXEC);
    open("/dev/null", O_WRONLY | O_SYNC);
    if (pipe(fds) < 0 || write(fds[1], text, sizeof text) < 0 || read(fds[0], text, 700) < 0)
        exit(1);
    memset(text, 'y', sizeof text);
    if (write(fds[1], text, 300) < 0)
        exit(1);
    fcntl(fds[1], F_SETPIPE_SZ, 1 << 18);
    if (pipe2(fds, O_DIRECT | O_NONBLOCK) < 0 || write(fds[1], "one", 3) < 0 ||
        write(fds[1], "three", 5) < 0)
        exit(1);
    int page = file_of("spliced", 4 * 4096);
    loff_t at = 100;
    if (pipe(fds) < 0 || splice(page, &at, fds[1], NULL, 9000, 0) < 0)
        exit(1);
    char fifo[64];
    snprintf(fifo, sizeof fifo, "%s/fifo", folder);
    mkfifo(fifo, 0600);
    if (write(open(fifo, O_RDWR), "fifo", 4) < 0)
        exit(1);
    unlink(strcat(strcpy(fifo, folder), "/positioned"));
    eventfd(7, 0);
    epoll_create1(0);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
        exit(1);
    fcntl(dup(positioned), F_DUPFD, 250);
}

/* ---- threads ---- */

static uint32_t word;
static int empty[2];

// Vector state and control words of its own for every thread.
static void paint(uint64_t seed)
{
    uint64_t values[4] = {seed, ~seed, seed << 17, seed * 3};
    uint32_t mxcsr = 0x1f80 | (uint32_t)(seed % 4) << 13;
    uint16_t control = (uint16_t)(0x037f & ~(seed % 2 << 8));

    __asm__ volatile("ldmxcsr %0\n fldcw %1\n fldpi" ::"m"(mxcsr), "m"(control));
    __asm__ volatile("movups %0, %%xmm5\n movups %0, %%xmm15" ::"m"(values) : "xmm5", "xmm15");
    if (__builtin_cpu_supports("avx2"))
        __asm__ volatile("vmovdqu %0, %%ymm7\n vmovdqu %0, %%ymm14" ::"m"(values)
                         : "xmm7", "xmm14");
}

static void wait_futex(void)
{
    syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL, NULL, 0);
}

static void wait_futex_time(void)
{
    struct timespec time = {4000, 5};
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &time, NULL, 0);
}

static void wait_futex_bitset(void)
{
    struct timespec time = {4000000000, 5};
    syscall(SYS_futex, &word, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 0, &time, NULL, 0xff00);
}

static void wait_sleep(void)
{
    struct timespec time = {4000, 5}, left;
    syscall(SYS_nanosleep, &time, &left);
}

static void wait_sleep_clock(void)
{
    struct timespec time = {5000, 7}, left;
    syscall(SYS_clock_nanosleep, CLOCK_BOOTTIME, 0, &time, &left);
}

static void wait_sleep_until(void)
{
    struct timespec time = {4000000000, 7};
    syscall(SYS_clock_nanosleep, CLOCK_REALTIME, TIMER_ABSTIME, &time, NULL);
}

static void wait_poll(void)
{
    struct pollfd fd = {empty[0], POLLIN, 0};
    syscall(SYS_poll, &fd, 1, 3000000);
}

static void wait_poll_ever(void)
{
    struct pollfd fd = {empty[0], POLLIN, 0};
    syscall(SYS_poll, &fd, 1, -1);
}

static void wait_ppoll(void)
{
    struct pollfd fd = {empty[0], POLLIN, 0};
    struct timespec time = {4000, 5};
    uint64_t mask = 0x1234500;
    syscall(SYS_ppoll, &fd, 1, &time, &mask, 8);
}

static void wait_select(void)
{
    struct timeval time = {4000, 5};
    fd_set set;
    FD_ZERO(&set);
    FD_SET(empty[0], &set);
    syscall(SYS_select, empty[0] + 1, &set, NULL, NULL, &time);
}

static void wait_pselect(void)
{
    uint64_t mask = 0xff00;
    struct {
        uint64_t *at;
        size_t bytes;
    } masks = {&mask, 8};
    syscall(SYS_pselect6, 0, NULL, NULL, NULL, NULL, &masks);
}

static void wait_epoll(void)
{
    struct epoll_event event;
    syscall(SYS_epoll_wait, epoll_create1(EPOLL_CLOEXEC), &event, 1, 3000000);
}

static void wait_epoll_mask(void)
{
    struct epoll_event event;
    uint64_t mask = 0x100;
    syscall(SYS_epoll_pwait, epoll_create1(EPOLL_CLOEXEC), &event, 1, -1, &mask, 8);
}

static void wait_suspended(void)
{
    uint64_t mask = 0x5500;
    syscall(SYS_rt_sigsuspend, &mask, 8);
}

static void wait_signal(void)
{
    uint64_t set = 1ull << 45;
    struct timespec time = {4000, 5};
    syscall(SYS_rt_sigtimedwait, &set, NULL, &time, 8);
}

static void wait_signal_ever(void)
{
    uint64_t set = 1ull << 46;
    syscall(SYS_rt_sigtimedwait, &set, NULL, NULL, 8);
}

static void wait_read(void)
{
    char byte;
    syscall(SYS_read, empty[0], &byte, 1);
}

static void wait_child(void)
{
    syscall(SYS_wait4, -1, NULL, __WALL, NULL);
}

static void wait_accept(void)
{
    struct sockaddr name = {AF_UNIX, ""};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    bind(fd, &name, sizeof(sa_family_t));
    listen(fd, 1);
    syscall(SYS_accept, fd, NULL, NULL);
}

static void wait_lock(void)
{
    char path[64];
    snprintf(path, sizeof path, "%s/lock", folder);
    flock(open(path, O_RDWR | O_CREAT, 0600), LOCK_EX);
    syscall(SYS_flock, open(path, O_RDWR), LOCK_EX);
}

static void wait_pause(void)
{
    syscall(SYS_pause);
}

static void wait_fifo(void)
{
    struct sched_param param = {.sched_priority = 17};
    sched_setscheduler(0, SCHED_FIFO, &param);
    wait_futex();
}

static void wait_pinned(void)
{
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(0, &cpus);
    sched_setaffinity(0, sizeof cpus, &cpus);
    setpriority(PRIO_PROCESS, 0, 11);
    prctl(PR_SET_NAME, "pinned");
    prctl(PR_SET_TIMERSLACK, 1);
    wait_futex();
}

static void wait_stack(void)
{
    stack_t stack = {.ss_sp = malloc(16384), .ss_size = 16384, .ss_flags = (int)(1u << 31)};
    sigaltstack(&stack, NULL);
    raise(60); // pending for this thread: blocked
    wait_futex();
}

static void (*const waits[])(void) = {
    wait_futex,       wait_futex_time, wait_futex_bitset, wait_sleep,     wait_sleep_clock,
    wait_sleep_until, wait_poll,       wait_poll_ever,    wait_ppoll,     wait_select,
    wait_pselect,     wait_epoll,      wait_epoll_mask,   wait_suspended, wait_signal,
    wait_signal_ever, wait_read,       wait_child,        wait_accept,    wait_lock,
    wait_pause,       wait_fifo,       wait_pinned,       wait_stack,
};

static void *waiter(void *which)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, 60);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    paint((uintptr_t)which + 1000);
    waits[(uintptr_t)which]();
    fprintf(stderr, "wait %zu has ended: %s\n", (size_t)which, strerror(errno));
    return NULL;
}

static void threads(void)
{
    pthread_t thread;

    if (pipe(empty) < 0)
        exit(1);
    if (fork() == 0) {
        for (;;)
            pause();
    }
    for (uintptr_t i = 0; i < sizeof waits / sizeof *waits; i++)
        pthread_create(&thread, NULL, waiter, (void *)i);
    paint(5);
}

static void spin(void)
{
    close(open("/tmp/ready", O_WRONLY | O_CREAT, 0600));
    for (;;)
        paint(7);
}

static const struct {
    const char *name;
    void (*get)(void);
} kinds[] = {
    {"memory", memory}, {"signals", signals}, {"identity", identity},
    {"files", files},   {"threads", threads}, {"spin", spin},
};

int main(int argc, char **argv)
{
    if (!mkdtemp(folder))
        return 1;
    chmod(folder, 0777);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (argc == 2 && strcmp(argv[1], kinds[i].name) == 0) {
            kinds[i].get();
            for (;;)
                pause();
        }
    fprintf(stderr, "usage: oracle-subject memory|signals|identity|files|threads|spin\n");
    return 2;
}
