// SPDX-License-Identifier: GPL-2.0-or-later
// One domain: its requests, the answers to them, and what is being done.
#include "daemon/domain.h"

#include <libvirt/virterror.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/answer.h"
#include "daemon/job.h"
#include "daemon/journal.h"
#include "daemon/request.h"

#define ANSWER_KEY "vmgraft-answer" // prefix of the name space in the domain's XML

// A request that is being done. It may have vanished from the metadata meanwhile.
struct work {
    DaemonJob *job; // NULL: nothing is being done
    GPtrArray *requests;
    const struct daemon_request *request; // in it
    struct daemon_entry *entry;
    char *target; // of a move: its UUID
};

struct DaemonDomain {
    struct daemon_house *house;
    char uuid[VIR_UUID_STRING_BUFLEN];
    char *name;
    GPtrArray *requests; // struct daemon_request, as they stand in the metadata
    GPtrArray *answers;  // struct daemon_entry, one for each of them
    char *error;         // why the metadata as a whole are no requests; NULL: they are
    struct work work;
    bool behind; // the answers in the metadata are not these
};

static const char *last_error(void)
{
    const virError *last = virGetLastError();

    return last && last->message ? last->message : "libvirt gives no reason";
}

DaemonDomain *daemon_domain_new(struct daemon_house *house, const char *uuid)
{
    DaemonDomain *d = g_new0(DaemonDomain, 1);

    d->house = house;
    g_strlcpy(d->uuid, uuid, sizeof(d->uuid));
    d->name = g_strdup(uuid);
    d->requests = g_ptr_array_new();
    d->answers = g_ptr_array_new_with_free_func((GDestroyNotify)daemon_entry_free);
    return d;
}

void daemon_domain_free(DaemonDomain *d)
{
    g_ptr_array_unref(d->requests);
    g_ptr_array_unref(d->answers);
    g_free(d->error);
    g_free(d->name);
    g_free(d);
}

const char *daemon_domain_uuid(const DaemonDomain *d)
{
    return d->uuid;
}

bool daemon_domain_is_busy(const DaemonDomain *d)
{
    return d->work.job != NULL;
}

bool daemon_domain_is_behind(const DaemonDomain *d)
{
    return d->behind;
}

void daemon_domain_interrupt(DaemonDomain *d)
{
    if (d->work.job)
        daemon_job_interrupt(d->work.job);
}

/* ---- answers ---- */

// NULL: nothing was asked.
static char *format_answers(const DaemonDomain *d)
{
    if (d->error)
        return daemon_answers_format_error(d->error);
    return d->requests->len ? daemon_answers_format(d->requests, d->answers) : NULL;
}

static void publish(DaemonDomain *d, virDomainPtr dom)
{
    g_autofree char *xml = format_answers(d);
    char *there = virDomainGetMetadata(dom, VIR_DOMAIN_METADATA_ELEMENT, DAEMON_ANSWER_URI,
                                       VIR_DOMAIN_AFFECT_CURRENT);
    bool was_behind = d->behind;

    d->behind = g_strcmp0(there, xml) != 0 &&
                virDomainSetMetadata(dom, VIR_DOMAIN_METADATA_ELEMENT, xml, xml ? ANSWER_KEY : NULL,
                                     DAEMON_ANSWER_URI, VIR_DOMAIN_AFFECT_CURRENT) < 0;
    if (d->behind && !was_behind)
        g_message("%s: the answer cannot be written now: %s", d->name, last_error());
    free(there);
}

static void set_answer(DaemonDomain *d, guint i, struct daemon_entry *take)
{
    daemon_entry_free(d->answers->pdata[i]);
    d->answers->pdata[i] = take;
    d->behind = true;
}

/* ---- work ---- */

static const char *journal(const DaemonDomain *d)
{
    return d->house->options->state;
}

static void end_work(DaemonDomain *d)
{
    struct work work = d->work;

    d->work = (struct work){0};
    g_hash_table_remove(d->house->busy, d->uuid);
    if (work.target)
        g_hash_table_remove(d->house->busy, work.target);
    g_ptr_array_unref(work.requests);
    daemon_entry_free(work.entry);
    g_free(work.target);
    d->house->n_jobs--;
}

static void job_done(const struct daemon_entry *result, void *user)
{
    DaemonDomain *d = user;
    struct daemon_entry *entry = d->work.entry;
    const struct daemon_request *request = d->work.request;
    g_autoptr(GError) error = NULL;

    entry->state = result->state;
    entry->pause_ms = result->pause_ms;
    entry->message = g_strdup(entry->state == DAEMON_FAILED && d->house->quit
                                  ? "vmgraftd was stopped before this was over"
                                  : result->message);
    if (!daemon_journal_write(journal(d), d->uuid, request->id, entry, &error))
        g_message("%s: %s", d->name, error->message);
    g_message("%s: request %s: %s%s%s", d->name, request->id, daemon_state_name(entry->state),
              entry->message ? ": " : "", entry->message ? entry->message : "");
    if (entry->state == DAEMON_DONE && entry->file)
        daemon_job_prune(request, entry->file);
    for (guint i = 0; i < d->requests->len; i++) {
        const struct daemon_request *r = d->requests->pdata[i];

        if (!r->error && strcmp(r->id, request->id) == 0 && strcmp(r->text, request->text) == 0)
            set_answer(d, i, daemon_entry_copy(entry));
    }
    end_work(d);
    d->house->job_ended(d->house->user);
}

