// SPDX-License-Identifier: GPL-2.0-or-later
// Fills memory with numbers of which no page is like another, and waits: fill MIB READY-FILE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    const size_t bytes = argc == 3 ? strtoul(argv[1], NULL, 10) << 20 : 0;
    uint64_t *words;

    if (bytes == 0) {
        fprintf(stderr, "usage: %s MIB READY-FILE\n", argv[0]);
        return 2;
    }
    words = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (words == MAP_FAILED)
        return 1;
    for (size_t i = 0; i < bytes / sizeof *words; i++)
        words[i] = (i + 1) * 0x9e3779b97f4a7c15;
    close(open(argv[2], O_CREAT | O_WRONLY, 0644));
    for (;;)
        pause();
}
