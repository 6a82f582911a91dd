// SPDX-License-Identifier: GPL-2.0-or-later
// The address space as the process sees it: brk, stack, arguments, environment, auxv, /proc/self.
// Argument "title": after it has changed them as setproctitle() and PR_SET_MM do; "memfd": as a
// program that has no file.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "subject.h"

#define TEXT_BYTES (64 << 10)

extern char **environ;

static const char *const files[] = {"cmdline", "environ", "auxv", "maps", "stat", "limits", "comm"};
#define N_FILES (sizeof files / sizeof files[0])

static char before[N_FILES][TEXT_BYTES], now[TEXT_BYTES], line[512];
static size_t before_bytes[N_FILES];

static size_t read_file(const char *name, char *ret)
{
    char path[64];
    size_t used = 0;
    ssize_t bytes;
    int fd;

    snprintf(path, sizeof path, "/proc/self/%s", name);
    fd = open(path, O_RDONLY);
    CHECK(fd >= 0, "%s: %m", path);
    while ((bytes = read(fd, ret + used, TEXT_BYTES - 1 - used)) > 0)
        used += (size_t)bytes;
    close(fd);
    ret[used] = 0;
    return used;
}

struct area {
    unsigned long start, end, offset;
    char perms[8], path[256];
};

static bool parse_area(const char *text, struct area *ret)
{
    memset(ret, 0, sizeof *ret);
    CHECK(sscanf(text, "%lx-%lx %7s %lx %*s %*s %255s", &ret->start, &ret->end, ret->perms,
                 &ret->offset, ret->path) >= 4,
          "maps: %s", text);
    // vdso, vvar, vvar_vclock, vsyscall: the kernel's own. The vdso of another kernel, and its
    // data, have no name.
    const unsigned long vdso = getauxval(AT_SYSINFO_EHDR);

    return strncmp(ret->path, "[v", 2) != 0 && ret->start != vdso && ret->end != vdso;
}

// Whether b goes on where a ends and differs in nothing: a kernel may show them as one or as two.
static bool continues(const struct area *a, const struct area *b)
{
    return a->end == b->start && strcmp(a->perms, b->perms) == 0 && strcmp(a->path, b->path) == 0 &&
           (a->path[0] != '/' || a->offset + (a->end - a->start) == b->offset);
}

static char *print_area(char *to, const struct area *a)
{
    if (a->end == 0)
        return to;
    return to + sprintf(to, "%lx-%lx %s %lx %s\n", a->start, a->end, a->perms, a->offset, a->path);
}

// Leaves of maps what must stay: no device and inode numbers, nothing of the kernel's own.
static size_t reduce_maps(char *text)
{
    static char reduced[TEXT_BYTES];
    struct area last = {0}, area;
    char *to = reduced;

    for (char *from = text, *end; (end = strchr(from, '\n')); from = end + 1) {
        *end = 0;
        if (!parse_area(from, &area))
            continue;
        if (continues(&last, &area)) {
            last.end = area.end;
            continue;
        }
        to = print_area(to, &last);
        last = area;
    }
    to = print_area(to, &last);
    memcpy(text, reduced, (size_t)(to - reduced) + 1);
    return (size_t)(to - reduced);
}

// The fields of stat that speak of the address space (26-28, 45-51 in proc(5)), and comm.
static size_t reduce_stat(char *text)
{
    char *field = strrchr(text, ')') + 2, *to = line;

    to += sprintf(to, "%.*s", (int)(field - text), text);
    for (unsigned n = 3; field; n++) {
        char *end = strchr(field, ' ');

        if ((n >= 26 && n <= 28) || (n >= 45 && n <= 51))
            to += sprintf(to, "%u:%.*s ", n, end ? (int)(end - field) : 20, field);
        field = end ? end + 1 : NULL;
    }
    strcpy(text, line);
    return strlen(text);
}

static size_t take(const char *name, char *ret)
{
    size_t bytes = read_file(name, ret);

    if (strcmp(name, "maps") == 0)
        return reduce_maps(ret);
    if (strcmp(name, "stat") == 0)
        return reduce_stat(ret);
    return bytes;
}

// Names the first line that differs.
static void compare(const char *name, const char *old, size_t old_bytes, const char *new,
                    size_t new_bytes)
{
    size_t at = 0;

    if (old_bytes == new_bytes && memcmp(old, new, old_bytes) == 0)
        return;
    for (size_t i = 0; i < old_bytes && i < new_bytes && old[i] == new[i]; i++)
        at = old[i] == '\n' ? i + 1 : at;
    subject_fail("/proc/self/%s: \"%.*s\" is now \"%.*s\"", name, (int)strcspn(old + at, "\n"),
                 old + at, (int)strcspn(new + at, "\n"), new + at);
}

