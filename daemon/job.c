// SPDX-License-Identifier: GPL-2.0-or-later
// Runs vmgraft for a request and reads what it says.
#include "daemon/job.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <libvirt/libvirt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_OUTPUT_BYTES (1u << 20)
#define MAX_MESSAGE      4000 // bytes; it goes into the domain's XML
#define TIME_FORMAT      "%Y%m%dT%H%M%S.%fZ"
#define TIME_PATTERN     "????????T??????.??????Z"
#define EXIT_REFUSED     3

struct DaemonJob {
    pid_t pid;
    int pidfd, watch;
    char *out, *err, *domain;
    daemon_job_fn done;
    void *user;
};

static void job_free(void *data)
{
    DaemonJob *job = data;

    if (job->pidfd >= 0)
        close(job->pidfd);
    g_free(job->out);
    g_free(job->err);
    g_free(job->domain);
    g_free(job);
}

// At most MAX_OUTPUT_BYTES; "" where there is no such file.
static char *read_all(const char *path)
{
    char *text = g_malloc(MAX_OUTPUT_BYTES + 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, text, MAX_OUTPUT_BYTES);

    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = '\0';
    return g_realloc(text, (gsize)(n > 0 ? n : 0) + 1);
}

static const char *without(const char *text, const char *prefix)
{
    return g_str_has_prefix(text, prefix) ? text + strlen(prefix) : text;
}

// What vmgraft said as one text for an attribute: without what each line begins with, its name, the
// domain's, or what the attribute is called.
static char *message_of(const char *text, const char *domain)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    g_autofree char *who = g_strconcat(domain, ": ", NULL);
    g_autoptr(GString) message = g_string_new(NULL);

    for (char **line = lines; *line; line++) {
        const char *said = without(without(g_strchug(*line), "vmgraft: "), who);
        const char *rest = without(said, "note: ");

        if (*rest && message->len)
            g_string_append(message, message->str[message->len - 1] == ':' ? " " : "; ");
        g_string_append(message, rest);
    }
    if (message->len > MAX_MESSAGE) {
        g_string_truncate(message, MAX_MESSAGE);
        g_string_append(message, " ...");
    }
    return message->len ? g_utf8_make_valid(message->str, -1) : NULL;
}

// What the command printed on its standard output.
static enum daemon_state state_of(const char *out, double *ret_pause_ms)
{
    json_object *facts = json_tokener_parse(out), *value;
    enum daemon_state state = DAEMON_FAILED;

    if (json_object_is_type(facts, json_type_object)) {
        if (json_object_object_get_ex(facts, "pause_ms", &value))
            *ret_pause_ms = json_object_get_double(value);
        if (json_object_object_get_ex(facts, "result", &value))
            state = g_strcmp0(json_object_get_string(value), "refused") == 0 ? DAEMON_REFUSED
                                                                             : DAEMON_DONE;
    }
    json_object_put(facts);
    return state;
}

struct daemon_entry *daemon_job_result(const char *out_path, const char *err_path,
                                       const char *domain)
{
    g_autofree char *out = read_all(out_path), *err = read_all(err_path);
    struct daemon_entry *result = daemon_entry_new(DAEMON_FAILED, NULL);

    result->message = message_of(err, domain);
    result->state = state_of(out, &result->pause_ms);
    return result;
}

static void ended(int watch, int fd, int events, void *user)
{
    DaemonJob *job = user;
    g_autoptr(daemon_entry) result = NULL;
    int status;

    if (waitpid(job->pid, &status, WNOHANG) != job->pid)
        return;
    result = daemon_job_result(job->out, job->err, job->domain);
    // It may fail after it has said that it is done: when it could not say so.
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        result->state = WIFEXITED(status) && WEXITSTATUS(status) == EXIT_REFUSED ? DAEMON_REFUSED
                                                                                 : DAEMON_FAILED;
    if (!result->message && WIFSIGNALED(status))
        result->message = g_strdup_printf("vmgraft was ended by signal %d (%s)", WTERMSIG(status),
                                          g_strsignal(WTERMSIG(status)));
    job->done(result, job->user);
    virEventRemoveHandle(job->watch); // frees the job when the loop is through with it
}

