// SPDX-License-Identifier: GPL-2.0-or-later
// An image is saved whole or not at all, and comes through pipes of any size.
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fmt_sample.h"

static uint64_t progressed;

static void on_progress(const struct fmt_progress *progress, void *user)
{
    g_assert_cmpuint(progress->done_bytes, >=, progressed);
    g_assert_cmpuint(progress->done_bytes, <=, progress->total_bytes);
    progressed = progress->done_bytes;
}

static void test_save(void)
{
    g_autoptr(FmtImage) img = sample_full();
    g_autoptr(GError) error = NULL;
    char *dir = sample_mkdir();
    g_autofree char *path = g_build_filename(dir, "an image", NULL);
    struct stat st;

    progressed = 0;
    fmt_save(img, path, on_progress, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpuint(st.st_size, ==, fmt_encoded_size(img));
    g_assert_cmpuint(st.st_size, ==, progressed);
    g_assert_cmpint(st.st_mode & 07777, ==, 0600);

    // In place of what was there.
    g_autoptr(FmtImage) tiny = sample_tiny();
    fmt_save(tiny, path, NULL, NULL, &error);
    g_assert_no_error(error);
    g_autoptr(FmtImage) again = fmt_load(path, &error);
    g_assert_no_error(error);
    sample_assert_equal(tiny, again);
    g_assert_cmpint(unlink(path), ==, 0);
    g_assert_true(sample_dir_is_empty(dir));
    sample_rmdir(dir);
}

static void test_symlink(void)
{
    g_autoptr(FmtImage) img = sample_tiny();
    g_autoptr(GError) error = NULL;
    char *dir = sample_mkdir();
    g_autofree char *real = g_build_filename(dir, "real", NULL);
    g_autofree char *name = g_build_filename(dir, "name", NULL);

    g_assert_true(g_file_set_contents(real, "old", -1, NULL));
    g_assert_cmpint(symlink("real", name), ==, 0);
    fmt_save(img, name, NULL, NULL, &error);
    g_assert_no_error(error);
    g_assert_true(g_file_test(name, G_FILE_TEST_IS_SYMLINK));
    g_autoptr(FmtImage) again = fmt_load(real, &error);
    g_assert_no_error(error);
    sample_assert_equal(img, again);
    sample_rmdir(dir);
}

static void assert_not_saved(const FmtImage *img, const char *path, const char *says)
{
    g_autoptr(GError) error = NULL;

    g_assert_false(fmt_save(img, path, NULL, NULL, &error));
    g_assert_error(error, FMT_ERROR, FMT_ERROR_IO);
    if (!strstr(error->message, says))
        g_error("\"%s\" does not say \"%s\"", error->message, says);
}

// The file size limit stands for a disk that fills up midway.
static void test_no_room(void)
{
    g_autoptr(FmtImage) img = sample_full();
    char *dir = sample_mkdir();
    g_autofree char *path = g_build_filename(dir, "image", NULL);
    g_autofree char *kept = NULL;
    struct rlimit old, small = {100000, RLIM_INFINITY};

    signal(SIGXFSZ, SIG_IGN);
    g_assert_cmpint(getrlimit(RLIMIT_FSIZE, &old), ==, 0);
    small.rlim_max = old.rlim_max;
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &small), ==, 0);
    assert_not_saved(img, path, "too large");
    g_assert_true(sample_dir_is_empty(dir));

    g_assert_true(g_file_set_contents(path, "old", -1, NULL));
    assert_not_saved(img, path, "ulimit");
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &old), ==, 0);
    g_assert_true(g_file_get_contents(path, &kept, NULL, NULL));
    g_assert_cmpstr(kept, ==, "old");
    g_assert_cmpint(unlink(path), ==, 0);
    g_assert_true(sample_dir_is_empty(dir));
    sample_rmdir(dir);
}

static void test_bad_places(void)
{
    g_autoptr(FmtImage) img = sample_tiny();

    assert_not_saved(img, "/nonexistent/folder/image", "No such file");
    assert_not_saved(img, "/dev/full", "not a regular file");
    assert_not_saved(img, "/tmp", "not a regular file");
}

static void test_full_disk(void)
{
    g_autoptr(FmtImage) img = sample_tiny();
    g_autoptr(GError) error = NULL;
    int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    g_assert_false(fmt_encode_fd(img, fd, NULL, NULL, &error));
    g_assert_error(error, FMT_ERROR, FMT_ERROR_IO);
    g_assert_nonnull(strstr(error->message, "free some space"));
    close(fd);
}

struct stream {
    const FmtImage *img;
    int fd;
    GError *error;
};

static void *write_stream(void *user)
{
    struct stream *s = user;

    fmt_encode_fd(s->img, s->fd, NULL, NULL, &s->error);
    close(s->fd);
    return NULL;
}

// Writer and reader on a small pipe: partial writes, and for one half no waiting in the kernel.
static void pipe_round(int writer_flags)
{
    g_autoptr(FmtImage) img = sample_full();
    g_autoptr(FmtImage) again = NULL;
    g_autoptr(GError) error = NULL;
    int fds[2];

    g_assert_cmpint(pipe2(fds, O_CLOEXEC), ==, 0);
    fcntl(fds[1], F_SETPIPE_SZ, FMT_PAGE_BYTES);
    fcntl(fds[1], F_SETFL, writer_flags);

    struct stream s = {.img = img, .fd = fds[1]};
    GThread *thread = g_thread_new("writer", write_stream, &s);
    again = fmt_load_fd(fds[0], &error);
    g_thread_join(thread);
    close(fds[0]);
    g_assert_no_error(s.error);
    g_assert_no_error(error);
    sample_assert_equal(img, again);
}

static void test_pipe(void)
{
    pipe_round(0);
    pipe_round(O_NONBLOCK);
}

static void test_reader_gone(void)
{
    g_autoptr(FmtImage) img = sample_full();
    g_autoptr(GError) error = NULL;
    int fds[2];

    signal(SIGPIPE, SIG_IGN);
    g_assert_cmpint(pipe2(fds, O_CLOEXEC), ==, 0);
    close(fds[0]);
    g_assert_false(fmt_encode_fd(img, fds[1], NULL, NULL, &error));
    g_assert_error(error, FMT_ERROR, FMT_ERROR_IO);
    g_assert_nonnull(strstr(error->message, "reader is gone"));
    close(fds[1]);
}

static void test_load_errors(void)
{
    static const struct {
        const char *path;
        int code;
    } bad[] = {
        {"/nonexistent", FMT_ERROR_IO},
        {"/tmp", FMT_ERROR_IO},
        {"/dev/null", FMT_ERROR_TRUNCATED},
        {"/proc/self/exe", FMT_ERROR_FOREIGN},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_null(fmt_load(bad[i].path, &error));
        g_assert_error(error, FMT_ERROR, bad[i].code);
        g_assert_nonnull(strstr(error->message, bad[i].path));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/save/save", test_save);
    g_test_add_func("/save/symlink", test_symlink);
    g_test_add_func("/save/no-room", test_no_room);
    g_test_add_func("/save/bad-places", test_bad_places);
    g_test_add_func("/save/full-disk", test_full_disk);
    g_test_add_func("/save/pipe", test_pipe);
    g_test_add_func("/save/reader-gone", test_reader_gone);
    g_test_add_func("/save/load-errors", test_load_errors);
    return g_test_run();
}
