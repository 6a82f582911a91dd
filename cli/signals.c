// SPDX-License-Identifier: GPL-2.0-or-later
// Ctrl-C and its kin, at places where something has to be undone first.
#include "cli/signals.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

void cli_signals_hold(struct cli *cli)
{
    sigset_t set;

    if (cli->signal_fd >= 0)
        return;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN); // a reader or an agent that is gone is an error to be reported
    cli->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

bool cli_signals_check(struct cli *cli, GError **error)
{
    struct signalfd_siginfo info;

    if (cli->signal_fd >= 0 && read(cli->signal_fd, &info, sizeof(info)) == sizeof(info) &&
        cli->signal == 0) {
        cli->signal = (int)info.ssi_signo;
        if (cli->committed)
            cli_note(cli, "%s: the move is past its point of no return and will be completed",
                     strsignal(cli->signal));
    }
    if (cli->signal == 0 || cli->committed)
        return false;
    g_set_error(error, CLI_ERROR, CLI_ERROR_INTERRUPTED, "%s", strsignal(cli->signal));
    return true;
}

void cli_signals_die(int sig)
{
    sigset_t set;

    signal(sig, SIG_DFL);
    sigemptyset(&set);
    sigaddset(&set, sig);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    raise(sig);
    _exit(128 + sig);
}
