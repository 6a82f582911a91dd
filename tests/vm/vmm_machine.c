// SPDX-License-Identifier: GPL-2.0-or-later
// vmm/ against a real QEMU whose guest runs vmm_spin: vmm_machine qmp:/path/to/socket
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/machine.h"
#include "vmm/qmp.h"
#include "vmm/ram.h"
#include "vmm/runstate.h"
#include "vmm/xsave.h"
#include "vmm_expect.h"
#include "vmm_pattern.h"

static const char *target;

static VmmMachine *open_machine(void)
{
    g_autoptr(GError) error = NULL;
    VmmMachine *vm = vmm_machine_open(target, NULL, &error);

    g_assert_no_error(error);
    return vm;
}

static VmmQmp *open_qmp(void)
{
    g_autoptr(GError) error = NULL;
    VmmQmp *qmp = vmm_qmp_connect(target + strlen("qmp:"), &error);

    g_assert_no_error(error);
    return qmp;
}

static void run_command(const char *command)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmmQmp) qmp = open_qmp();

    vmm_qmp_do(qmp, command, &error);
    g_assert_no_error(error);
}

static bool guest_runs(void)
{
    g_autoptr(VmmQmp) qmp = open_qmp();
    const char *reason;
    enum vmm_run run;

    g_assert_true(vmm_runstate_query(qmp, &run, &reason, NULL));
    g_assert_true(run == VMM_RUN_RUNNING || run == VMM_RUN_PAUSED);
    return run == VMM_RUN_RUNNING;
}

static void pause_machine(VmmMachine *vm)
{
    g_autoptr(GError) error = NULL;

    vmm_machine_pause(vm, &error);
    g_assert_no_error(error);
    g_assert_true(vmm_machine_is_paused(vm));
}

static void test_pause(void)
{
    g_autoptr(GError) error = NULL;
    VmmMachine *vm = open_machine();

    g_assert_false(vmm_machine_is_paused(vm));
    g_assert_null(vmm_machine_read_vcpus(vm, &error));
    g_assert_error(error, VMM_ERROR, VMM_ERROR_STATE);
    g_clear_error(&error);
    for (int i = 0; i < 20; i++) {
        pause_machine(vm);
        g_assert_false(vmm_machine_was_paused_before(vm));
        g_assert_true(vmm_machine_resume(vm, &error));
        g_assert_cmpuint(vmm_machine_pause_ns(vm), >, 0);
        g_assert_false(vmm_machine_is_paused(vm));
    }
    pause_machine(vm);
    vmm_machine_unref(vm);
    g_assert_true(guest_runs());
}

static void test_was_paused(void)
{
    VmmMachine *vm;

    run_command("stop");
    vm = open_machine();
    g_assert_true(vmm_machine_is_paused(vm));
    pause_machine(vm);
    g_assert_true(vmm_machine_was_paused_before(vm));
    g_assert_true(vmm_machine_resume(vm, NULL));
    vmm_machine_unref(vm);
    g_assert_false(guest_runs());
    run_command("cont");
}

static void test_leave_paused(void)
{
    VmmMachine *vm = open_machine();

    pause_machine(vm);
    vmm_machine_leave_paused(vm);
    vmm_machine_unref(vm);
    g_assert_false(guest_runs());
    run_command("cont");
}

static void test_one_client(void)
{
    g_autoptr(GError) error = NULL;
    VmmQmp *holder = open_qmp();

    g_assert_null(vmm_machine_open(target, NULL, &error));
    vmm_qmp_close(holder);
    g_assert_error(error, VMM_ERROR, VMM_ERROR_TIMEOUT);
    g_assert_nonnull(strstr(error->message, "another client holds"));
}

// Runs `body` in a child until it says that it is ready, kills that with SIGKILL, and waits until
// its watchdog is through as well.
static void kill_while(void (*body)(void))
{
    int ready[2];
    char byte;
    pid_t child;

    g_assert_cmpint(prctl(PR_SET_CHILD_SUBREAPER, 1), ==, 0);
    g_assert_cmpint(pipe(ready), ==, 0);
    child = fork();
    if (child == 0) {
        body();
        if (write(ready[1], "r", 1) == 1)
            pause();
        _exit(1);
    }
    close(ready[1]);
    g_assert_cmpint(read(ready[0], &byte, 1), ==, 1);
    close(ready[0]);
    kill(child, SIGKILL);
    while (wait(NULL) > 0)
        ;
}

static void hold(void)
{
    pause_machine(open_machine());
}

static void hold_and_read(void)
{
    VmmMachine *vm = open_machine();
    g_autoptr(GArray) vcpus = NULL;

    pause_machine(vm);
    vcpus = vmm_machine_read_vcpus(vm, NULL);
}

static void hold_for_good(void)
{
    VmmMachine *vm = open_machine();

    pause_machine(vm);
    vmm_machine_leave_paused(vm);
}

static void test_killed(void)
{
    for (int i = 0; i < 20; i++) {
        kill_while(i % 2 ? hold : hold_and_read);
        g_assert_true(guest_runs());
    }
}

