// SPDX-License-Identifier: GPL-2.0-or-later
// A child process that puts a guest's pause right if this process dies in the middle of it.
#include "vmm/watchdog.h"

#include <errno.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vmm/domain.h"
#include "vmm/machine.h"

// How long the child tries to reach QEMU, which may be busy or serve another client just then.
#define RESCUE_SECONDS 60
#define RETRY_NS       20000000l

struct VmmWatchdog {
    pid_t child;
    int channel;
};

/*
 * The child. The parent may have had threads, so there is nothing here but system calls and
 * functions on memory: no allocation, no GLib, no stdio. The exception is a domain's child, which
 * must speak to libvirt: its parent has started no threads of libvirt's at that point, and glibc
 * keeps its allocator whole across fork().
 */
static long now_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

// Reads until `wanted` occurs in what QEMU says, and keeps that in `text`. False: EOF, deadline, or
// more than fits.
static bool hear(int fd, char *text, size_t size, const char *wanted, long deadline)
{
    size_t len = 0;

    text[0] = '\0';
    while (!strstr(text, wanted)) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        long left = deadline - now_seconds();
        ssize_t n;

        if (left <= 0 || len + 1 >= size || poll(&ready, 1, (int)left * 1000) <= 0)
            return false;
        n = read(fd, text + len, size - 1 - len);
        if (n <= 0)
            return false;
        len += (size_t)n;
        text[len] = '\0';
    }
    return true;
}

static bool say(int fd, const char *line)
{
    return send(fd, line, strlen(line), MSG_NOSIGNAL) == (ssize_t)strlen(line);
}

// What is to be put right; of the disks' server, of the guest's pause.
enum rescue { END_DISKS = 'N', RESUME = VMM_RESCUE_RESUME, PAUSE = VMM_RESCUE_PAUSE };

static bool greet(int fd, char *text, size_t size, long deadline)
{
    return hear(fd, text, size, "\"QMP\"", deadline) &&
           say(fd, "{\"execute\":\"qmp_capabilities\"}\n") &&
           hear(fd, text, size, "\"return\"", deadline);
}

static bool end_disks(int fd, char *text, size_t size, long deadline)
{
    return say(fd, "{\"execute\":\"nbd-server-stop\",\"id\":\"vmgraft-3\"}\n") &&
           hear(fd, text, size, "\"vmgraft-3\"", deadline);
}

static bool end_pause(int fd, bool pause, char *text, size_t size, long deadline)
{
    if (!say(fd, "{\"execute\":\"query-status\",\"id\":\"vmgraft-1\"}\n") ||
        !hear(fd, text, size, "\"vmgraft-1\"", deadline))
        return false;
    // Any other state than the one we made is not ours to end.
    return !strstr(text, pause ? "\"status\": \"running\"" : "\"status\": \"paused\"") ||
           (say(fd, pause ? "{\"execute\":\"stop\",\"id\":\"vmgraft-2\"}\n"
                          : "{\"execute\":\"cont\",\"id\":\"vmgraft-2\"}\n") &&
            hear(fd, text, size, "\"vmgraft-2\"", deadline));
}

// One attempt over one connection. True: there is nothing left to do.
static bool rescue_by_socket(const char *path, enum rescue how, long deadline)
{
    struct sockaddr_un qmp = {.sun_family = AF_UNIX};
    char text[4096];
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool done = false;

    strncpy(qmp.sun_path, path, sizeof(qmp.sun_path) - 1); // its length was checked: target.c
    // QEMU keeps the socket listening, whomever it serves: nobody there means that QEMU has gone.
    if (connect(fd, (const struct sockaddr *)&qmp, sizeof(qmp)) < 0)
        done = errno == ENOENT || errno == ECONNREFUSED;
    else if (greet(fd, text, sizeof(text), deadline))
        done = how == END_DISKS ? end_disks(fd, text, sizeof(text), deadline)
                                : end_pause(fd, how == PAUSE, text, sizeof(text), deadline);
    close(fd);
    return done;
}

static bool rescue_once(const struct vmm_target *target, enum rescue how, long deadline)
{
    if (target->kind != VMM_TARGET_DOMAIN)
        return rescue_by_socket(target->socket, how, deadline);
    return how == END_DISKS ? vmm_domain_end_disks(target)
                            : vmm_domain_rescue(target, how == PAUSE);
}

static void rescue(const struct vmm_target *target, enum rescue how)
{
    const struct timespec pause = {.tv_nsec = RETRY_NS};
    long deadline = now_seconds() + RESCUE_SECONDS;

    while (!rescue_once(target, how, deadline) && now_seconds() < deadline)
        nanosleep(&pause, NULL);
}

static void reset_signals(void)
{
    sigset_t none;

    for (int i = 1; i < NSIG; i++)
        signal(i, SIG_DFL);
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static _Noreturn void watch(int channel, const struct vmm_target *target)
{
    char state = 'R', next;
    bool serving = false;
    ssize_t n;

    setsid();
    reset_signals();
    prctl(PR_SET_NAME, "vmgraft-resume");
    if (channel != 0)
        dup2(channel, 0);
    close_range(1, ~0u, 0);
    while ((n = read(0, &next, 1)) > 0 || (n < 0 && errno == EINTR)) {
        if (n > 0 && (next == 'N' || next == 'n'))
            serving = next == 'N';
        else if (n > 0)
            state = next;
    }
    if (state == VMM_RESCUE_RESUME || state == VMM_RESCUE_PAUSE)
        rescue(target, (enum rescue)state);
    if (serving)
        rescue(target, END_DISKS);
    _exit(0);
}

VmmWatchdog *vmm_watchdog_start(const struct vmm_target *target, GError **error)
{
    VmmWatchdog *dog;
    int ends[2];
    pid_t child;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_STATE, "watchdog: %s", g_strerror(errno));
        return NULL;
    }
    child = fork();
    if (child == 0)
        watch(ends[1], target);
    close(ends[1]);
    if (child < 0) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_STATE, "watchdog: %s", g_strerror(errno));
        close(ends[0]);
        return NULL;
    }
    dog = g_new0(VmmWatchdog, 1);
    dog->child = child;
    dog->channel = ends[0];
    return dog;
}

static bool tell(VmmWatchdog *dog, char message, GError **error)
{
    if (send(dog->channel, &message, 1, MSG_NOSIGNAL) == 1)
        return true;
    g_set_error(error, VMM_ERROR, VMM_ERROR_STATE,
                "the watchdog that would put the guest right after a crash is gone");
    return false;
}

bool vmm_watchdog_arm(VmmWatchdog *dog, enum vmm_rescue rescue, GError **error)
{
    return tell(dog, (char)rescue, error);
}

bool vmm_watchdog_serving(VmmWatchdog *dog, bool serving, GError **error)
{
    return tell(dog, serving ? 'N' : 'n', error);
}

void vmm_watchdog_disarm(VmmWatchdog *dog)
{
    // A child that is gone needs no telling.
    (void)!send(dog->channel, "R", 1, MSG_NOSIGNAL);
}

void vmm_watchdog_stop(VmmWatchdog *dog)
{
    if (!dog)
        return;
    close(dog->channel);
    while (waitpid(dog->child, NULL, 0) < 0 && errno == EINTR)
        ;
    g_free(dog);
}
