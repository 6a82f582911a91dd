// SPDX-License-Identifier: GPL-2.0-or-later
// The address space as the process sees it: brk, stack, arguments, environment, auxv, /proc/self.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/personality.h>
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

// Leaves of each line of maps what must stay: no device and inode number, nothing of the kernel's
// own.
static size_t reduce_maps(char *text)
{
    char *to = text;

    for (char *from = text, *end; (end = strchr(from, '\n')); from = end + 1) {
        unsigned long start, stop, offset;
        char perms[8], path[256] = "";

        *end = 0;
        CHECK(sscanf(from, "%lx-%lx %7s %lx %*s %*s %255s", &start, &stop, perms, &offset, path) >=
                  4,
              "maps: %s", from);
        if (strncmp(path, "[v", 2) == 0) // vdso, vvar, vvar_vclock, vsyscall
            continue;
        snprintf(line, sizeof line, "%lx-%lx %s %lx %s\n", start, stop, perms, offset, path);
        to = stpcpy(to, line);
    }
    return (size_t)(to - text);
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

int main(int argc, char **argv)
{
    char exe[256] = "", exe_now[256] = "";
    const int persona = personality(0xffffffff);
    uint64_t arguments, random;
    void *top, *heap;

    subject_begin(argc, argv);
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
        for (size_t i = 0; i < N_FILES; i++)
            compare(files[i], before[i], before_bytes[i], now, take(files[i], now));
        MUST(readlink("/proc/self/exe", exe_now, sizeof exe_now - 1) > 0);
        CHECK(strcmp(exe, exe_now) == 0, "exe is %s, not %s", exe_now, exe);
        CHECK(sbrk(0) == top, "brk is %p, not %p", sbrk(0), top);
        CHECK(hash_arguments(argv) == arguments, "arguments or environment changed");
        CHECK(*(uint64_t *)getauxval(AT_RANDOM) == random, "AT_RANDOM changed");
        CHECK(personality(0xffffffff) == persona, "personality is %x", personality(0xffffffff));
        if (subject.sabotage)
            argv[0][0] ^= 1;
        subject_sleep_ms(1);
    } while (!subject_asked());
    CHECK(sbrk(1 << 20) == top && sbrk(-(1 << 20)) == (char *)top + (1 << 20),
          "the heap cannot grow");
    for (size_t i = 0; i < 100000; i++)
        CHECK(((uint8_t *)heap)[i] == 0x77, "byte %zu of the heap", i);
    subject_pass();
}
