// SPDX-License-Identifier: GPL-2.0-or-later
// What every subject shares: a program that is moved between guests and checks itself.
//
//   SUBJECT WORKDIR [--prepare | --sabotage] [ARGUMENT]
//
//   WORKDIR/ready    appears when the subject is set up and works
//   WORKDIR/ask      when this appears the subject makes its last checks
//   WORKDIR/verdict  PASS, or FAIL and the reason; exit status 0 or 1
//
// A check that fails while the subject works ends it at once. WORKDIR exists in both guests, and
// the subject keeps nothing open in it. --prepare makes the files that must be there in both and
// ends. --sabotage damages, after `ready`, what the subject watches over: the verdict must be FAIL.
//
// The subject may be away for seconds between any two of its instructions, its threads run when it
// pleases a busy host, and the wall clock of the other guest is another one. So no check may rest
// on how long something takes: what must come is waited for (AWAIT), and what goes by a clock is
// looked at between two readings of it.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#define NS_PER_S  1000000000ull
#define NS_PER_MS 1000000ull

struct subject {
    const char *workdir;
    const char *argument; // NULL for none
    bool prepare, sabotage;
};

// Set by subject_begin, never changed.
extern struct subject subject;

void subject_begin(int argc, char **argv);
void subject_ready(void);
// A system call: do not ask between each two instructions. For one thread alone. One that is
// sabotaged goes on for some rounds, however early it is asked.
bool subject_asked(void);
_Noreturn void subject_pass(void);
_Noreturn void subject_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition))                                                                          \
            subject_fail(__VA_ARGS__);                                                             \
    } while (0)

// For calls that cannot fail unless the machine is out of something.
#define MUST(condition) CHECK(condition, "%s:%d: %s: %m", __FILE_NAME__, __LINE__, #condition)

#ifndef __FILE_NAME__
#define __FILE_NAME__ __FILE__
#endif

// Longer than any move takes, and any stall of a busy host: what has not come by then never will.
#define PATIENCE_NS (60 * NS_PER_S)
#define PATIENCE_MS ((int)(PATIENCE_NS / NS_PER_MS))

// Waits for what must come; the rest is what to say when it does not.
#define AWAIT(condition, ...)                                                                      \
    for (const uint64_t begin_ = subject_now(CLOCK_MONOTONIC); !(condition); subject_sleep_ms(1))  \
    CHECK(subject_now(CLOCK_MONOTONIC) - begin_ < PATIENCE_NS, __VA_ARGS__)

uint64_t subject_now(clockid_t clock); // nanoseconds
void subject_sleep_ms(unsigned ms);

// Waits until a thread, of any process, sleeps in this system call. Not while it may be moved.
void subject_await_call(pid_t tid, long nr);

// By how much the wall clock is ahead of CLOCK_MONOTONIC. A move may change it.
static inline int64_t subject_wall(void)
{
    return (int64_t)(subject_now(CLOCK_REALTIME) - subject_now(CLOCK_MONOTONIC));
}

// Whether it still is. Not where the program was away between two readings, either.
static inline bool subject_wall_is(int64_t was)
{
    const int64_t off = subject_wall() - was;

    return off < (int64_t)NS_PER_MS && off > -(int64_t)NS_PER_MS;
}

// The end of something by a clock: one moment between these two.
struct subject_end {
    uint64_t earliest, latest;
};

// How far from there the end is by what is `left` of the time, which was asked for between two
// readings of the clock.
static inline int64_t subject_end_off(struct subject_end end, uint64_t left, uint64_t before,
                                      uint64_t after)
{
    return before + left > end.latest    ? (int64_t)(before + left - end.latest)
           : after + left < end.earliest ? (int64_t)(after + left - end.earliest)
                                         : 0;
}

// A number that looks random and depends on nothing but x.
static inline uint64_t subject_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

// The next number of a sequence; *state is its only state.
static inline uint64_t subject_random(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15;
    return subject_mix(*state);
}
