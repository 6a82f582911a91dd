// SPDX-License-Identifier: GPL-2.0-or-later
// A handler that has interrupted the reading of a clock in the vdso, and returns to it elsewhere.
#include <dlfcn.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "subject.h"

#define VDSO_BYTES 16384u // no more than that
#define HEAD_BYTES 16u    // of a function: another kernel's has a jump to its own there

static volatile bool caught, back;
static uint64_t last_ns;

static bool is_in_vdso(const ucontext_t *context)
{
    const uintptr_t ip = (uintptr_t)context->uc_mcontext.gregs[REG_RIP];
    const uintptr_t vdso = getauxval(AT_SYSINFO_EHDR);
    Dl_info info;

    return ip - vdso < VDSO_BYTES && dladdr((void *)ip, &info) && info.dli_saddr &&
           ip - (uintptr_t)info.dli_saddr >= HEAD_BYTES;
}

static void on_alarm(int signo, siginfo_t *info, void *context)
{
    if (caught || !is_in_vdso(context))
        return;
    caught = true;
    subject_ready();
    while (!subject_asked())
        subject_sleep_ms(1);
    if (subject.sabotage)
        last_ns += 3600 * NS_PER_S;
    back = true;
}

int main(int argc, char **argv)
{
    const struct itimerval often = {{0, 500}, {0, 500}};
    struct sigaction action = {.sa_sigaction = on_alarm, .sa_flags = SA_SIGINFO | SA_RESTART};

    subject_begin(argc, argv);
    MUST(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &often, NULL) == 0);
    while (!back) {
        const uint64_t before = last_ns, now = subject_now(CLOCK_MONOTONIC);

        CHECK(now >= before && now >= last_ns, "the clock says %lu after %lu", now, last_ns);
        last_ns = now;
    }
    for (unsigned i = 0; i < 1000; i++) {
        const uint64_t now = subject_now(CLOCK_MONOTONIC);

        CHECK(now >= last_ns && now - last_ns < 3600 * NS_PER_S, "%lu after %lu", now, last_ns);
        last_ns = now;
    }
    subject_pass();
}
