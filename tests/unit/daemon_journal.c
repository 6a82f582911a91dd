// SPDX-License-Identifier: GPL-2.0-or-later
// The journal: what was written is read, what was cut off is told, and one daemon at a time has it.
#include "daemon/journal.h"

#include <glib/gstdio.h>
#include <unistd.h>

#include "daemon/job.h"

#define UUID "7d1b1b6c-2f43-4c79-9d25-4f0f5d6b2a11"

static char *folder;

static void test_entry(void)
{
    struct daemon_entry entry = {
        DAEMON_DONE, (char *)"capture id='1'", (char *)"/i/\"j\"", 1234567, 8.5, NULL};
    g_autoptr(GError) error = NULL;
    g_autoptr(daemon_entry) read = NULL;

    g_assert_null(daemon_journal_read(folder, UUID, "1", &error));
    g_assert_no_error(error);
    g_assert_true(daemon_journal_write(folder, UUID, "1", &entry, &error));
    read = daemon_journal_read(folder, UUID, "1", &error);
    g_assert_no_error(error);
    g_assert_cmpint(read->state, ==, DAEMON_DONE);
    g_assert_cmpstr(read->request, ==, entry.request);
    g_assert_cmpstr(read->file, ==, entry.file);
    g_assert_cmpint(read->started_us, ==, entry.started_us);
    g_assert_cmpfloat(read->pause_ms, ==, entry.pause_ms);
    g_assert_null(read->message);
    g_assert_null(daemon_journal_read(folder, UUID, "2", &error));
    g_assert_no_error(error);
}

// A file that is there but makes no sense is an error, never an id that is free.
static void test_damaged(void)
{
    static const char *const texts[] = {"", "{}", "[]", "{\"state\": \"odd\", \"request\": \"x\"}",
                                        "{\"state\": \"done\"}"};
    g_autofree char *path = g_build_filename(folder, UUID, "damaged", NULL);

    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_true(g_file_set_contents(path, texts[i], -1, NULL));
        g_assert_null(daemon_journal_read(folder, UUID, "damaged", &error));
        g_assert_error(error, DAEMON_ERROR, DAEMON_ERROR_STATE);
    }
}

static void test_lock(void)
{
    g_autoptr(GError) error = NULL;
    int first = daemon_journal_lock(folder, false, &error), second;

    g_assert_no_error(error);
    g_assert_cmpint(daemon_journal_lock(folder, false, &error), ==, -1);
    g_assert_error(error, DAEMON_ERROR, DAEMON_ERROR_STATE);
    g_clear_error(&error);
    close(first);
    second = daemon_journal_lock(folder, true, &error);
    g_assert_no_error(error);
    close(second);
}

static const struct {
    const char *out, *err;
    enum daemon_state state;
    double pause_ms;
    const char *message;
} ends[] = {
    {"{\"result\": \"captured\", \"pause_ms\": 8.5}", "", DAEMON_DONE, 8.5, NULL},
    {"{\"result\": \"moved\"}", "vmgraft: a note\n", DAEMON_DONE, 0, "a note"},
    {"{\"result\": \"refused\", \"reasons\": []}",
     "vmgraft: " UUID ": it cannot:\n  fd 3\n  fd 4\n", DAEMON_REFUSED, 0, "it cannot: fd 3; fd 4"},
    {"", "vmgraft: no\n", DAEMON_FAILED, 0, "no"},
    {"{\"result\": \"capt", "", DAEMON_FAILED, 0, NULL},
    {"\x01\xff", "\xff\n", DAEMON_FAILED, 0, "\xef\xbf\xbd"},
};

static void test_result(void)
{
    g_autofree char *out = daemon_journal_path(folder, UUID, "1", "out");
    g_autofree char *err = daemon_journal_path(folder, UUID, "1", "err");

    for (size_t i = 0; i < G_N_ELEMENTS(ends); i++) {
        g_autoptr(daemon_entry) result = NULL;

        g_assert_true(g_file_set_contents(out, ends[i].out, -1, NULL));
        g_assert_true(g_file_set_contents(err, ends[i].err, -1, NULL));
        result = daemon_job_result(out, err, UUID);
        g_assert_cmpint(result->state, ==, ends[i].state);
        g_assert_cmpfloat(result->pause_ms, ==, ends[i].pause_ms);
        g_assert_cmpstr(result->message, ==, ends[i].message);
    }
    unlink(out);
    unlink(err);
}

static void touch(const char *name)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);

    g_assert_true(g_file_set_contents(path, "", 0, NULL));
}

static bool exists(const char *name)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);

    return g_access(path, F_OK) == 0;
}

// Only what we have named ourselves goes, and never the file of now.
static void test_prune(void)
{
    g_autofree char *to = g_build_filename(folder, "job", NULL);
    g_autofree char *now = g_strconcat(to, ".20200101T000000.000000Z", NULL);
    const struct daemon_request request = {.verb = DAEMON_CAPTURE, .to = to, .keep = 2};

    touch("job.20200101T000000.000000Z");
    touch("job.20260101T000000.000000Z");
    touch("job.20260102T000000.000000Z");
    touch("job.20260103T000000.000000Z");
    touch("job.vmg");
    touch("job.20250101T000000.000000Z.bak");
    touch("jobs.20250101T000000.000000Z");
    daemon_job_prune(&request, now);
    g_assert_true(exists("job.20260103T000000.000000Z") && exists("job.20260102T000000.000000Z"));
    g_assert_true(exists("job.20200101T000000.000000Z"));
    g_assert_false(exists("job.20260101T000000.000000Z"));
    g_assert_true(exists("job.vmg") && exists("job.20250101T000000.000000Z.bak"));
    g_assert_true(exists("jobs.20250101T000000.000000Z"));
}

static void remove_all(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *below = g_build_filename(path, name, NULL);

        remove_all(below);
    }
    g_remove(path);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    folder = g_dir_make_tmp("daemon-journal-XXXXXX", NULL);
    g_assert_nonnull(folder);
    g_test_add_func("/daemon/journal/entry", test_entry);
    g_test_add_func("/daemon/journal/damaged", test_damaged);
    g_test_add_func("/daemon/journal/lock", test_lock);
    g_test_add_func("/daemon/job/result", test_result);
    g_test_add_func("/daemon/job/prune", test_prune);
    ret = g_test_run();
    remove_all(folder);
    g_free(folder);
    return ret;
}
