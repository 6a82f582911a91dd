// SPDX-License-Identifier: GPL-2.0-or-later
// Calls that threads sleep in (calls_table.c), entered with a known value in every register
// (calls_enter.S).
#pragma once

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>

// In this order, in memory too.
#ifdef __x86_64__
enum { RAX, RCX, RDX, RBX, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15, N_REGS };
#define CALLS_ARGUMENTS RDI, RSI, RDX, R10, R8, R9
#else
enum { RAX, RCX, RDX, RBX, RBP, RSI, RDI, N_REGS };
#define CALLS_ARGUMENTS RBX, RCX, RDX, RSI, RDI, RBP
#endif

struct calls_regs {
    unsigned long in[N_REGS], out[N_REGS];
};

// Loads all of regs->in, calls, and stores all in regs->out. The stack pointer is that of C code.
void calls_enter(struct calls_regs *regs);

// Not a function: what follows the instruction that calls.
extern const char calls_behind[];

#define CALLS_SIGWAITED (SIGRTMIN + 5) // what sigwait() waits for
#define CALLS_ANY       (-100000)      // a descriptor or a process

// What a call that a handler interrupts does.
enum interrupted {
    FAILS,    // EINTR in any case
    RESTARTS, // goes on where the handler has SA_RESTART
    GOES_ON,  // in any case
};

struct worker;
typedef void worker_fn(struct worker *w);

struct call {
    const char *name;
    worker_fn *prepare; // by the thread: says what to call with
    worker_fn *end;     // by the main thread, while it sleeps; NULL: it ends by its timeout
    enum interrupted interrupted;
    long want;        // what it returns at its own end
    worker_fn *move;  // by the main thread, once it sleeps
    worker_fn *after; // by the thread, after each call
    worker_fn *last;  // by the main thread, at the end
    bool masks;       // lets signals in that are blocked otherwise
    bool optional;    // older kernels have it not
    bool tells_left;  // an interrupted one says how much is left of it
    bool stops;       // a stop ends it, with EINTR
    bool elsewhere;   // it may go on elsewhere than where it was called
};

struct worker {
    const struct call *call;
    struct calls_regs regs;
    uint64_t seed;
    unsigned begun, done, handled; // in which round
    pid_t tid, child;
    int fds[2], extra;
    bool made; // has its descriptors
    struct timespec ts, left;
    struct timeval tv;
    struct pollfd poll;
    struct epoll_event event;
    uint32_t words[2];
    uint64_t mask; // of the thread
    uint64_t let;  // while it sleeps, or what it waits for
    uint64_t begin_ns;
    long wanted;
    timer_t timer;
    bool lacks; // this kernel has no such call
    int signo;  // what it is interrupted by
    bool moved, ended;
    pthread_t thread;
    char *stack, bytes[64];
    struct iovec iov;
    struct mmsghdr message;
    struct {
        unsigned long mask, bytes;
    } sixth; // of pselect6
    struct {
        uint64_t value, address;
        uint32_t flags, none;
    } wait;
    siginfo_t info;
};

extern const struct call calls_io[], calls_waits[];
extern const size_t n_calls_io, n_calls_waits;

// Name, prepare, end, interrupted, want; further members by their names.
#define ROW(name_, prepare_, end_, interrupted_, want_, ...)                                       \
    {                                                                                              \
        .name = name_, .prepare = prepare_, .end = end_, .interrupted = interrupted_,              \
        .want = want_, ##__VA_ARGS__                                                               \
    }

/* ---- what a call is made with (calls_common.c) ---- */

#define CALLS_LONG_NS (600 * NS_PER_S)
#define CALLS_SIGSET  8 // bytes of the kernel's

// The registers of a call with these arguments, random ones in the others.
void calls_set(struct worker *w, long nr, const unsigned long args[6], int n);
#define CALL(w, nr, ...)                                                                           \
    calls_set(w, nr, (const unsigned long[6]){__VA_ARGS__},                                        \
              (int)(sizeof((unsigned long[]){__VA_ARGS__}) / sizeof(unsigned long)))
#define AT(pointer) ((unsigned long)(pointer))

struct timespec *calls_timeout(struct worker *w);
struct timespec *calls_deadline(struct worker *w, clockid_t clock, uint64_t ns);
unsigned long calls_timeout_ms(void);

// By w->timer, between 20 and 250 ms from now.
void calls_signal_soon(struct worker *w, int signo);

static inline uint64_t calls_bit(int signo)
{
    return 1ull << (signo - 1);
}

extern bool calls_with_signals; // all last until they are interrupted
extern bool calls_interrupted;  // may begin anew
uint64_t calls_timeout_ns(void);
