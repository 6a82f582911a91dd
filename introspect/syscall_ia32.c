// SPDX-License-Identifier: GPL-2.0-or-later
// Calls of i386 that hold other calls: socketcall, ipc, and select with its arguments in memory.
#include "introspect/reader.h"
#include "introspect/syscall.h"

#define NR_SELECT     82
#define NR_NEWSELECT  142
#define NR_SOCKETCALL 102
#define NR_IPC        117

// net/socket.c, ipc/syscall.c: which call the first argument names.
static const struct {
    uint8_t wrapper, call;
    uint16_t nr;
    uint8_t n_args; // of socketcall, in memory
} wrapped[] = {
    {NR_SOCKETCALL, 3, 362, 3},  // connect
    {NR_SOCKETCALL, 5, 364, 3},  // accept, as accept4
    {NR_SOCKETCALL, 9, 369, 4},  // send, as sendto
    {NR_SOCKETCALL, 10, 371, 4}, // recv, as recvfrom
    {NR_SOCKETCALL, 11, 369, 6}, // sendto
    {NR_SOCKETCALL, 12, 371, 6}, // recvfrom
    {NR_SOCKETCALL, 16, 370, 3}, // sendmsg
    {NR_SOCKETCALL, 17, 372, 3}, // recvmsg
    {NR_SOCKETCALL, 18, 364, 4}, // accept4
    {NR_SOCKETCALL, 19, 337, 5}, // recvmmsg
    {NR_SOCKETCALL, 20, 345, 4}, // sendmmsg
    {NR_IPC, 1, 420, 0},         // semop, as semtimedop_time64
    {NR_IPC, 4, 420, 0},         // semtimedop
    {NR_IPC, 11, 400, 0},        // msgsnd
    {NR_IPC, 12, 401, 0},        // msgrcv
};

static bool read_words(struct intro_ctx *c, struct gva mm, uint64_t at, uint64_t *ret, size_t n)
{
    struct gva pgd;
    uint32_t words[6];

    if (!intro_get_ptr(c->k, mm, M_mm_pgd, &pgd, NULL) ||
        !intro_read_user(c->k, pgd, GVA(at), words, n * sizeof(words[0]), NULL))
        return false;
    for (size_t i = 0; i < n; i++)
        ret[i] = GUINT32_FROM_LE(words[i]);
    return true;
}

// ipc(call, first, second, third, ptr, fifth)
static void unfold_ipc(struct intro_ctx *c, struct gva mm, uint64_t call, uint64_t args[6])
{
    const uint64_t first = args[1], second = args[2], third = args[3], ptr = args[4];
    uint64_t kludge[2] = {ptr, args[5]};

    // msgrcv of version 0 has two of its arguments in memory.
    if (call == 12 && args[0] >> 16 == 0)
        read_words(c, mm, ptr, kludge, 2);
    args[0] = first;
    args[1] = kludge[0];
    args[2] = second;
    args[3] = call == 4 ? args[5] : call == 12 ? kludge[1] : call == 11 ? third : 0;
    args[4] = third;
}

uint64_t intro_ia32_unfold(struct intro_ctx *c, struct gva mm, uint64_t nr, uint64_t args[6])
{
    const uint64_t call = nr == NR_IPC ? args[0] & 0xffff : args[0];

    if (nr == NR_SELECT)
        return read_words(c, mm, args[0], args, 5) ? NR_NEWSELECT : nr;
    for (size_t i = 0; i < G_N_ELEMENTS(wrapped); i++) {
        if (wrapped[i].wrapper != nr || wrapped[i].call != call)
            continue;
        if (nr == NR_IPC)
            unfold_ipc(c, mm, call, args);
        else if (!read_words(c, mm, args[1], args, wrapped[i].n_args))
            return nr; // it will fail
        else           // recv is a recvfrom that asks for no address
            memset(args + wrapped[i].n_args, 0, (6 - wrapped[i].n_args) * sizeof(*args));
        return wrapped[i].nr;
    }
    return nr;
}