// The UUID of the domain that a move goes to; NULL where there is none such: vmgraft says so.
static char *find_target(const DaemonDomain *d, const struct daemon_request *r)
{
    virDomainPtr dom = r->domain ? virDomainLookupByName(d->house->conn, r->domain) : NULL;
    char uuid[VIR_UUID_STRING_BUFLEN];
    bool found = dom && virDomainGetUUIDString(dom, uuid) == 0;

    if (dom)
        virDomainFree(dom);
    return found ? g_strdup(uuid) : NULL;
}

// The file that `to` is, symbolic links resolved, if that is in an allowed directory.
static char *resolve_file(const DaemonDomain *d, const char *to, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(to), *base = g_path_get_basename(to);
    g_autofree char *folders = g_strjoinv(", ", d->house->options->folders);
    char *real = realpath(to, NULL);
    g_autofree char *file = g_strdup(real);

    free(real);
    if (!file && (real = realpath(folder, NULL))) {
        file = g_build_filename(real, base, NULL);
        free(real);
    }
    if (!file) {
        g_set_error(error, DAEMON_ERROR, DAEMON_ERROR_REQUEST, "to: there is no directory %s",
                    folder);
        return NULL;
    }
    for (char **root = d->house->options->folders; *root; root++) {
        size_t len = strlen(*root);

        if (strncmp(file, *root, len) == 0 && file[len] == '/')
            return g_steal_pointer(&file);
    }
    g_set_error(error, DAEMON_ERROR, DAEMON_ERROR_REQUEST,
                "to: %s is not in a directory that vmgraftd may write to (%s)", to, folders);
    return NULL;
}

// vmgraft takes a number for an id. Elsewhere the name is better: messages have it.
static const char *name_target(const struct daemon_request *r, const char *uuid)
{
    bool other = r->domain && (g_ascii_isdigit(*r->domain) || g_uuid_string_is_valid(r->domain));

    return uuid && other ? uuid : r->domain;
}

static DaemonJob *start_command(DaemonDomain *d, const struct daemon_request *r, const char *file,
                                const char *target, GError **error)
{
    const struct daemon_options *options = d->house->options;
    g_autofree char *out = daemon_journal_path(options->state, d->uuid, r->id, "out");
    g_autofree char *err = daemon_journal_path(options->state, d->uuid, r->id, "err");
    const struct daemon_job_spec spec = {
        .program = options->program,
        .uri = options->uri,
        .domain = d->uuid,
        .target = name_target(r, target),
        .file = file,
        .out = out,
        .err = err,
        .lock = options->lock,
    };

    return daemon_job_start(&spec, r, job_done, d, error);
}

// On disk first: from there on this id is used.
static bool start_work(DaemonDomain *d, guint i, char *take_target, GError **error)
{
    g_autofree char *target = take_target;
    const struct daemon_request *r = d->requests->pdata[i];
    g_autofree char *to = r->to ? resolve_file(d, r->to, error) : NULL;
    g_autoptr(daemon_entry) entry = NULL;

    if (r->to && !to)
        return false;
    entry = daemon_entry_new(DAEMON_RUNNING, NULL);
    entry->request = g_strdup(r->text);
    entry->started_us = g_get_real_time();
    entry->file = to ? daemon_job_file(r, to) : NULL;
    if (!daemon_journal_write(journal(d), d->uuid, r->id, entry, error) ||
        !(d->work.job = start_command(d, r, entry->file, target, error)))
        return false;
    g_message("%s: request %s: %s", d->name, r->id, r->text);
    set_answer(d, i, daemon_entry_copy(entry));
    d->work.requests = g_ptr_array_ref(d->requests);
    d->work.request = r;
    d->work.entry = g_steal_pointer(&entry);
    g_hash_table_add(d->house->busy, g_strdup(d->uuid));
    if (target)
        g_hash_table_add(d->house->busy, g_strdup(target));
    d->work.target = g_steal_pointer(&target);
    d->house->n_jobs++;
    return true;
}

static bool is_suspended(virDomainPtr dom)
{
    int state, reason;

    return virDomainGetState(dom, &state, &reason, 0) == 0 && state == VIR_DOMAIN_PAUSED &&
           reason == VIR_DOMAIN_PAUSED_USER;
}

// Begins this request if it waits and nothing stands in its way.
static void try_request(DaemonDomain *d, guint i, virDomainPtr dom)
{
    const struct daemon_request *r = d->requests->pdata[i];
    const struct daemon_entry *answer = d->answers->pdata[i];
    g_autofree char *target = NULL;
    g_autoptr(GError) error = NULL;

    if (answer->state != DAEMON_WAITING || (r->on_suspend && !is_suspended(dom)))
        return;
    target = find_target(d, r);
    if (target && g_hash_table_contains(d->house->busy, target))
        return;
    if (!start_work(d, i, g_steal_pointer(&target), &error))
        set_answer(d, i, daemon_entry_new(DAEMON_FAILED, error->message));
}