static void test_killed_others_pause(void)
{
    run_command("stop");
    kill_while(hold);
    g_assert_false(guest_runs());
    run_command("cont");
    kill_while(hold_for_good);
    g_assert_false(guest_runs());
    run_command("cont");
}

// The subject is in user mode most of the time; a pause may also hit the timer interrupt.
static void test_registers(void)
{
    g_autoptr(VmmMachine) vm = open_machine();
    int n_seen = 0, n_pauses = 0;

    for (; n_seen < 50 && n_pauses < 500; n_pauses++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(GArray) vcpus = NULL;

        pause_machine(vm);
        vcpus = vmm_machine_read_vcpus(vm, &error);
        g_assert_no_error(error);
        g_assert_true(vmm_machine_resume(vm, NULL));
        for (guint i = 0; i < vcpus->len; i++) {
            const struct vmm_vcpu *cpu = &g_array_index(vcpus, struct vmm_vcpu, i);

            g_assert_cmpuint(cpu->index, ==, i);
            if (!cpu->user_mode || cpu->gpr[VMM_R15] != PATTERN_GPR(VMM_R15))
                continue;
            vmm_expect_general(cpu);
            vmm_expect_x87(cpu);
            vmm_expect_vectors(cpu);
            g_assert_true(cpu->has_kernel_gs_base);
            g_assert_cmphex(cpu->kernel_gs_base >> 56, ==, 0xff); // a kernel address
            g_assert_true(cpu->has_pkru == !!(cpu->xcr0 & XCR0_PKRU));
            if (cpu->has_pkru)
                vmm_expect_pkru(cpu);
            g_assert_cmpuint(cpu->tsc, >, 0);
            n_seen++;
        }
    }
    g_test_message("seen %d times in %d pauses", n_seen, n_pauses);
    g_assert_cmpint(n_seen, ==, 50);
}

static void test_clock(void)
{
    g_autoptr(VmmMachine) vm = open_machine();
    struct vmm_clock first, second;

    pause_machine(vm);
    g_assert_true(vmm_machine_read_clock(vm, &first, NULL));
    g_assert_true(vmm_machine_resume(vm, NULL));
    g_usleep(20000); // guest time to be measured
    pause_machine(vm);
    g_assert_true(vmm_machine_read_clock(vm, &second, NULL));
    g_assert_cmpuint(second.virtual_ns - first.virtual_ns, >=, 20000000);
    g_assert_cmpint(second.host_realtime_ns - first.host_realtime_ns, >=, 20000000);
    g_assert_cmpuint(second.virtual_ns - first.virtual_ns, <,
                     (uint64_t)(second.host_realtime_ns - first.host_realtime_ns) + 20000000);
    if (first.tcg)
        g_assert_cmpint(second.tcg_ticks, >, first.tcg_ticks);
    if (first.has_hpet && first.hpet_counter > 0) // 10 ns a tick; it stands still when not enabled
        g_assert_cmpint(ABS((int64_t)((second.hpet_counter - first.hpet_counter) * 10 -
                                      (second.virtual_ns - first.virtual_ns))),
                        <, 100000);
}

// QEMU's own copy of a range, made by a command that knows nothing of how we read.
static char *save_range(VmmQmp *qmp, const struct vmm_ram_range *range, const char *path)
{
    g_autoptr(GError) error = NULL;
    VmmJson *args = json_object_new_object();
    g_autoptr(VmmJson) answer = NULL;
    char *bytes;
    gsize len;

    json_object_object_add(args, "val", json_object_new_int64((int64_t)range->start.addr));
    json_object_object_add(args, "size", json_object_new_int64((int64_t)range->size_bytes));
    json_object_object_add(args, "filename", json_object_new_string(path));
    answer = vmm_qmp_call(qmp, "pmemsave", args, -1, &error);
    g_assert_no_error(error);
    g_assert_true(g_file_get_contents(path, &bytes, &len, NULL));
    g_assert_cmpuint(len, ==, range->size_bytes);
    unlink(path);
    return bytes;
}

static void compare_range(VmmMemory *mem, const struct vmm_ram_range *range, const char *expected)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *got = g_malloc(range->size_bytes);
    g_autoptr(GArray) copies = g_array_new(FALSE, FALSE, sizeof(struct vmm_copy));

    vmm_memory_read(mem, range->start, got, range->size_bytes, &error);
    g_assert_no_error(error);
    g_assert_cmpint(memcmp(got, expected, range->size_bytes), ==, 0);

    memset(got, 0, range->size_bytes);
    for (uint64_t at = 0; at < range->size_bytes; at += 3 * VMM_PAGE_BYTES) {
        // The last two of three pages, and what is left in between.
        struct vmm_copy page = {.from = GPA(range->start.addr + at),
                                .to = got + at,
                                .size_bytes = MIN(VMM_PAGE_BYTES, range->size_bytes - at)};
        struct vmm_copy rest = {.from = GPA(page.from.addr + VMM_PAGE_BYTES),
                                .to = got + at + VMM_PAGE_BYTES};

        if (range->size_bytes - at > VMM_PAGE_BYTES) {
            rest.size_bytes = MIN(2 * VMM_PAGE_BYTES, range->size_bytes - at - VMM_PAGE_BYTES);
            g_array_append_val(copies, rest);
        }
        g_array_append_val(copies, page);
    }
    vmm_memory_read_bulk(mem, (const struct vmm_copy *)copies->data, copies->len, 0, &error);
    g_assert_no_error(error);
    g_assert_cmpint(memcmp(got, expected, range->size_bytes), ==, 0);
}