static uint64_t hash(const char *text, uint64_t seed)
{
    while (*text)
        seed = subject_mix(seed ^ (uint8_t)*text++);
    return seed;
}

static uint64_t hash_arguments(char **argv)
{
    uint64_t sum = 0;

    for (; *argv; argv++)
        sum = hash(*argv, sum + 1);
    for (char **env = environ; *env; env++)
        sum = hash(*env, sum + 2);
    return sum;
}

static char *shown; // in /proc/self/cmdline

// Overwrites the environment in its place, and has the arguments elsewhere.
static void retitle(void)
{
    static const char title[] = "a title of its own\0of two words";
    const unsigned long auxv[] = {AT_PAGESZ, 4096, AT_UID, 12345, AT_NULL, 0};
    char *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    MUST(at != MAP_FAILED);
    shown = at + 100;
    memcpy(shown, title, sizeof title);
    MUST(prctl(PR_SET_MM, PR_SET_MM_ARG_START, shown, 0, 0) == 0 &&
         prctl(PR_SET_MM, PR_SET_MM_ARG_END, shown + sizeof title, 0, 0) == 0);
    memset(environ[0], 'e', strlen(environ[0]));
    MUST(prctl(PR_SET_MM, PR_SET_MM_AUXV, auxv, sizeof auxv, 0) == 0);
}

// Comes back from it as a program of memory alone.
static void exec_memfd(char **argv)
{
    const int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    const int fd = memfd_create("program", MFD_CLOEXEC);
    struct stat st;

    if (getenv("IN_MEMORY")) {
        close(file);
        close(fd);
        return;
    }
    MUST(file >= 0 && fd >= 0 && fstat(file, &st) == 0);
    for (off_t left = st.st_size; left > 0;) {
        const ssize_t n = sendfile(fd, file, NULL, (size_t)left);

        MUST(n > 0);
        left -= n;
    }
    MUST(setenv("IN_MEMORY", "1", 1) == 0);
    fexecve(fd, argv, environ);
    subject_fail("fexecve: %m");
}

int main(int argc, char **argv)
{
    char exe[256] = "", exe_now[256] = "";
    const int persona = personality(0xffffffff);
    uint64_t arguments, random;
    void *top, *heap;

    subject_begin(argc, argv);
    shown = argv[0];
    if (subject.argument && strcmp(subject.argument, "memfd") == 0)
        exec_memfd(argv);
    if (subject.argument && strcmp(subject.argument, "title") == 0)
        retitle();
    MUST(setenv("SUBJECT", "set by itself", 1) == 0);
    heap = malloc(100000); // below the threshold of mmap
    memset(heap, 0x77, 100000);
    top = sbrk(0);
    arguments = hash_arguments(argv);
    random = *(uint64_t *)getauxval(AT_RANDOM);
    MUST(readlink("/proc/self/exe", exe, sizeof exe - 1) > 0);
    for (size_t i = 0; i < N_FILES; i++)
        before_bytes[i] = take(files[i], before[i]);
    subject_ready();
    do {
        CHECK(sbrk(0) == top, "brk is %p, not %p", sbrk(0), top);
        CHECK(hash_arguments(argv) == arguments, "arguments or environment changed");
        CHECK(*(uint64_t *)getauxval(AT_RANDOM) == random, "AT_RANDOM changed");
        CHECK(personality(0xffffffff) == persona, "personality is %x", personality(0xffffffff));
        subject_sleep_ms(1);
    } while (!subject_asked());
    if (subject.sabotage)
        *shown ^= 1;
    // Not while it may be moved: an open file of /proc is refused.
    for (size_t i = 0; i < N_FILES; i++)
        compare(files[i], before[i], before_bytes[i], now, take(files[i], now));
    MUST(readlink("/proc/self/exe", exe_now, sizeof exe_now - 1) > 0);
    CHECK(strcmp(exe, exe_now) == 0, "exe is %s, not %s", exe_now, exe);
    CHECK(sbrk(1 << 20) == top && sbrk(-(1 << 20)) == (char *)top + (1 << 20),
          "the heap cannot grow");
    for (size_t i = 0; i < 100000; i++)
        CHECK(((uint8_t *)heap)[i] == 0x77, "byte %zu of the heap", i);
    subject_pass();
}
