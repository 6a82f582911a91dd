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
#pragma once

#include <stdbool.h>
#include <stdint.h>
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
bool subject_asked(void); // a system call: do not ask between each two instructions
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

uint64_t subject_now(clockid_t clock); // nanoseconds
void subject_sleep_ms(unsigned ms);

// How far a moment lies outside of what a clock showed before and after it was asked for: the
// program may have been away in between.
static inline int64_t subject_outside(uint64_t moment, uint64_t before, uint64_t after)
{
    return moment < before  ? (int64_t)(moment - before)
           : moment > after ? (int64_t)(moment - after)
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
