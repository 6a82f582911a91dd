// SPDX-License-Identifier: GPL-2.0-or-later
// A core of an image shows gdb what the live process shows it.
#include <elf.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fmt_live.h"
#include "fmt_sample.h"
#include "formats/export.h"

#define SPIN_BYTES "\xeb\xfe" // jmp to itself

static const char *subject_path;

// The leader spins and the other thread waits in read.
static bool subject_is_ready(const FmtImage *img)
{
    const struct fmt_task *spinner = fmt_image_nth(img, FMT_TASK, 0);
    const struct fmt_task *waiter = fmt_image_nth(img, FMT_TASK, 1);
    g_autofree char *path = g_strdup_printf("/proc/%d/mem", (int)spinner->tid);
    FILE *mem = fopen(path, "re");
    char insn[2] = "";

    g_assert_nonnull(mem);
    fseek(mem, spinner->rip, SEEK_SET);
    g_assert_cmpuint(fread(insn, 1, 2, mem), ==, 2);
    fclose(mem);
    return waiter && waiter->orig_rax == SYS_read && memcmp(insn, SPIN_BYTES, 2) == 0;
}

static char *run_gdb(const char *const *args)
{
    static const char *const show[] = {
        "thread apply all bt",
        "thread 1",
        "info registers",
        "info float",
        "p/x $xmm3.uint128",
        "p/x $xmm13.uint128",
        "p $mxcsr",
        "p (char *)on_heap",
        "p in_data[4095]",
        "info auxv",
        "thread 2",
        "info registers",
        "x/8i $rip",
        "frame function go_down",
        "info locals",
        "info args",
    };
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autoptr(GError) error = NULL;
    char *out = NULL;

    g_ptr_array_add(argv, "gdb");
    g_ptr_array_add(argv, "-nx");
    g_ptr_array_add(argv, "-batch");
    for (size_t i = 0; args[i]; i++)
        g_ptr_array_add(argv, (char *)args[i]);
    for (size_t i = 0; i < G_N_ELEMENTS(show); i++) {
        g_ptr_array_add(argv, "-ex");
        g_ptr_array_add(argv, (char *)show[i]);
    }
    g_ptr_array_add(argv, NULL);
    g_spawn_sync(NULL, (char **)argv->pdata, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_STDERR_TO_DEV_NULL,
                 NULL, NULL, &out, NULL, NULL, &error);
    g_assert_no_error(error);
    return out;
}

// From the first backtrace on, without the headings that name threads in two ways, and without the
// warning of a gdb that is older than AMX, which the kernel's own cores get as well.
static bool is_comparable(const char *line)
{
    return !strstr(line, "hread ") && !g_str_has_prefix(line, "[Inferior") &&
           !g_str_has_prefix(line, "warning: Unexpected size of section `.reg-xstate");
}

static char *comparable(const char *out)
{
    g_auto(GStrv) lines = g_strsplit(out, "\n", -1);
    g_autoptr(GString) kept = g_string_new(NULL);
    bool started = false;

    for (size_t i = 0; lines[i]; i++) {
        started |= g_str_has_prefix(lines[i], "Thread 2 (");
        if (started && is_comparable(lines[i]))
            g_string_append_printf(kept, "%s\n", lines[i]);
    }
    return g_string_free(g_steal_pointer(&kept), false);
}

static pid_t start_subject(int *ret_stdin)
{
    const char *argv[] = {subject_path, NULL};
    g_autoptr(GError) error = NULL;
    pid_t pid;

    g_spawn_async_with_pipes(NULL, (char **)argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL, &pid,
                             ret_stdin, NULL, NULL, &error);
    g_assert_no_error(error);
    return pid;
}

static void test_gdb(void)
{
    g_autofree char *gdb = g_find_program_in_path("gdb");
    int in;

    if (!gdb) {
        g_test_skip("gdb is not installed");
        return;
    }
    pid_t pid = start_subject(&in);
    g_autoptr(GError) error = NULL;
    g_autoptr(FmtImage) img = NULL;
    char *dir = sample_mkdir();
    g_autofree char *path = g_build_filename(dir, "core", NULL);
    g_autofree char *pid_text = g_strdup_printf("%d", pid);
    struct stat st;

    while (!(img = live_image(pid, subject_is_ready)))
        g_thread_yield();
    fmt_export_core(img, 0, path, &error);
    g_assert_no_error(error);
    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 07777, ==, 0600);

    g_autofree char *live = run_gdb((const char *[]){subject_path, "-p", pid_text, NULL});
    g_autofree char *dead = run_gdb((const char *[]){subject_path, path, NULL});
    g_autofree char *live_part = comparable(live);
    g_autofree char *dead_part = comparable(dead);

    g_test_message("live:\n%s\ncore:\n%s", live, dead);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    close(in);
    g_assert_true(strcmp(live_part, dead_part) == 0);
    g_assert_nonnull(strstr(dead, "wait_here (why="));
    g_assert_nonnull(strstr(dead, "never in the image"));
    g_assert_nonnull(strstr(dead, "written on the heap"));
    g_assert_nonnull(strstr(dead, "= 4711"));
    g_assert_nonnull(strstr(dead, "0x44444444333333332222222211111111"));
    g_assert_nonnull(strstr(dead, "3.25"));
    sample_rmdir(dir);
}

