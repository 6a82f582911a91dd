// SPDX-License-Identifier: GPL-2.0-or-later
// Reads private guest RAM out of the QEMU process.
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/uio.h>

#include "vmm/memory_source.h"

// One system call moves at most this many pieces.
#define MAX_PIECES IOV_MAX

static void set_failure(pid_t pid, int code, GError **error)
{
    const char *hint = "";

    if (code == EPERM)
        hint = " (it takes the same user without capabilities, or CAP_SYS_PTRACE)";
    else if (code == ESRCH)
        hint = " (QEMU has gone)";
    g_set_error(error, VMM_MEMORY_ERROR, VMM_MEMORY_ERROR_IO,
                "reading the memory of process %d: %s%s", (int)pid, g_strerror(code), hint);
}

// Steps over n bytes that have been copied; returns the first piece that is not complete.
static size_t advance(struct iovec *to, struct iovec *from, size_t first, size_t n_bytes)
{
    while (n_bytes > 0 && n_bytes >= to[first].iov_len) {
        n_bytes -= to[first].iov_len;
        first++;
    }
    if (n_bytes > 0) {
        to[first].iov_base = (uint8_t *)to[first].iov_base + n_bytes;
        to[first].iov_len -= n_bytes;
        from[first].iov_base = (uint8_t *)from[first].iov_base + n_bytes;
        from[first].iov_len -= n_bytes;
    }
    return first;
}

static bool read_batch(pid_t pid, struct iovec *to, struct iovec *from, size_t n, GError **error)
{
    size_t first = 0;

    while (first < n) {
        ssize_t done = process_vm_readv(pid, to + first, n - first, from + first, n - first, 0);

        if (done <= 0) {
            set_failure(pid, done < 0 ? errno : EFAULT, error);
            return false;
        }
        first = advance(to, from, first, (size_t)done);
    }
    return true;
}

bool vmm_remote_read(pid_t pid, const struct vmm_remote_piece *pieces, size_t n_pieces,
                     GError **error)
{
    struct iovec to[MAX_PIECES], from[MAX_PIECES];

    for (size_t i = 0; i < n_pieces;) {
        size_t n = 0;

        for (; n < MAX_PIECES && i < n_pieces; i++) {
            if (pieces[i].size_bytes == 0)
                continue;
            to[n].iov_base = pieces[i].to;
            from[n].iov_base = (void *)(uintptr_t)pieces[i].from.addr;
            to[n].iov_len = from[n].iov_len = pieces[i].size_bytes;
            n++;
        }
        if (!read_batch(pid, to, from, n, error))
            return false;
    }
    return true;
}
