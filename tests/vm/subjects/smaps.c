// SPDX-License-Identifier: GPL-2.0-or-later
// What /proc/self/smaps says of each mapping and must say after a move as well.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "smaps.h"
#include "subject.h"

#define TEXT_BYTES   (1 << 20)
#define MAX_MAPPINGS 512

struct mapping {
    unsigned long start, end, offset;
    char perms[8], path[128], flags[128], page_size[24], key[24];
};

static char text[TEXT_BYTES];
static struct mapping before[MAX_MAPPINGS], now[MAX_MAPPINGS];
static size_t n_before;

static void read_text(void)
{
    size_t used = 0;
    ssize_t bytes;
    const int fd = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC);

    MUST(fd >= 0);
    while ((bytes = read(fd, text + used, TEXT_BYTES - 1 - used)) > 0)
        used += (size_t)bytes;
    MUST(bytes == 0 && used < TEXT_BYTES - 1);
    text[used] = 0;
    close(fd);
}

// Soft-dirty says what was written since somebody looked. Whether a shared mapping that can never
// be written to counts as one is the kernel's business (sh; ms and the permissions say that it is).
// Before 5.15 what execve() maps has a flag that nothing else can give (dw).
static void keep_flags(char ret[128], const char *flags)
{
    char word[8];
    int used;

    for (ret[0] = 0; sscanf(flags, " %7s%n", word, &used) == 1; flags += used)
        if (strcmp(word, "sd") != 0 && strcmp(word, "sh") != 0 && strcmp(word, "dw") != 0 &&
            strlen(ret) < 120)
            strcat(strcat(ret, word), " ");
}

static void parse_detail(struct mapping *m, const char *line)
{
    if (strncmp(line, "VmFlags:", 8) == 0)
        keep_flags(m->flags, line + 8);
    else if (strncmp(line, "KernelPageSize:", 15) == 0)
        sscanf(line + 15, " %23[^\n]", m->page_size);
    else if (strncmp(line, "ProtectionKey:", 14) == 0)
        sscanf(line + 14, " %23[^\n]", m->key);
}

// A kernel may show as one or as two what differs in nothing.
static bool continues(const struct mapping *a, const struct mapping *b)
{
    return a->end == b->start && !strcmp(a->perms, b->perms) && !strcmp(a->path, b->path) &&
           !strcmp(a->flags, b->flags) && !strcmp(a->page_size, b->page_size) &&
           !strcmp(a->key, b->key) &&
           (a->path[0] != '/' || a->offset + (a->end - a->start) == b->offset);
}

// vdso, vvar, vsyscall: the kernel's own. The vdso of another kernel, and its data, have no name.
static bool is_kernels(const struct mapping *m)
{
    const unsigned long vdso = getauxval(AT_SYSINFO_EHDR);

    return strncmp(m->path, "[v", 2) == 0 || m->start == vdso || m->end == vdso;
}

static size_t add(struct mapping *all, size_t n, const struct mapping *m)
{
    if (m->end == 0 || is_kernels(m))
        return n;
    if (n > 0 && continues(&all[n - 1], m)) {
        all[n - 1].end = m->end;
        return n;
    }
    MUST(n < MAX_MAPPINGS);
    all[n] = *m;
    return n + 1;
}

static size_t parse(struct mapping *ret)
{
    struct mapping m = {0}, next;
    size_t n = 0;

    read_text();
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        *end = 0;
        memset(&next, 0, sizeof next);
        if (sscanf(line, "%lx-%lx %7s %lx %*s %*s %127[^\n]", &next.start, &next.end, next.perms,
                   &next.offset, next.path) < 4) {
            parse_detail(&m, line);
            continue;
        }
        n = add(ret, n, &m);
        m = next;
    }
    return add(ret, n, &m);
}

void smaps_remember(void)
{
    n_before = parse(before);
}

// What one kernel has no name for ("??") another may have.
static bool same_flags(const char *a, const char *b)
{
    for (; *a && *b; a++, b++)
        if (*a != *b && *a != '?' && *b != '?')
            return false;
    return *a == *b;
}

static void same(const struct mapping *a, const struct mapping *b)
{
    CHECK(a->start == b->start && a->end == b->end && a->offset == b->offset,
          "mapping %lx-%lx of %s at offset %lx is now %lx-%lx of %s at offset %lx", a->start,
          a->end, a->path, a->offset, b->start, b->end, b->path, b->offset);
    CHECK(!strcmp(a->perms, b->perms), "mapping %lx of %s was %s, is %s", a->start, a->path,
          a->perms, b->perms);
    CHECK(!strcmp(a->path, b->path), "mapping %lx of %s is of %s", a->start, a->path, b->path);
    CHECK(same_flags(a->flags, b->flags), "mapping %lx of %s (%s) had VmFlags %s, has %s", a->start,
          a->path, a->perms, a->flags, b->flags);
    CHECK(!strcmp(a->page_size, b->page_size), "mapping %lx of %s had pages of %s, has %s",
          a->start, a->path, a->page_size, b->page_size);
    CHECK(!strcmp(a->key, b->key), "mapping %lx of %s had the key %s, has %s", a->start, a->path,
          a->key, b->key);
}

void smaps_check(void)
{
    const size_t n_now = parse(now);

    for (size_t i = 0; i < n_before && i < n_now; i++)
        same(&before[i], &now[i]);
    CHECK(n_before == n_now, "%zu mappings, now %zu", n_before, n_now);
}
