// SPDX-License-Identifier: GPL-2.0-or-later
// A process of this machine is captured by the oracle, ended, and brought back: whole, or not at
// all.
//
// Needs root and ptrace. argv[1] is proc-capture.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "formats/stream.h"
#include "guestagent/restore.h"

static char *capture_program, *folder, *self;

// What is captured: holds a file open, counts, and tells on SIGUSR2 by its exit status whether all
// is as it should be.
static volatile sig_atomic_t asked;

static void on_asked(int signo)
{
    asked = 1;
}

static int subject(const char *path)
{
    const pid_t me = getpid();
    volatile uint64_t up = 0, down = UINT64_MAX;
    const int fd = open(path, O_RDWR);

    signal(SIGUSR2, on_asked);
    if (fd < 0 || lseek(fd, 3, SEEK_SET) != 3 || write(STDOUT_FILENO, "", 1) != 1)
        return 2;
    while (!asked) {
        up++;
        down--;
        if (up + down != UINT64_MAX)
            return 3;
    }
    return getpid() == me && lseek(fd, 0, SEEK_CUR) == 3 ? 42 : 4;
}

static pid_t start_subject(const char *path)
{
    int ready[2];
    char byte;
    pid_t pid;

    g_assert_cmpint(pipe2(ready, O_CLOEXEC), ==, 0);
    pid = fork();
    if (pid == 0) {
        const int null = open("/dev/null", O_RDWR);

        dup2(null, STDIN_FILENO);
        dup2(null, STDERR_FILENO);
        // The pipe ends when the program runs: its far end is outside of the tree.
        dup2(ready[1], STDOUT_FILENO);
        execl(self, self, "--subject", path, NULL);
        _exit(2);
    }
    close(ready[1]);
    g_assert_cmpint(read(ready[0], &byte, 1), ==, 1);
    close(ready[0]);
    return pid;
}

static char *data_path(void)
{
    char *path = g_build_filename(folder, "data", NULL);

    g_assert_true(g_file_set_contents(path, "0123456789", 10, NULL));
    return path;
}

static FmtImage *capture(pid_t pid, bool end)
{
    g_autofree char *image = g_build_filename(folder, "image", NULL);
    g_autofree char *number = g_strdup_printf("%d", pid);
    char *argv[] = {capture_program, end ? "--kill" : number, end ? number : image,
                    end ? image : NULL, NULL};
    g_autoptr(GError) error = NULL;
    int status;

    g_assert_true(g_spawn_sync(NULL, argv, NULL, 0, NULL, NULL, NULL, NULL, &status, &error));
    g_assert_cmpint(status, ==, 0);
    if (end)
        g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    FmtImage *img = fmt_load(image, &error);

    g_assert_no_error(error);
    return img;
}

static FmtImage *captured(pid_t *ret_pid)
{
    g_autofree char *path = data_path();

    *ret_pid = start_subject(path);
    return capture(*ret_pid, true);
}

static unsigned n_descriptors(void)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/fd", 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(dir))
        n++;
    return n;
}

static AgentRestore *plan(FmtImage *img, const struct agent_restore_options *opt, GPtrArray *notes)
{
    g_autoptr(GPtrArray) refusals = agent_refusal_list_new();
    g_autoptr(GError) error = NULL;
    AgentRestore *r = agent_restore_plan(img, opt, refusals, notes, &error);

    for (guint i = 0; i < refusals->len; i++)
        g_test_message("%s", ((struct agent_refusal *)g_ptr_array_index(refusals, i))->text);
    g_assert_no_error(error);
    return r;
}

static void all_pages(AgentRestore *r, const FmtImage *img)
{
    g_autoptr(GError) error = NULL;

    for (size_t i = 0; i < fmt_image_n_extents(img); i++) {
        const struct fmt_extent *e = fmt_image_extent(img, i);

        agent_restore_pages(r, &e->pages, 0, e->data, e->pages.n_pages * FMT_PAGE_BYTES, &error);
        g_assert_no_error(error);
    }
}

