// SPDX-License-Identifier: GPL-2.0-or-later
// A process to look at: one thread spins with known registers, one waits deep in calls.
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

char *on_heap;
uint64_t in_data[4096] = {[4095] = 4711};
static const char in_text[] = "never written, so never in the image";

static void __attribute__((noinline)) wait_here(const char *why)
{
    char c;

    while (read(STDIN_FILENO, &c, 1) != 0)
        ;
    puts(why);
}

static void __attribute__((noinline)) go_down(int depth, const char *why)
{
    if (depth == 0)
        wait_here(why);
    else
        go_down(depth - 1, why);
    __asm__ volatile(""); // no tail call
}

static void *waiter(void *arg)
{
    go_down(5, arg);
    return NULL;
}

static void __attribute__((noinline)) spin(void)
{
    static const uint32_t pattern[4] = {0x11111111, 0x22222222, 0x33333333, 0x44444444};
    const double pi = 3.25;

    __asm__ volatile("fldl %1\n\t"
                     "movups %0, %%xmm3\n\t"
                     "movups %0, %%xmm13\n\t"
                     ".byte 0xeb, 0xfe" // jmp to itself
                     :
                     : "m"(pattern), "m"(pi)
                     : "xmm3", "xmm13");
}

int main(void)
{
    pthread_t thread;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    on_heap = strdup("written on the heap");
    pthread_create(&thread, NULL, waiter, (void *)in_text);
    spin();
    return 0;
}
