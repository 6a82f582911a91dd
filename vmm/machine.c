// SPDX-License-Identifier: GPL-2.0-or-later
// A QEMU process by its QMP socket: open, pause, read, resume.
#include "vmm/machine.h"

#include <string.h>
#include <time.h>

#include "vmm/channel.h"
#include "vmm/devstate.h"
#include "vmm/disks.h"
#include "vmm/qmp.h"
#include "vmm/ram.h"
#include "vmm/runstate.h"
#include "vmm/snapshot.h"
#include "vmm/store.h"
#include "vmm/target.h"
#include "vmm/watchdog.h"

G_DEFINE_QUARK(vmm - error - quark, vmm_error)

enum hold {
    HOLD_NONE,   // the guest does as it likes
    HOLD_OURS,   // we have stopped it
    HOLD_THEIRS, // it was stopped when we came
};

struct VmmMachine {
    gatomicrefcount refs;
    char *name;
    VmmQmp *qmp;
    VmmWatchdog *watchdog;
    VmmDevstate *devstate; // NULL: this QEMU cannot
    VmmMemory *memory;
    VmmDisks *disks; // while they are served; else NULL
    bool tcg;

    enum hold hold;
    bool was_paused;     // when we last looked before a pause, or at open
    const char *stopped; // why, where not because somebody has paused it; a constant
    bool leave_paused;
    bool adopted;           // it was paused when we came, and is to be so when we go
    bool let_run;           // adopted, and it runs because of us
    unsigned n_resumes;     // of the QMP connection, when it was paused
    int64_t paused_ns;      // CLOCK_MONOTONIC just before the last pause
    int64_t resumed_ns;     // just after the resume that followed
    int64_t paused_wall_ns; // CLOCK_REALTIME of the pause
    bool has_snapshot;      // of this pause
    struct vmm_vmstate snapshot;
};