enum stage { PLANNED, BUILT, FILLED, FINISHED };

// Up to a stage of the restore; every one of them can be the last.
static AgentRestore *restore_to(FmtImage *img, enum stage stage, bool new_namespace,
                                GPtrArray *notes)
{
    const struct agent_restore_options opt = {
        .new_pid_namespace = new_namespace,
        .elapsed_ns = -1,
    };
    AgentRestore *r = plan(img, &opt, notes);
    g_autoptr(GError) error = NULL;

    if (stage >= BUILT)
        agent_restore_build(r, &error);
    g_assert_no_error(error);
    if (stage >= FILLED)
        all_pages(r, img);
    if (stage >= FINISHED)
        agent_restore_finish(r, &error);
    g_assert_no_error(error);
    return r;
}

static void test_abort(const void *data)
{
    const enum stage stage = GPOINTER_TO_UINT(data) & 3;
    const bool new_namespace = GPOINTER_TO_UINT(data) & 4;
    const unsigned before = n_descriptors();
    g_autoptr(GPtrArray) notes = agent_refusal_list_new();
    pid_t pid;
    g_autoptr(FmtImage) img = captured(&pid);

    agent_restore_abort(restore_to(img, stage, new_namespace, notes));
    // We are the subreaper: what was left would be ours.
    g_assert_cmpint(waitpid(-1, NULL, __WALL | WNOHANG), ==, -1);
    g_assert_cmpint(errno, ==, ECHILD);
    g_assert_cmpint(kill(pid, 0), ==, -1);
    g_assert_cmpuint(n_descriptors(), ==, before);
}