static Elf64_Phdr *load_segments(const char *core, size_t *ret_n)
{
    const Elf64_Ehdr *elf = (const void *)core;

    g_assert_cmpuint(elf->e_type, ==, ET_CORE);
    *ret_n = elf->e_phnum - 1;
    return (Elf64_Phdr *)(core + elf->e_phoff) + 1;
}

// What was never asked for is not shown as zeros; what was never touched is; huge gaps take no
// room.
static void test_segments(void)
{
    g_autoptr(FmtImage) img = sample_tiny();
    g_autoptr(GError) error = NULL;
    char *dir = sample_mkdir();
    g_autofree char *path = g_build_filename(dir, "core", NULL);
    g_autofree char *core = NULL;
    const struct fmt_mm *mm = fmt_image_nth(img, FMT_MM, 0);
    struct fmt_file *file = fmt_image_add(img, FMT_FILE);
    static const uint8_t page[FMT_PAGE_BYTES] = "page";
    size_t n;

    struct fmt_vma *vma = fmt_image_add(img, FMT_VMA);
    *vma = (struct fmt_vma){.rec = vma->rec,
                            .mm = mm->rec.objref,
                            .start = 0x500000,
                            .end = 0x504000,
                            .kind = FMT_VMA_FILE,
                            .object = file->rec.objref};
    vma = fmt_image_add(img, FMT_VMA);
    *vma =
        (struct fmt_vma){.rec = vma->rec, .mm = mm->rec.objref, .start = 0x600000, .end = 0x608000};
    vma = fmt_image_add(img, FMT_VMA);
    *vma = (struct fmt_vma){
        .rec = vma->rec, .mm = mm->rec.objref, .start = 0x10000000000, .end = 0x20000000000};
    fmt_image_add_extent(img, mm->rec.objref, 0x501000, 1, FMT_PAGES_CLEAN, page);
    fmt_image_add_extent(img, mm->rec.objref, 0x602000, 1, FMT_PAGES_DATA, page);
    fmt_image_add_extent(img, mm->rec.objref, 0x18000000000, 1, FMT_PAGES_DATA, page);

    fmt_export_core(img, 42, path, &error);
    g_assert_no_error(error);
    g_assert_true(g_file_get_contents(path, &core, NULL, NULL));

    static const struct {
        uint64_t start, memsz;
        bool held;
    } want[] = {
        {0x400000, 0x1000, true},      {0x500000, 0x1000, false},
        {0x501000, 0x1000, true},      {0x502000, 0x2000, false},
        {0x600000, 0x8000, true},      {0x10000000000, 0x8000000000, false},
        {0x18000000000, 0x1000, true}, {0x18000001000, 0x7ffffff000, false},
    };
    const Elf64_Phdr *loads = load_segments(core, &n);
    g_assert_cmpuint(n, ==, G_N_ELEMENTS(want));
    for (size_t i = 0; i < n; i++) {
        g_assert_cmphex(loads[i].p_vaddr, ==, want[i].start);
        g_assert_cmphex(loads[i].p_memsz, ==, want[i].memsz);
        g_assert_cmphex(loads[i].p_filesz, ==, want[i].held ? want[i].memsz : 0);
    }
    g_assert_cmpmem(core + loads[4].p_offset + 0x2000, FMT_PAGE_BYTES, page, FMT_PAGE_BYTES);
    sample_rmdir(dir);
}

static void test_absent(void)
{
    g_autoptr(FmtImage) img = sample_tiny();
    g_autoptr(GError) error = NULL;
    char *dir = sample_mkdir();
    g_autofree char *path = g_build_filename(dir, "core", NULL);

    g_assert_false(fmt_export_core(img, 43, path, &error));
    g_assert_error(error, FMT_ERROR, FMT_ERROR_ABSENT);
    g_clear_error(&error);
    ((struct fmt_proc *)fmt_image_nth(img, FMT_PROC, 0))->mm = 0;
    g_assert_false(fmt_export_core(img, 0, path, &error));
    g_assert_error(error, FMT_ERROR, FMT_ERROR_ABSENT);
    g_assert_true(sample_dir_is_empty(dir));
    sample_rmdir(dir);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_assert_cmpint(argc, ==, 2);
    subject_path = argv[1];
    g_test_add_func("/core/gdb", test_gdb);
    g_test_add_func("/core/segments", test_segments);
    g_test_add_func("/core/absent", test_absent);
    return g_test_run();
}