static void check_hole(VmmMemory *mem, const struct vmm_ram_range *last)
{
    g_autoptr(GError) error = NULL;
    struct gpa end = GPA(last->start.addr + last->size_bytes);
    char bytes[16];
    struct vmm_copy copy = {.from = GPA(end.addr - 8), .to = bytes, .size_bytes = sizeof(bytes)};

    g_assert_null(vmm_memory_peek(mem, end, 1));
    g_assert_false(vmm_memory_read(mem, GPA(end.addr - 8), bytes, sizeof(bytes), &error));
    g_assert_error(error, VMM_MEMORY_ERROR, VMM_MEMORY_ERROR_FAULT);
    g_clear_error(&error);
    g_assert_false(vmm_memory_read_bulk(mem, &copy, 1, 0, &error));
    g_assert_error(error, VMM_MEMORY_ERROR, VMM_MEMORY_ERROR_FAULT);
}

static void test_memory(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *folder = g_dir_make_tmp("vmm-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(folder, "ram", NULL);
    g_autoptr(VmmQmp) qmp = open_qmp();
    g_autoptr(VmmMemory) mem = NULL;
    g_autoptr(VmmMemory) remote = NULL;
    const struct vmm_ram_range *ranges;
    size_t n;

    g_assert_true(vmm_qmp_do(qmp, "stop", NULL));
    mem = vmm_ram_open(qmp, VMM_RAM_DEFAULT, &error);
    g_assert_no_error(error);
    remote = vmm_ram_open(qmp, VMM_RAM_NO_MAPPING, &error);
    g_assert_no_error(error);
    ranges = vmm_memory_ranges(mem, &n);
    g_test_message("%zu ranges, %" G_GUINT64_FORMAT " MiB, %s", n,
                   vmm_memory_total_bytes(mem) >> 20,
                   vmm_memory_peek(mem, ranges[0].start, 1) ? "mapped" : "remote");
    g_assert_null(vmm_memory_peek(remote, ranges[0].start, 1));
    vmm_memory_prefault(mem);
    for (size_t i = 0; i < n; i++) {
        g_autofree char *expected = save_range(qmp, &ranges[i], path);

        compare_range(mem, &ranges[i], expected);
        compare_range(remote, &ranges[i], expected);
    }
    check_hole(mem, &ranges[n - 1]);
    check_hole(remote, &ranges[n - 1]);
    g_assert_true(vmm_qmp_do(qmp, "cont", NULL));
    rmdir(folder);
}

static void test_channel(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmmMachine) vm = open_machine();

    g_assert_null(vmm_machine_open_channel(vm, "org.vmgraft.none", &error));
    g_assert_error(error, VMM_ERROR, VMM_ERROR_ABSENT);
    g_clear_error(&error);
    // The lab's broker is connected to its own port.
    g_assert_null(vmm_machine_open_channel(vm, "org.vmgraft.lab.0", &error));
    g_assert_error(error, VMM_ERROR, VMM_ERROR_CONNECT);
    g_assert_nonnull(strstr(error->message, "another client"));
}

// Only of a QEMU that waits for a migration (vmm_bare.sh).
static void test_refused(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmmMachine) vm = open_machine();

    g_assert_false(vmm_machine_pause(vm, &error));
    g_assert_error(error, VMM_ERROR, VMM_ERROR_STATE);
    g_assert_nonnull(strstr(error->message, "still being migrated in"));
    g_assert_false(vmm_machine_is_paused(vm));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (argc != 2) {
        fprintf(stderr, "usage: vmm_machine qmp:/path/to/socket\n");
        return 2;
    }
    target = argv[1];
    if (g_str_has_suffix(target, "/incoming")) {
        g_test_add_func("/vmm/refused", test_refused);
        return g_test_run();
    }
    g_test_add_func("/vmm/machine/pause", test_pause);
    g_test_add_func("/vmm/machine/was-paused", test_was_paused);
    g_test_add_func("/vmm/machine/leave-paused", test_leave_paused);
    g_test_add_func("/vmm/machine/one-client", test_one_client);
    g_test_add_func("/vmm/machine/registers", test_registers);
    g_test_add_func("/vmm/machine/clock", test_clock);
    g_test_add_func("/vmm/machine/memory", test_memory);
    g_test_add_func("/vmm/machine/channel", test_channel);
    g_test_add_func("/vmm/machine/killed", test_killed);
    g_test_add_func("/vmm/machine/killed-in-others-pause", test_killed_others_pause);
    return g_test_run();
}
