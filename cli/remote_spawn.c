// SPDX-License-Identifier: GPL-2.0-or-later
// Children: ssh, and vmgraft itself.
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "cli/remote.h"

// In the child. Ctrl-C is for us to deal with: ssh leaves signals ignored that it finds so.
static void prepare(gpointer unused)
{
    static const int terminal[] = {SIGINT, SIGTERM, SIGHUP};
    sigset_t none;

    for (size_t i = 0; i < G_N_ELEMENTS(terminal); i++)
        signal(terminal[i], SIG_IGN);
    signal(SIGPIPE, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

bool cli_remote_spawn(char **argv, const int fds[4], GPid *ret, GError **error)
{
    const int at[] = {CLI_STREAM_FD};
    GSpawnFlags flags = G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_SEARCH_PATH;

    flags |= fds[1] < 0 ? G_SPAWN_STDOUT_TO_DEV_NULL : 0;
    flags |= fds[2] < 0 ? G_SPAWN_STDERR_TO_DEV_NULL : 0;
    return g_spawn_async_with_pipes_and_fds(NULL, (const char *const *)argv, NULL, flags, prepare,
                                            NULL, fds[0], fds[1], fds[2], &fds[3], at,
                                            fds[3] >= 0 ? 1 : 0, ret, NULL, NULL, NULL, error);
}