static void test_agent_dies(void)
{
    pid_t pid, agent;
    g_autoptr(FmtImage) img = captured(&pid);
    int status;

    agent = fork();
    if (agent == 0) {
        g_autoptr(GPtrArray) notes = agent_refusal_list_new();

        restore_to(img, FINISHED, false, notes);
        kill(getpid(), SIGKILL);
    }
    g_assert_cmpint(waitpid(agent, &status, 0), ==, agent);
    g_assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    // Its end takes the process with it, which is ours to wait for.
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void test_release(const void *data)
{
    const bool new_namespace = GPOINTER_TO_UINT(data);
    const unsigned before = n_descriptors();
    g_autoptr(GPtrArray) notes = agent_refusal_list_new();
    g_autoptr(GError) error = NULL;
    GArray *pids = NULL;
    pid_t pid;
    g_autoptr(FmtImage) img = captured(&pid);
    AgentRestore *r = restore_to(img, FINISHED, new_namespace, notes);
    int status;

    agent_restore_release(r, &pids, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(n_descriptors(), ==, before);
    g_assert_cmpuint(pids->len, ==, 1);
    const pid_t now = g_array_index(pids, pid_t, 0);

    g_array_unref(pids);
    g_assert_cmpint(kill(now, SIGUSR2), ==, 0);
    if (new_namespace) {
        // The namespace's init waits for it and ends with it.
        g_assert_cmpint(waitpid(-1, &status, __WALL), !=, now);
        g_assert_cmpint(status, ==, 0);
        return;
    }
    g_assert_cmpint(now, ==, pid);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_true(WIFEXITED(status));
    g_assert_cmpint(WEXITSTATUS(status), ==, 42);
}

// What is wrong in an image or on the machine, and the kind of refusal that says so.
static void spoil_forensic(FmtImage *img)
{
    fmt_image_head(img)->forensic = 1;
}

static void spoil_cpu(FmtImage *img)
{
    struct fmt_cpu *cpu = fmt_image_nth(img, FMT_CPU, 0);

    g_free(cpu->features);
    cpu->features = g_strdup("sse2 from_the_future");
}

static void spoil_machine(FmtImage *img)
{
    g_free(fmt_image_head(img)->machine);
    fmt_image_head(img)->machine = g_strdup("aarch64");
}

static void spoil_size(FmtImage *img)
{
    g_autofree char *path = g_build_filename(folder, "data", NULL);

    g_assert_true(g_file_set_contents(path, "longer than it was", -1, NULL));
}

static void spoil_missing(FmtImage *img)
{
    g_autofree char *path = g_build_filename(folder, "data", NULL);

    g_assert_cmpint(unlink(path), ==, 0);
}

static void spoil_type(FmtImage *img)
{
    g_autofree char *path = g_build_filename(folder, "data", NULL);

    g_assert_cmpint(unlink(path), ==, 0);
    g_assert_cmpint(symlink("/dev/null", path), ==, 0);
}

static void spoil_cwd(FmtImage *img)
{
    struct fmt_fs *fs = fmt_image_nth(img, FMT_FS, 0);

    g_free(fs->cwd);
    fs->cwd = g_strdup("/there/is/no/such/folder");
}

static void spoil_device(FmtImage *img)
{
    struct fmt_inode *inode;

    for (size_t i = 0; FMT_NEXT(img, INODE, i, inode); i++) {
        if (S_ISCHR(inode->mode))
            inode->rdev = 0x0afe;
    }
}

static void spoil_seccomp(FmtImage *img)
{
    struct fmt_task *task = fmt_image_nth(img, FMT_TASK, 0);

    task->seccomp = 2;
}

static void spoil_vma(FmtImage *img)
{
    struct fmt_vma *vma = fmt_image_nth(img, FMT_VMA, 1);

    vma->kind = 77;
}

static void spoil_capability(FmtImage *img)
{
    struct fmt_cred *cred = fmt_image_nth(img, FMT_CRED, 0);

    cred->cap_permitted |= 1ull << 60;
}

static const struct spoiled {
    const char *kind;
    void (*spoil)(FmtImage *img);
} spoiled[] = {
    {"forensic", spoil_forensic}, {"cpu-feature", spoil_cpu},         {"machine", spoil_machine},
    {"file-size", spoil_size},    {"file-missing", spoil_missing},    {"file-type", spoil_type},
    {"cwd", spoil_cwd},           {"device", spoil_device},           {"seccomp", spoil_seccomp},
    {"vma-kind", spoil_vma},      {"capabilities", spoil_capability},
};

static void refused(FmtImage *img, const char *kind)
{
    const struct agent_restore_options opt = {.elapsed_ns = -1};
    g_autoptr(GPtrArray) refusals = agent_refusal_list_new(), notes = agent_refusal_list_new();
    g_autoptr(GError) error = NULL;
    bool found = false;

    g_assert_null(agent_restore_plan(img, &opt, refusals, notes, &error));
    g_assert_error(error, AGENT_ERROR, AGENT_ERROR_REFUSED);
    for (guint i = 0; i < refusals->len; i++) {
        const struct agent_refusal *one = g_ptr_array_index(refusals, i);

        g_test_message("%s: %s", one->kind, one->text);
        found |= strcmp(one->kind, kind) == 0;
    }
    g_assert_true(found);
}

static void test_refused(const void *data)
{
    const struct spoiled *row = data;
    pid_t pid;
    g_autoptr(FmtImage) img = captured(&pid);

    row->spoil(img);
    refused(img, row->kind);
}

static void test_pid_taken(void)
{
    g_autofree char *path = data_path();
    const pid_t pid = start_subject(path);
    g_autoptr(FmtImage) img = capture(pid, false);
    int status;

    refused(img, "pid-taken");
    // The capture and the refusal have done nothing to it.
    kill(pid, SIGUSR2);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_true(WIFEXITED(status));
    g_assert_cmpint(WEXITSTATUS(status), ==, 42);
}

static void *wait_late(void *pid)
{
    g_usleep(G_USEC_PER_SEC / 5);
    return GINT_TO_POINTER(waitpid(GPOINTER_TO_INT(pid), NULL, 0));
}

// One that has ended keeps its pid until its parent has looked: that takes a moment, or for ever.
static void test_pid_of_ended(void)
{
    g_autofree char *path = data_path();
    const pid_t pid = start_subject(path);
    g_autoptr(FmtImage) img = capture(pid, false);
    const struct agent_restore_options opt = {.elapsed_ns = -1};
    g_autoptr(GPtrArray) notes = agent_refusal_list_new();
    siginfo_t info;

    kill(pid, SIGKILL);
    g_assert_cmpint(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), ==, 0);
    refused(img, "pid-taken");
    GThread *parent = g_thread_new("parent", wait_late, GINT_TO_POINTER(pid));
    AgentRestore *r = plan(img, &opt, notes);

    g_assert_cmpint(GPOINTER_TO_INT(g_thread_join(parent)), ==, pid);
    g_assert_nonnull(r);
    agent_restore_abort(r);
}

// A page that has to be as in the file here, and is not.
static void test_mismatch(void)
{
    g_autoptr(GPtrArray) notes = agent_refusal_list_new();
    g_autoptr(GError) error = NULL;
    g_autofree uint8_t *page = g_malloc(FMT_PAGE_BYTES);
    pid_t pid;
    g_autoptr(FmtImage) img = captured(&pid);
    AgentRestore *r = restore_to(img, BUILT, false, notes);
    bool done = false;

    for (size_t i = 0; i < fmt_image_n_extents(img) && !done; i++) {
        const struct fmt_extent *e = fmt_image_extent(img, i);

        if (e->pages.kind != FMT_PAGES_CLEAN)
            continue;
        memcpy(page, e->data, FMT_PAGE_BYTES);
        page[100] ^= 1;
        done = true;
        g_assert_false(agent_restore_pages(r, &e->pages, 0, page, FMT_PAGE_BYTES, &error));
        g_assert_error(error, AGENT_ERROR, AGENT_ERROR_MISMATCH);
    }
    g_assert_true(done);
    agent_restore_abort(r);
}

int main(int argc, char **argv)
{
    static const char *const stages[] = {"planned", "built", "filled", "finished"};
    int status;

    if (argc == 3 && strcmp(argv[1], "--subject") == 0)
        return subject(argv[2]);
    g_test_init(&argc, &argv, NULL);
    g_assert_cmpint(argc, ==, 2);
    if (geteuid() != 0) {
        g_print("1..0 # SKIP needs root: ptrace, set_tid\n");
        return 0;
    }
    capture_program = argv[1];
    self = g_file_read_link("/proc/self/exe", NULL);
    folder = g_dir_make_tmp("agent-restore-XXXXXX", NULL);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    for (unsigned i = 0; i < 8; i++) {
        g_autofree char *path = g_strdup_printf("/agent/restore/abort-when-%s%s", stages[i & 3],
                                                i & 4 ? "-in-new-namespace" : "");

        g_test_add_data_func(path, GUINT_TO_POINTER(i), test_abort);
    }
    g_test_add_func("/agent/restore/agent-dies", test_agent_dies);
    g_test_add_data_func("/agent/restore/released", GUINT_TO_POINTER(0), test_release);
    g_test_add_data_func("/agent/restore/released-in-new-namespace", GUINT_TO_POINTER(1),
                         test_release);
    g_test_add_func("/agent/restore/mismatch", test_mismatch);
    g_test_add_func("/agent/restore/refused/pid-taken", test_pid_taken);
    g_test_add_func("/agent/restore/pid-of-ended", test_pid_of_ended);
    for (size_t i = 0; i < G_N_ELEMENTS(spoiled); i++) {
        g_autofree char *path = g_strconcat("/agent/restore/refused/", spoiled[i].kind, NULL);

        g_test_add_data_func(path, &spoiled[i], test_refused);
    }
    status = g_test_run();
    g_autofree char *remove = g_strdup_printf("rm -r %s", folder);

    return system(remove) == 0 ? status : 1;
}