static int64_t clock_ns(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static bool check_arch(VmmMachine *vm, GError **error)
{
    g_autoptr(VmmJson) answer = vmm_qmp_call(vm->qmp, "query-target", NULL, -1, error);
    const char *arch;

    if (!answer)
        return false;
    arch = vmm_json_string(answer, "arch");
    if (g_strcmp0(arch, "x86_64") == 0)
        return true;
    g_set_error(error, VMM_ERROR, VMM_ERROR_UNSUPPORTED,
                "the guest's machine is %s, only x86_64 is supported", arch ? arch : "unknown");
    return false;
}

static bool read_facts(VmmMachine *vm, const char *target, GError **error)
{
    g_autoptr(VmmJson) kvm = vmm_qmp_call(vm->qmp, "query-kvm", NULL, -1, error);
    g_autoptr(VmmJson) name = kvm ? vmm_qmp_call(vm->qmp, "query-name", NULL, -1, error) : NULL;
    const char *given;
    bool enabled = false;

    if (!name)
        return false;
    given = vmm_json_string(name, "name");
    vm->name = g_strdup(given && *given ? given : target);
    vm->tcg = vmm_json_bool(kvm, "enabled", &enabled) && !enabled;
    return true;
}

VmmMachine *vmm_machine_open(const char *name, const char *uri, GError **error)
{
    g_autoptr(VmmMachine) vm = g_new0(VmmMachine, 1);
    g_auto(vmm_target) target = {0};
    const char *reason;
    enum vmm_run run;

    g_atomic_ref_count_init(&vm->refs);
    // The watchdog first: it is a copy of this process, which is smallest now.
    if (!vmm_target_parse(name, uri, &target, error) ||
        !(vm->watchdog = vmm_watchdog_start(&target, error)) ||
        !(vm->qmp = vmm_qmp_open(&target, error)) || !check_arch(vm, error) ||
        !vmm_runstate_query(vm->qmp, &run, &reason, error) || !read_facts(vm, name, error) ||
        !(vm->memory = vmm_ram_open(vm->qmp, VMM_RAM_DEFAULT, error)))
        return NULL;
    vm->devstate = vmm_devstate_open(vm->qmp, NULL);
    vm->was_paused = run == VMM_RUN_PAUSED || run == VMM_RUN_STOPPED;
    vm->stopped = run == VMM_RUN_STOPPED ? reason : NULL;
    return g_steal_pointer(&vm);
}

VmmMachine *vmm_machine_ref(VmmMachine *vm)
{
    g_atomic_ref_count_inc(&vm->refs);
    return vm;
}

void vmm_machine_unref(VmmMachine *vm)
{
    if (!vm || !g_atomic_ref_count_dec(&vm->refs))
        return;
    if (vm->qmp && vm->let_run && vmm_qmp_stop(vm->qmp, NULL))
        vmm_watchdog_disarm(vm->watchdog);
    else if (vm->qmp && !vm->leave_paused)
        vmm_machine_resume(vm, NULL); // where that fails the watchdog is still armed
    vmm_machine_end_disks(vm);
    if (vm->qmp)
        vmm_devstate_close(vm->devstate, vm->qmp);
    vmm_qmp_close(vm->qmp);
    vmm_watchdog_stop(vm->watchdog);
    if (vm->has_snapshot)
        vmm_vmstate_clear(&vm->snapshot);
    vmm_memory_unref(vm->memory);
    g_free(vm->name);
    g_free(vm);
}

const char *vmm_machine_name(const VmmMachine *vm)
{
    return vm->name;
}

VmmMemory *vmm_machine_memory(VmmMachine *vm)
{
    return vm->memory;
}

bool vmm_machine_is_paused(const VmmMachine *vm)
{
    return vm->hold != HOLD_NONE || vm->was_paused;
}

bool vmm_machine_was_paused_before(const VmmMachine *vm)
{
    return vm->was_paused;
}

const char *vmm_machine_why_stopped(const VmmMachine *vm)
{
    return vm->stopped;
}

static void forget_snapshot(VmmMachine *vm)
{
    if (vm->has_snapshot)
        vmm_vmstate_clear(&vm->snapshot);
    vm->has_snapshot = false;
}

static void begin_hold(VmmMachine *vm, enum hold hold, int64_t since_ns)
{
    forget_snapshot(vm);
    vm->hold = hold;
    vm->paused_ns = since_ns;
    vm->resumed_ns = 0;
    vm->paused_wall_ns = clock_ns(CLOCK_REALTIME);
    vm->n_resumes = vmm_qmp_n_resumes(vm->qmp, 0);
}

static bool query_run(VmmMachine *vm, enum vmm_run *ret, GError **error)
{
    const char *reason;

    if (!vmm_runstate_query(vm->qmp, ret, &reason, error))
        return false;
    vm->stopped = *ret == VMM_RUN_STOPPED ? reason : NULL;
    if (*ret != VMM_RUN_REFUSED)
        return true;
    g_set_error(error, VMM_ERROR, VMM_ERROR_STATE, "%s cannot be paused: %s", vm->name, reason);
    return false;
}

// An adopted guest that we had let run stands still again.
static void end_let_run(VmmMachine *vm)
{
    if (vm->let_run)
        vmm_watchdog_disarm(vm->watchdog);
    vm->let_run = false;
}

/*
 * From here the guest may stand still at any moment, so the watchdog is armed first. Where anything
 * fails after that it is not known whether `stop` took effect: start the guest again, and leave the
 * watchdog armed where not even that can be said. An adopted guest has its watchdog armed already,
 * to the contrary effect.
 */
static bool stop(VmmMachine *vm, GError **error)
{
    int64_t since_ns;
    enum vmm_run run;

    if (!vm->let_run && !vmm_watchdog_arm(vm->watchdog, VMM_RESCUE_RESUME, error))
        return false;
    since_ns = clock_ns(CLOCK_MONOTONIC);
    if (!vmm_qmp_stop(vm->qmp, error) || !query_run(vm, &run, error)) {
        if (vm->let_run)
            return false;
        if (vmm_runstate_query(vm->qmp, &run, &(const char *){NULL}, NULL) &&
            (run != VMM_RUN_PAUSED || vmm_qmp_cont(vm->qmp, NULL)))
            vmm_watchdog_disarm(vm->watchdog);
        return false;
    }
    if (run == VMM_RUN_RUNNING) {
        vmm_watchdog_disarm(vm->watchdog);
        vm->let_run = vm->adopted = false;
        g_set_error(error, VMM_ERROR, VMM_ERROR_STATE,
                    "%s: somebody else lets the guest run as we stop it", vm->name);
        return false;
    }
    end_let_run(vm);
    begin_hold(vm, HOLD_OURS, since_ns);
    return true;
}

bool vmm_machine_pause(VmmMachine *vm, GError **error)
{
    enum vmm_run run;

    if (vm->hold == HOLD_OURS)
        return true;
    if (!query_run(vm, &run, error))
        return false;
    vm->was_paused = run != VMM_RUN_RUNNING && !vm->adopted;
    if (run == VMM_RUN_RUNNING)
        return vmm_runstate_check_migration(vm->qmp, error) && stop(vm, error);
    end_let_run(vm);
    begin_hold(vm, vm->adopted ? HOLD_OURS : HOLD_THEIRS, clock_ns(CLOCK_MONOTONIC));
    return true;
}

bool vmm_machine_resume(VmmMachine *vm, GError **error)
{
    bool ours;
    enum vmm_run run;
    const char *reason;

    if (vm->hold == HOLD_NONE)
        return true;
    if (!vmm_runstate_query(vm->qmp, &run, &reason, error))
        return false;
    // Only the state we made is ours to end.
    ours = vm->hold == HOLD_OURS && run == VMM_RUN_PAUSED;
    if (ours && vm->adopted && !vmm_watchdog_arm(vm->watchdog, VMM_RESCUE_PAUSE, error))
        return false;
    vm->let_run = ours && vm->adopted;
    if (ours && !vmm_qmp_cont(vm->qmp, error))
        return false;
    vm->resumed_ns = clock_ns(CLOCK_MONOTONIC);
    if (!vm->let_run)
        vmm_watchdog_disarm(vm->watchdog);
    forget_snapshot(vm);
    vm->hold = HOLD_NONE;
    // What was read is of one moment only if nobody has let the guest run in between.
    if (vmm_qmp_n_resumes(vm->qmp, vm->n_resumes + ours) == vm->n_resumes + ours)
        return true;
    // Whoever wants it to run has his way.
    if (vm->let_run)
        vmm_watchdog_disarm(vm->watchdog);
    vm->let_run = vm->adopted = false;
    g_set_error(error, VMM_ERROR, VMM_ERROR_STATE,
                "%s: somebody else let the guest run while we held it paused", vm->name);
    return false;
}

void vmm_machine_leave_paused(VmmMachine *vm)
{
    vm->leave_paused = true;
    vmm_watchdog_disarm(vm->watchdog);
}

void vmm_machine_adopt_pause(VmmMachine *vm)
{
    vm->adopted = vm->leave_paused = true;
    if (vm->hold == HOLD_THEIRS)
        vm->hold = HOLD_OURS;
    vm->was_paused = false;
}

uint64_t vmm_machine_pause_ns(const VmmMachine *vm)
{
    if (vm->paused_ns == 0)
        return 0;
    return (uint64_t)((vm->resumed_ns ? vm->resumed_ns : clock_ns(CLOCK_MONOTONIC)) -
                      vm->paused_ns);
}

static const struct vmm_vmstate *take_snapshot(VmmMachine *vm, GError **error)
{
    if (vm->hold == HOLD_NONE) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_STATE, "%s is not paused", vm->name);
        return NULL;
    }
    if (!vm->has_snapshot)
        vm->has_snapshot = vmm_snapshot_read(vm->qmp, vm->devstate, &vm->snapshot, error);
    return vm->has_snapshot ? &vm->snapshot : NULL;
}

