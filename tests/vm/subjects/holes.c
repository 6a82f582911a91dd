// SPDX-License-Identifier: GPL-2.0-or-later
// Files without a name that are mostly holes: what is data, what is zeros, what is set aside, and
// what has never been there.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "subject.h"

#define PAGE  4096ll
#define HUGE  (1ll << 40) // bytes of a file; no guest has them
#define MTIME 1600000003

// A mapping may not fill pages that were holes, so what is looked into is there.
static struct file {
    const char *name;
    bool memfd;
    int fd;
    struct stat st;        // as it was set up
    off_t data[8], end[8]; // SEEK_DATA, SEEK_HOLE
    unsigned n_data;
} files[] = {
    {.name = "file"},
    {.name = "memfd", .memfd = true},
    {.name = "unused file"},
    {.name = "unused memfd", .memfd = true},
};

#define N_FILES (sizeof files / sizeof files[0])

static uint8_t *shared, *private, *anonymous;

static void make(struct file *f)
{
    if (f->memfd)
        MUST((f->fd = memfd_create(f->name, 0)) >= 0);
    else
        MUST((f->fd = open(f->name, O_RDWR | O_CREAT | O_EXCL, 0600)) >= 0 && unlink(f->name) == 0);
}

static void fill(const struct file *f)
{
    static const uint8_t zeros[2 * PAGE];

    MUST(ftruncate(f->fd, HUGE + 100) == 0);
    MUST(pwrite(f->fd, "first", 5, 0) == 5 && pwrite(f->fd, "middle", 6, HUGE / 2) == 6);
    MUST(pwrite(f->fd, "last", 4, HUGE + 96) == 4);
    MUST(pwrite(f->fd, zeros, sizeof zeros, 256 * PAGE) == sizeof zeros);
    // Set aside, and written to in the midst; and behind the end.
    MUST(fallocate(f->fd, 0, 1024 * PAGE, 64 * PAGE) == 0);
    MUST(pwrite(f->fd, "x", 1, 1030 * PAGE) == 1);
    MUST(fallocate(f->fd, FALLOC_FL_KEEP_SIZE, HUGE + 16 * PAGE, 8 * PAGE) == 0);
}

// Where data begins and ends. Moves the position and puts it back, which a copy would not see.
static unsigned survey(const struct file *f, off_t *data, off_t *end)
{
    const off_t pos = lseek(f->fd, 0, SEEK_CUR);
    unsigned n = 0;
    off_t at = 0;

    while (n < 8 && (at = lseek(f->fd, at, SEEK_DATA)) >= 0) {
        data[n] = at;
        at = end[n++] = lseek(f->fd, at, SEEK_HOLE);
    }
    MUST(lseek(f->fd, pos, SEEK_SET) == pos);
    return n;
}

static void set_up(void)
{
    const struct timespec times[2] = {{.tv_sec = MTIME, .tv_nsec = 9}, {.tv_sec = MTIME}};

    for (size_t i = 0; i < N_FILES; i++)
        make(&files[i]);
    fill(&files[0]);
    fill(&files[1]);
    MUST(ftruncate(files[2].fd, HUGE) == 0 && ftruncate(files[3].fd, HUGE) == 0);
    MUST(lseek(files[0].fd, 2 * HUGE, SEEK_SET) == 2 * HUGE);

    shared = mmap(NULL, HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, files[0].fd, HUGE / 2);
    private = mmap(NULL, HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, files[1].fd, 0);
    anonymous =
        mmap(NULL, HUGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    MUST(shared != MAP_FAILED && private != MAP_FAILED && anonymous != MAP_FAILED);
    shared[HUGE / 2 + 100] = 'b'; // behind the end, where only a mapping sees it
    private[HUGE / 2] = 'M';
    anonymous[HUGE - 1] = 'a';

    for (size_t i = 0; i < N_FILES; i++) {
        struct file *f = &files[i];

        MUST(futimens(f->fd, times) == 0 && fstat(f->fd, &f->st) == 0);
        f->n_data = survey(f, f->data, f->end);
        CHECK(f->n_data == (i < 2 ? 5u : 0u), "%s: data at %u places", f->name, f->n_data);
    }
}

static void check(const struct file *f)
{
    off_t data[8] = {0}, end[8] = {0};
    struct stat st;

    MUST(fstat(f->fd, &st) == 0);
    CHECK(st.st_size == f->st.st_size && st.st_blocks == f->st.st_blocks &&
              st.st_mode == f->st.st_mode && st.st_nlink == 0,
          "%s: %ld bytes in %ld blocks, not %ld", f->name, st.st_size, st.st_blocks,
          f->st.st_blocks);
    CHECK(st.st_mtim.tv_sec == MTIME && st.st_mtim.tv_nsec == 0, "%s: modified %ld.%09ld", f->name,
          st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    CHECK(survey(f, data, end) == f->n_data && memcmp(data, f->data, sizeof data) == 0 &&
              memcmp(end, f->end, sizeof end) == 0,
          "%s: data is elsewhere", f->name);
}

static void check_text(const struct file *f, off_t at, const char *text)
{
    char there[16] = "";

    CHECK(pread(f->fd, there, strlen(text), at) == (ssize_t)strlen(text) &&
              strcmp(there, text) == 0,
          "%s: %s at %lx", f->name, there, at);
}

int main(int argc, char **argv)
{
    subject_begin(argc, argv);
    MUST(chdir(subject.workdir) == 0);
    set_up();
    subject_ready();
    if (subject.sabotage)
        MUST(fallocate(files[3].fd, 0, 0, PAGE) == 0);
    while (!subject_asked())
        subject_sleep_ms(10);
    for (size_t i = 0; i < N_FILES; i++)
        check(&files[i]);
    for (size_t i = 0; i < 2; i++) {
        check_text(&files[i], 0, "first");
        check_text(&files[i], HUGE / 2, "middle");
        check_text(&files[i], HUGE + 96, "last");
        check_text(&files[i], 1030 * PAGE, "x");
    }
    CHECK(lseek(files[0].fd, 0, SEEK_CUR) == 2 * HUGE, "position");
    CHECK(memcmp(shared, "middle", 6) == 0 && shared[HUGE / 2 + 100] == 'b', "shared mapping");
    CHECK(memcmp(private + HUGE / 2, "Middle", 6) == 0 && memcmp(private, "first", 5) == 0,
          "private mapping");
    CHECK(anonymous[HUGE - 1] == 'a' && anonymous[HUGE / 2] == 0, "shared memory");
    subject_pass();
}
