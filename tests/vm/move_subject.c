// SPDX-License-Identifier: GPL-2.0-or-later
// Fills MIB of memory with a pattern and checks it for ever, in two processes: move_subject MIB
//
// Whoever finds a wrong word, or an error, leaves /tmp/FAIL. The child waits for the parent's
// tokens and writes each to /tmp/rounds: a file that changes is a sign of life of both.
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void fail(const char *what)
{
    int fd = open("/tmp/FAIL", O_CREAT | O_WRONLY | O_APPEND, 0600);

    if (fd < 0 || write(fd, what, strlen(what)) < 0)
        abort();
    _exit(1);
}

static uint64_t word(size_t i, uint64_t salt)
{
    return (i + salt) * 0x9e3779b97f4a7c15u;
}

// The child: notes each token.
static void note_tokens(int pipe_fd)
{
    uint64_t token, last = 0;

    for (;;) {
        char text[32];
        int fd, len;

        if (read(pipe_fd, &token, sizeof(token)) != sizeof(token) || token != last + 1)
            fail("token\n");
        last = token;
        len = snprintf(text, sizeof(text), "%lu\n", (unsigned long)token);
        fd = open("/tmp/rounds", O_CREAT | O_WRONLY, 0600);
        if (fd < 0 || write(fd, text, (size_t)len) != len)
            fail("rounds\n");
        close(fd);
    }
}

int main(int argc, char **argv)
{
    size_t n = argc == 2 ? (size_t)atoi(argv[1]) << 17 : 0;
    uint64_t *words = malloc(n * sizeof(*words));
    int ends[2];

    if (n == 0 || !words || pipe(ends) != 0)
        return 2;
    if (fork() == 0)
        note_tokens(ends[0]);
    for (size_t i = 0; i < n; i++)
        words[i] = word(i, 0);
    for (uint64_t round = 1;; round++) {
        for (size_t i = 0; i < n; i++) {
            if (words[i] != word(i, round - 1))
                fail("memory\n");
            words[i] = word(i, round);
        }
        if (write(ends[1], &round, sizeof(round)) != sizeof(round))
            fail("write\n");
    }
}