static GPtrArray *command_line(const struct daemon_job_spec *spec,
                               const struct daemon_request *request)
{
    GPtrArray *argv = g_ptr_array_new();

    g_ptr_array_add(argv, (char *)spec->program);
    g_ptr_array_add(argv, (char *)(request->verb == DAEMON_MOVE ? "migrate" : "capture"));
    g_ptr_array_add(argv, (char *)"--json");
    if (spec->uri) {
        g_ptr_array_add(argv, (char *)"--connect");
        g_ptr_array_add(argv, (char *)spec->uri);
    }
    for (char **kind = request->allow; kind && *kind; kind++) {
        g_ptr_array_add(argv, (char *)"--allow");
        g_ptr_array_add(argv, *kind);
    }
    // Suspended where it cannot be taken: it runs for a moment, and is suspended again.
    if (request->on_suspend)
        g_ptr_array_add(argv, (char *)"--let-run");
    if (request->forensic)
        g_ptr_array_add(argv, (char *)"--forensic");
    if (request->copy)
        g_ptr_array_add(argv, (char *)"--copy");
    if (spec->file) {
        g_ptr_array_add(argv, (char *)"--output");
        g_ptr_array_add(argv, (char *)spec->file);
    }
    g_ptr_array_add(argv, (char *)"--");
    g_ptr_array_add(argv, (char *)spec->domain);
    g_ptr_array_add(argv, request->process);
    if (spec->target)
        g_ptr_array_add(argv, (char *)spec->target);
    g_ptr_array_add(argv, NULL);
    return argv;
}

struct child {
    pid_t parent;
    int lock;
};

// Between fork and exec.
static void prepare(gpointer user)
{
    const struct child *child = user;
    sigset_t none;

    fcntl(child->lock, F_SETFD, 0);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != child->parent)
        _exit(1);
}

static bool spawn(DaemonJob *job, const struct daemon_job_spec *spec, GPtrArray *argv,
                  GError **error)
{
    struct child child = {getpid(), spec->lock};
    int out = open(spec->out, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int err = open(spec->err, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    bool done = false;

    if (out < 0 || err < 0)
        g_set_error(error, DAEMON_ERROR, DAEMON_ERROR_STATE, "%s: %s",
                    out < 0 ? spec->out : spec->err, g_strerror(errno));
    else
        done = g_spawn_async_with_fds(NULL, (char **)argv->pdata, NULL, G_SPAWN_DO_NOT_REAP_CHILD,
                                      prepare, &child, &job->pid, -1, out, err, error);
    if (out >= 0)
        close(out);
    if (err >= 0)
        close(err);
    return done;
}

DaemonJob *daemon_job_start(const struct daemon_job_spec *spec,
                            const struct daemon_request *request, daemon_job_fn done, void *user,
                            GError **error)
{
    g_autoptr(GPtrArray) argv = command_line(spec, request);
    g_autoptr(GError) why = NULL;
    DaemonJob *job = g_new0(DaemonJob, 1);

    job->done = done;
    job->user = user;
    job->pidfd = -1;
    job->out = g_strdup(spec->out);
    job->err = g_strdup(spec->err);
    job->domain = g_strdup(spec->domain);
    if (spawn(job, spec, argv, &why)) {
        job->pidfd = (int)syscall(SYS_pidfd_open, job->pid, 0);
        job->watch = virEventAddHandle(job->pidfd, VIR_EVENT_HANDLE_READABLE, ended, job, job_free);
        if (job->watch >= 0)
            return job;
        kill(job->pid, SIGTERM);
        waitpid(job->pid, NULL, 0);
    }
    g_set_error(error, DAEMON_ERROR, DAEMON_ERROR_STATE, "%s does not start: %s", spec->program,
                why ? why->message : "it cannot be watched");
    job_free(job);
    return NULL;
}

void daemon_job_interrupt(DaemonJob *job)
{
    kill(job->pid, SIGTERM);
}

/* ---- files ---- */

char *daemon_job_file(const struct daemon_request *request, const char *to)
{
    g_autoptr(GDateTime) now = g_date_time_new_now_utc();
    g_autofree char *time = NULL;

    if (!request->keep)
        return g_strdup(to);
    time = g_date_time_format(now, TIME_FORMAT);
    return g_strconcat(to, ".", time, NULL);
}

static gint newest_first(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)b, *(const char *const *)a);
}

void daemon_job_prune(const struct daemon_request *request, const char *file)
{
    g_autofree char *folder = g_path_get_dirname(file);
    g_autofree char *base = g_path_get_basename(request->to);
    g_autoptr(GPatternSpec) time = g_pattern_spec_new(TIME_PATTERN);
    g_autoptr(GPtrArray) files = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GDir) dir = request->keep ? g_dir_open(folder, 0, NULL) : NULL;
    size_t len = strlen(base);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        // Only names that we have given: NAME.TIME.
        if (strncmp(name, base, len) == 0 && name[len] == '.' &&
            g_pattern_spec_match_string(time, name + len + 1))
            g_ptr_array_add(files, g_build_filename(folder, name, NULL));
    }
    g_ptr_array_sort(files, newest_first);
    for (guint i = request->keep; i < files->len; i++) {
        if (strcmp(files->pdata[i], file) != 0)
            unlink(files->pdata[i]);
    }
}
