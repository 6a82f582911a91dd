// SPDX-License-Identifier: GPL-2.0-or-later
// vmgraftd: does what the metadata of libvirt's domains asks for.
#include <errno.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "daemon/journal.h"
#include "daemon/version.h"
#include "daemon/watcher.h"

#define DEFAULT_STATE  "/var/lib/vmgraft/requests"
#define DEFAULT_FOLDER "/var/lib/vmgraft/images"
#define DEFAULT_JOBS   4

static const char about[] =
    "Watches the domains of one libvirt and does what stands in their metadata, so that virsh "
    "alone\n"
    "takes an image of a process or moves it:\n\n"
    "  virsh metadata DOMAIN urn:vmgraft:request --key vmgraft \\\n"
    "      --set \"<capture id='1' command='python3' to='" DEFAULT_FOLDER "/job.vmg'/>\"\n"
    "  virsh metadata DOMAIN urn:vmgraft:answer\n\n"
    "It runs in the foreground and says on stderr what it does. docs/virsh.md has more.";

static void quiet(void *user, virErrorPtr error)
{
}

static void print(const char *domain, GLogLevelFlags level, const char *message, void *user)
{
    fprintf(stderr, "vmgraftd: %s\n", message);
}

static void on_signal(int watch, int fd, int events, void *user)
{
    struct signalfd_siginfo info;

    if (read(fd, &info, sizeof(info)) == sizeof(info))
        ++*(unsigned *)user;
}

// A signal that ends us comes through the event loop.
static int catch_signals(unsigned *n_signals)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return virEventAddHandle(signalfd(-1, &set, SFD_CLOEXEC), VIR_EVENT_HANDLE_READABLE, on_signal,
                             n_signals, NULL);
}

// Absolute and without symbolic links; a missing one is made.
static bool resolve_folders(char **folders)
{
    for (size_t i = 0; folders[i]; i++) {
        char *real;

        g_mkdir_with_parents(folders[i], 0700);
        real = realpath(folders[i], NULL);
        if (!real) {
            fprintf(stderr, "vmgraftd: %s: %s\n", folders[i], g_strerror(errno));
            return false;
        }
        g_free(folders[i]);
        folders[i] = g_strdup(real);
        free(real);
    }
    return true;
}

// What an earlier vmgraftd has begun is over when this returns.
static bool lock_journal(struct daemon_options *o)
{
    g_autoptr(GError) error = NULL;

    o->lock = daemon_journal_lock(o->state, false, &error);
    if (o->lock < 0) {
        fprintf(stderr, "vmgraftd: %s: waiting\n", error->message);
        g_clear_error(&error);
        o->lock = daemon_journal_lock(o->state, true, &error);
    }
    if (o->lock >= 0)
        return true;
    fprintf(stderr, "vmgraftd: %s\n", error->message);
    return false;
}

static char *find_program(void)
{
    g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *folder = g_path_get_dirname(self ? self : "/usr/bin/vmgraftd");
    g_autofree char *beside = g_build_filename(folder, "vmgraft", NULL);

    return g_file_test(beside, G_FILE_TEST_IS_EXECUTABLE) ? g_steal_pointer(&beside)
                                                          : g_find_program_in_path("vmgraft");
}

static bool parse(int argc, char **argv, struct daemon_options *o, int *ret)
{
    gboolean version = FALSE;
    int jobs = DEFAULT_JOBS;
    const GOptionEntry entries[] = {
        {"connect", 'c', 0, G_OPTION_ARG_STRING, &o->uri, "The libvirt to watch (default: its own)",
         "URI"},
        {"allow-directory", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &o->folders,
         "Where images may be written, subdirectories too; may be repeated (default " DEFAULT_FOLDER
         ")",
         "DIRECTORY"},
        {"state", 0, 0, G_OPTION_ARG_FILENAME, &o->state,
         "Which requests were done (default " DEFAULT_STATE ")", "DIRECTORY"},
        {"jobs", 'j', 0, G_OPTION_ARG_INT, &jobs,
         "Do so many requests at once (default " G_STRINGIFY(DEFAULT_JOBS) ")", "N"},
        {"vmgraft", 0, 0, G_OPTION_ARG_FILENAME, &o->program,
         "The vmgraft command (default: the one beside vmgraftd, else in $PATH)", "PROGRAM"},
        {"version", 0, 0, G_OPTION_ARG_NONE, &version, "Print the version", NULL},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) error = NULL;

    g_option_context_set_summary(context, about);
    g_option_context_add_main_entries(context, entries, NULL);
    *ret = 2;
    if (!g_option_context_parse(context, &argc, &argv, &error) || argc > 1) {
        fprintf(stderr, "vmgraftd: %s\nTry 'vmgraftd --help'.\n",
                error ? error->message : "it takes no operands");
        return false;
    }
    if (jobs < 1) {
        fputs("vmgraftd: --jobs: 1 or more\n", stderr);
        return false;
    }
    o->max_jobs = (unsigned)jobs;
    if (version) {
        printf("vmgraftd %s\n", DAEMON_VERSION);
        *ret = 0;
        return false;
    }
    if (!o->state)
        o->state = g_strdup(DEFAULT_STATE);
    if (!o->folders)
        o->folders = g_strsplit(DEFAULT_FOLDER, " ", -1);
    if (!o->program && !(o->program = find_program())) {
        fputs("vmgraftd: there is no vmgraft command; say where with --vmgraft\n", stderr);
        return false;
    }
    *ret = 1;
    return resolve_folders(o->folders) && lock_journal(o);
}

// What is being done when the first signal comes is interrupted, and answered.
static bool watch(const struct daemon_options *options)
{
    unsigned n_signals = 0;
    bool quitting = false;
    DaemonWatcher *w;

    virSetErrorFunc(NULL, quiet);
    if (virEventRegisterDefaultImpl() < 0 || catch_signals(&n_signals) < 0)
        return false;
    w = daemon_watcher_new(options);
    daemon_watcher_connect(w);
    while (n_signals < 2 && !(quitting && daemon_watcher_is_idle(w)) &&
           virEventRunDefaultImpl() == 0) {
        if (n_signals > 0 && !quitting)
            daemon_watcher_quit(w);
        quitting = n_signals > 0;
    }
    // With a second signal what still runs is left to itself: it ends as we do.
    if (daemon_watcher_is_idle(w))
        daemon_watcher_free(w);
    return quitting;
}

int main(int argc, char **argv)
{
    struct daemon_options options = {.lock = -1};
    int ret;

    g_set_prgname("vmgraftd");
    g_log_set_default_handler(print, NULL);
    if (parse(argc, argv, &options, &ret))
        ret = watch(&options) ? 0 : 1;
    if (options.lock >= 0)
        close(options.lock);
    g_free(options.uri);
    g_free(options.state);
    g_free(options.program);
    g_strfreev(options.folders);
    return ret;
}