GArray *vmm_machine_read_vcpus(VmmMachine *vm, GError **error)
{
    const struct vmm_vmstate *snapshot = take_snapshot(vm, error);
    GArray *vcpus;

    if (!snapshot)
        return NULL;
    vcpus = g_array_sized_new(FALSE, FALSE, sizeof(struct vmm_vcpu), snapshot->vcpus->len);
    g_array_append_vals(vcpus, snapshot->vcpus->data, snapshot->vcpus->len);
    // Only KVM keeps the TSC with the vCPU; TCG's is a clock of the machine.
    for (guint i = 0; vm->tcg && i < vcpus->len; i++)
        g_array_index(vcpus, struct vmm_vcpu, i).tsc = (uint64_t)snapshot->ticks;
    return vcpus;
}

bool vmm_machine_read_clock(VmmMachine *vm, struct vmm_clock *ret, GError **error)
{
    const struct vmm_vmstate *snapshot = take_snapshot(vm, error);

    if (!snapshot)
        return false;
    if (!snapshot->has_timer) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_UNSUPPORTED,
                    "%s: this QEMU's device state cannot be read, and so not its clocks", vm->name);
        return false;
    }
    *ret = (struct vmm_clock){
        .virtual_ns = snapshot->virtual_ns,
        .tcg = vm->tcg,
        .tcg_ticks = vm->tcg ? snapshot->ticks : 0,
        .has_hpet = snapshot->has_hpet,
        .hpet_counter = snapshot->hpet_counter,
        .has_kvmclock = snapshot->has_kvmclock,
        .kvmclock_ns = snapshot->kvmclock_ns,
        .host_realtime_ns = vm->paused_wall_ns,
    };
    return true;
}

bool vmm_machine_store(VmmMachine *vm, const struct vmm_store *stores, size_t n_stores,
                       GError **error)
{
    if (vm->hold == HOLD_NONE) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_STATE, "%s is not paused", vm->name);
        return false;
    }
    return vmm_store(vm->memory, stores, n_stores, error);
}

bool vmm_machine_serve_disks(VmmMachine *vm, const char **ret_socket, unsigned *ret_n_disks,
                             GError **error)
{
    if (!vm->disks) {
        vm->disks = vmm_disks_serve(vm->qmp, error);
        if (!vm->disks)
            return false;
        // Only now: what else listens there is not ours to end.
        if (!vmm_watchdog_serving(vm->watchdog, true, error)) {
            vmm_disks_close(g_steal_pointer(&vm->disks), vm->qmp);
            return false;
        }
    }
    *ret_socket = vmm_disks_socket(vm->disks);
    *ret_n_disks = vmm_disks_count(vm->disks);
    return true;
}

void vmm_machine_end_disks(VmmMachine *vm)
{
    if (!vm->disks)
        return;
    // Where it cannot be ended the watchdog tries again when we have gone.
    if (vmm_disks_close(g_steal_pointer(&vm->disks), vm->qmp))
        vmm_watchdog_serving(vm->watchdog, false, NULL);
}

void vmm_machine_idle(VmmMachine *vm, unsigned ms)
{
    vmm_qmp_idle(vm->qmp, ms);
}

GSocketConnection *vmm_machine_open_channel(VmmMachine *vm, const char *port_name, GError **error)
{
    return vmm_channel_open(vm->qmp, port_name, error);
}
