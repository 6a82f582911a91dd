// SPDX-License-Identifier: GPL-2.0-or-later
// A handler that has interrupted the reading of a clock in the vdso, and returns to it elsewhere.
#include <dlfcn.h>
#include <signal.h>
#include <sys/auxv.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "subject.h"

#define VDSO_BYTES 16384u // no more than that
#define HEAD_BYTES 16u    // of a function: another kernel's has a jump to its own there
#define TRAP_FLAG  0x100

static volatile bool back;
static uint64_t last_ns;

// Just behind the head of a function: it has yet to look at its data.
static bool is_in_vdso(const ucontext_t *context)
{
    const uintptr_t ip = (uintptr_t)context->uc_mcontext.gregs[REG_RIP];
    const uintptr_t vdso = getauxval(AT_SYSINFO_EHDR);
    Dl_info info;

    return ip - vdso < VDSO_BYTES && dladdr((void *)ip, &info) && info.dli_saddr &&
           ip - (uintptr_t)info.dli_saddr >= HEAD_BYTES;
}

static void on_step(int signo, siginfo_t *info, void *data)
{
    ucontext_t *context = data;

    if (!is_in_vdso(context))
        return;
    context->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
    subject_ready();
    while (!subject_asked())
        subject_sleep_ms(1);
    if (subject.sabotage)
        last_ns += 3600 * NS_PER_S;
    back = true;
}

// From here on every instruction is followed by a SIGTRAP.
static void begin_steps(int signo, siginfo_t *info, void *data)
{
    ucontext_t *context = data;

    context->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
}

static void handle(int signo, void (*handler)(int, siginfo_t *, void *))
{
    const struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};

    MUST(sigaction(signo, &action, NULL) == 0);
}

int main(int argc, char **argv)
{
    subject_begin(argc, argv);
    last_ns = subject_now(CLOCK_MONOTONIC); // the dynamic linker has found it
    handle(SIGTRAP, on_step);
    handle(SIGUSR1, begin_steps);
    MUST(raise(SIGUSR1) == 0);
    for (unsigned i = 0; i < 1000; i++) {
        const uint64_t now = subject_now(CLOCK_MONOTONIC);

        CHECK(now >= last_ns, "the clock says %lu after %lu", now, last_ns);
        last_ns = now;
    }
    CHECK(back, "no reading of a clock was interrupted");
    subject_pass();
}