static void go_on(DaemonDomain *d, virDomainPtr dom)
{
    const struct daemon_house *house = d->house;

    for (guint i = 0; i < d->requests->len; i++) {
        if (d->work.job || house->quit || house->n_jobs >= house->options->max_jobs ||
            g_hash_table_contains(house->busy, d->uuid))
            break;
        try_request(d, i, dom);
    }
    if (d->behind)
        publish(d, dom);
}

void daemon_domain_go_on(DaemonDomain *d)
{
    virDomainPtr dom = d->house->conn ? virDomainLookupByUUIDString(d->house->conn, d->uuid) : NULL;

    if (!dom)
        return; // once libvirt or the domain is back
    go_on(d, dom);
    virDomainFree(dom);
}

/* ---- requests ---- */

/*
 * RUNNING on disk, but not here: a daemon before us was cut off. Its command is over, and has said
 * how it went, unless it was ended outright. A file under its final name is whole; one newer than
 * the request was written for it.
 */
static void resolve_cut_off(DaemonDomain *d, const struct daemon_request *r,
                            struct daemon_entry *entry)
{
    g_autofree char *out = daemon_journal_path(journal(d), d->uuid, r->id, "out");
    g_autofree char *err = daemon_journal_path(journal(d), d->uuid, r->id, "err");
    g_autoptr(daemon_entry) result = daemon_job_result(out, err, d->uuid);
    struct stat st;

    entry->state = result->state;
    entry->pause_ms = result->pause_ms;
    entry->message = g_strdup(result->message);
    if (entry->state == DAEMON_FAILED && entry->file && stat(entry->file, &st) == 0 &&
        (int64_t)st.st_mtim.tv_sec * G_USEC_PER_SEC + st.st_mtim.tv_nsec / 1000 >=
            entry->started_us)
        entry->state = DAEMON_DONE;
    if (entry->state == DAEMON_FAILED && !entry->message)
        entry->message = g_strdup(
            r->verb == DAEMON_MOVE
                ? "vmgraftd ended before this was over: see in both domains where the process is"
                : "vmgraftd ended before this was over, and nothing was written");
    g_message("%s: request %s, of an earlier vmgraftd: %s", d->name, r->id,
              daemon_state_name(entry->state));
    if (entry->state == DAEMON_DONE && entry->file)
        daemon_job_prune(r, entry->file);
    daemon_journal_write(journal(d), d->uuid, r->id, entry, NULL);
}

// What there is to say to a request: an entry of the journal, or a new one. Owned by the caller.
static struct daemon_entry *consider(DaemonDomain *d, const struct daemon_request *r)
{
    const struct work *work = &d->work;
    g_autoptr(GError) error = NULL;
    g_autoptr(daemon_entry) entry = NULL;

    if (r->error)
        return daemon_entry_new(DAEMON_FAILED, r->error->message);
    entry = daemon_journal_read(journal(d), d->uuid, r->id, &error);
    if (error)
        return daemon_entry_new(DAEMON_FAILED, error->message);
    if (!entry)
        return daemon_entry_new(DAEMON_WAITING, NULL);
    if (strcmp(entry->request, r->text) != 0) {
        g_autofree char *text = g_strdup_printf(
            "the id %s was used before, for another request: give this one its own", r->id);

        return daemon_entry_new(DAEMON_FAILED, text);
    }
    if (entry->state == DAEMON_RUNNING && !(work->job && strcmp(work->request->id, r->id) == 0))
        resolve_cut_off(d, r, entry);
    return g_steal_pointer(&entry);
}

void daemon_domain_look(DaemonDomain *d, virDomainPtr dom)
{
    char *xml = virDomainGetMetadata(dom, VIR_DOMAIN_METADATA_ELEMENT, DAEMON_REQUEST_URI,
                                     VIR_DOMAIN_AFFECT_CURRENT);
    const virError *last = xml ? NULL : virGetLastError();
    g_autoptr(GError) error = NULL;
    GPtrArray *requests;

    // Only where libvirt says so there is none.
    if (last && last->code != VIR_ERR_NO_DOMAIN_METADATA)
        return;
    g_free(d->name);
    d->name = g_strdup(virDomainGetName(dom));
    requests = xml ? daemon_requests_parse(xml, &error) : NULL;
    free(xml);
    g_ptr_array_unref(d->requests);
    d->requests = requests ? requests : g_ptr_array_new();
    g_free(d->error);
    d->error = error ? g_strdup(error->message) : NULL;
    g_ptr_array_set_size(d->answers, 0);
    for (guint i = 0; i < d->requests->len; i++)
        g_ptr_array_add(d->answers, consider(d, d->requests->pdata[i]));
    d->behind = true;
    go_on(d, dom);
}
