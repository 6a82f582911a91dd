// SPDX-License-Identifier: GPL-2.0-or-later
// Is hardly ever in user mode: quick system calls without end, each result checked.
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "subject.h"

int main(int argc, char **argv)
{
    static uint8_t buffer[3 * 4096], zero[sizeof buffer];
    const pid_t pid = getpid();
    uint64_t calls = 0;
    int zeros, null;

    subject_begin(argc, argv);
    MUST((zeros = open("/dev/zero", O_RDONLY)) >= 0);
    MUST((null = open("/dev/null", O_WRONLY)) >= 0);
    subject_ready();
    do {
        for (unsigned i = 0; i < 20000; i++, calls++) {
            const size_t bytes = 1 + subject_mix(calls) % sizeof buffer;

            CHECK(syscall(SYS_getpid) == pid, "another pid");
            memset(buffer, 0xaa, bytes);
            CHECK(read(zeros, buffer, bytes) == (ssize_t)bytes, "/dev/zero gives less than %zu: %m",
                  bytes);
            CHECK(memcmp(buffer, zero, bytes) == 0, "/dev/zero gives something else");
            CHECK(write(null, buffer, bytes) == (ssize_t)bytes, "/dev/null takes less: %m");
            CHECK(lseek(zeros, 0, SEEK_CUR) == 0, "/dev/zero has a position");
            if (subject.sabotage)
                close(null);
        }
    } while (!subject_asked());
    subject_pass();
}
