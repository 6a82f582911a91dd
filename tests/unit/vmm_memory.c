// SPDX-License-Identifier: GPL-2.0-or-later
// Guest memory over buffers and out of another process.
#include "vmm/memory.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/memory_source.h"

#define LOW_BYTES  (256u << 10)
#define HIGH_BYTES (9u << 20)

// Two ranges that touch at LOW_BYTES, and one behind a hole.
static const struct vmm_ram_range ranges[] = {
    {GPA(0), LOW_BYTES},
    {GPA(LOW_BYTES), HIGH_BYTES},
    {GPA(0x100000000), 4096},
};

struct fixture {
    uint8_t *bytes; // of all ranges, one behind the other
    bool destroyed;
    pid_t child; // has the same bytes at the same addresses
};

static size_t bytes_size(void)
{
    return LOW_BYTES + HIGH_BYTES + 4096;
}

static void mark_destroyed(void *user)
{
    ((struct fixture *)user)->destroyed = true;
}

static void set_up(struct fixture *fix, gconstpointer data)
{
    fix->bytes =
        mmap(NULL, bytes_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(fix->bytes != MAP_FAILED);
    for (size_t i = 0; i < bytes_size(); i++)
        fix->bytes[i] = (uint8_t)(i * 2654435761u >> 13);
    fix->child = fork();
    if (fix->child == 0) {
        pause();
        _exit(0);
    }
}

static void tear_down(struct fixture *fix, gconstpointer data)
{
    kill(fix->child, SIGKILL);
    waitpid(fix->child, NULL, 0);
    munmap(fix->bytes, bytes_size());
}

static VmmMemory *over_buffers(struct fixture *fix)
{
    const void *data[] = {fix->bytes, fix->bytes + LOW_BYTES, fix->bytes + LOW_BYTES + HIGH_BYTES};

    return vmm_memory_new_from_buffers(ranges, data, G_N_ELEMENTS(ranges), mark_destroyed, fix);
}

static VmmMemory *over_child(struct fixture *fix)
{
    struct vmm_backing backing = {0};
    struct vmm_source sources[3] = {
        {.remote = HVA((uintptr_t)fix->bytes)},
        {.remote = HVA((uintptr_t)fix->bytes + LOW_BYTES)},
        {.remote = HVA((uintptr_t)fix->bytes + LOW_BYTES + HIGH_BYTES)},
    };

    return vmm_memory_new(ranges, sources, G_N_ELEMENTS(ranges), fix->child, &backing);
}

static void check_reads(struct fixture *fix, VmmMemory *mem)
{
    g_autofree uint8_t *got = g_malloc(bytes_size());
    g_autoptr(GError) error = NULL;
    g_autoptr(GArray) copies = g_array_new(FALSE, FALSE, sizeof(struct vmm_copy));

    // Across a border between ranges.
    g_assert_true(vmm_memory_read(mem, GPA(LOW_BYTES - 7), got, 64, NULL));
    g_assert_cmpmem(got, 64, fix->bytes + LOW_BYTES - 7, 64);
    g_assert_false(vmm_memory_read(mem, GPA(LOW_BYTES + HIGH_BYTES - 4), got, 5, &error));
    g_assert_error(error, VMM_MEMORY_ERROR, VMM_MEMORY_ERROR_FAULT);
    g_assert_nonnull(strstr(error->message, "0x940000"));
    g_clear_error(&error);
    g_assert_false(vmm_memory_read(mem, GPA(UINT64_MAX), got, 1, NULL));
    g_assert_true(vmm_memory_read(mem, GPA(UINT64_MAX), got, 0, NULL));

    // In bulk, backwards, in odd sizes, over the border, on as many threads as there are pieces.
    for (uint64_t end = LOW_BYTES + HIGH_BYTES; end > 0;) {
        uint64_t n = MIN(end, 5003);
        struct vmm_copy copy = {.from = GPA(end - n), .to = got + end - n, .size_bytes = n};

        g_array_append_val(copies, copy);
        end -= n;
    }
    for (unsigned n_threads = 0; n_threads < 4; n_threads++) {
        memset(got, 0, bytes_size());
        vmm_memory_read_bulk(mem, (const struct vmm_copy *)copies->data, copies->len, n_threads,
                             &error);
        g_assert_no_error(error);
        g_assert_cmpint(memcmp(got, fix->bytes, LOW_BYTES + HIGH_BYTES), ==, 0);
    }
    g_assert_true(vmm_memory_read_bulk(mem, NULL, 0, 0, NULL));
}

static void test_buffer(struct fixture *fix, gconstpointer data)
{
    VmmMemory *mem = over_buffers(fix);
    size_t n;

    check_reads(fix, mem);
    g_assert_true(vmm_memory_ranges(mem, &n)[2].start.addr == 0x100000000);
    g_assert_cmpuint(n, ==, 3);
    g_assert_cmpuint(vmm_memory_total_bytes(mem), ==, bytes_size());
    g_assert_true(vmm_memory_peek(mem, GPA(LOW_BYTES), 8) == fix->bytes + LOW_BYTES);
    g_assert_null(vmm_memory_peek(mem, GPA(LOW_BYTES - 4), 8));
    g_assert_null(vmm_memory_peek(mem, GPA(0x80000000), 1));
    vmm_memory_prefault(mem);
    vmm_memory_ref(mem);
    vmm_memory_unref(mem);
    g_assert_false(fix->destroyed);
    vmm_memory_unref(mem);
    g_assert_true(fix->destroyed);
}

static void test_remote(struct fixture *fix, gconstpointer data)
{
    g_autoptr(VmmMemory) mem = over_child(fix);
    g_autoptr(GError) error = NULL;
    struct vmm_copy copy;
    uint8_t byte;

    check_reads(fix, mem);
    g_assert_null(vmm_memory_peek(mem, GPA(0), 1));
    kill(fix->child, SIGKILL);
    waitpid(fix->child, NULL, 0);
    g_assert_false(vmm_memory_read(mem, GPA(0), &byte, 1, &error));
    g_assert_error(error, VMM_MEMORY_ERROR, VMM_MEMORY_ERROR_IO);
    g_clear_error(&error);
    copy = (struct vmm_copy){.from = GPA(0), .to = &byte, .size_bytes = 1};
    g_assert_false(vmm_memory_read_bulk(mem, &copy, 1, 0, &error));
    g_assert_error(error, VMM_MEMORY_ERROR, VMM_MEMORY_ERROR_IO);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add("/vmm/memory/buffer", struct fixture, NULL, set_up, test_buffer, tear_down);
    g_test_add("/vmm/memory/remote", struct fixture, NULL, set_up, test_remote, tear_down);
    return g_test_run();
}
