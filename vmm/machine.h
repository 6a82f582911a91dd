// SPDX-License-Identifier: GPL-2.0-or-later
// A VM as its hypervisor shows it: pause, memory, vCPUs, guest agent channels. Knows no Linux.
#pragma once

#include <gio/gio.h>
#include <glib.h>

#include "vmm/memory.h"
#include "vmm/vcpu.h"

/*
 * Target names:
 *   NAME                  a domain of libvirt, by name, UUID or id
 *   qmp:/path/to/socket   a QEMU process by its QMP socket (server=on)
 *
 * Lifecycle and the promise to the guest: vmm_machine_pause() stops all vCPUs unless they were
 * stopped already; vmm_machine_resume() lets them run again only if it was we who stopped them.
 * Closing (last unref) resumes; so does a small watchdog child if this process dies in between,
 * SIGKILL included. A guest that was paused when we came is never resumed.
 *
 * One owner thread; only the VmmMemory may be used from others.
 */
typedef struct VmmMachine VmmMachine;

#define VMM_ERROR (vmm_error_quark())
GQuark vmm_error_quark(void);

enum vmm_error {
    VMM_ERROR_TARGET,      // the target name is malformed
    VMM_ERROR_CONNECT,     // no such socket or domain, nobody listens, permission
    VMM_ERROR_PROTOCOL,    // what answered is not QMP, or an answer makes no sense
    VMM_ERROR_STATE,       // the machine is in a state that forbids this (migrating, shut down ...)
    VMM_ERROR_UNSUPPORTED, // this QEMU cannot do it; the message says what is missing
    VMM_ERROR_TIMEOUT,     // no answer in time
    VMM_ERROR_ABSENT,      // of a guest agent: there is no such port, or nobody has it open
};

// Connects, checks that this is an x86-64 machine, finds its RAM. Does not pause it. Never prints.
// uri: libvirt's, for a domain; NULL: as virsh has it by itself.
VmmMachine *vmm_machine_open(const char *target, const char *uri, GError **error);
VmmMachine *vmm_machine_ref(VmmMachine *vm);
void vmm_machine_unref(VmmMachine *vm); // NULL-safe; resumes what we paused
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmmMachine, vmm_machine_unref)

const char *vmm_machine_name(const VmmMachine *vm); // borrowed: -name of the guest, or the target
VmmMemory *vmm_machine_memory(VmmMachine *vm);      // borrowed until the last unref

// Refuses (VMM_ERROR_STATE) what cannot be read truthfully: a guest that has shut down, sleeps, is
// being restored, or is being migrated (where a later resume could let it run in two places). A
// guest that stopped on an error or a panic, or was never started, counts as paused by someone
// else.
bool vmm_machine_pause(VmmMachine *vm, GError **error);
// Fails with VMM_ERROR_STATE where somebody else had let the guest run since the pause: then it
// runs (this error alone leaves nothing held), but what has been read is not of one moment. On any
// other error it is still held, and the watchdog will resume it when the last reference goes.
bool vmm_machine_resume(VmmMachine *vm, GError **error);
// As far as we know: held by vmm_machine_pause(), or found stopped when we last looked (at open and
// at each pause).
bool vmm_machine_is_paused(const VmmMachine *vm);
bool vmm_machine_was_paused_before(const VmmMachine *vm); // somebody else had stopped it
// A phrase where the guest stands still, when we last looked, for a reason that no --let-run ends
// (a panic, a disk that failed ...); else NULL. A constant.
const char *vmm_machine_why_stopped(const VmmMachine *vm);

// --leave-paused: from now on closing leaves the guest stopped and the watchdog stands down.
void vmm_machine_leave_paused(VmmMachine *vm);

// A machine that somebody else has paused: from now on that pause is ours to end and to make again.
// However it goes, closing leaves the machine paused.
void vmm_machine_adopt_pause(VmmMachine *vm);

// Nanoseconds (CLOCK_MONOTONIC) between the last successful pause and the resume that followed it,
// or until now where it still is paused: both measured outside of the QMP commands, so never too
// small.
uint64_t vmm_machine_pause_ns(const VmmMachine *vm);

// The state of every vCPU, paused machines only (else VMM_ERROR_STATE). An array of
// struct vmm_vcpu, owned by the caller; free with g_array_unref.
GArray *vmm_machine_read_vcpus(VmmMachine *vm, GError **error);

// Clocks of the paused machine.
bool vmm_machine_read_clock(VmmMachine *vm, struct vmm_clock *ret, GError **error);

// A run of bytes for guest RAM.
struct vmm_store {
    struct gpa to;
    const void *from;
    size_t size_bytes;
};

// Writes to the RAM of a guest that is the *target* of a move, at the request of its own agent,
// which has set these frames aside. Paused machines only (else VMM_ERROR_STATE). Nothing else in
// vmgraft writes to a guest.
bool vmm_machine_store(VmmMachine *vm, const struct vmm_store *stores, size_t n_stores,
                       GError **error);

// The guest's disks, served read-only over NBD by its own QEMU, whether it runs or is paused: the
// exports "0", "1", ... on a unix socket that only this user reaches. In a paused guest's nothing
// changes. STATE where somebody else has QEMU's NBD server. Ends with the machine, or by the
// second; if this process dies the watchdog ends it.
bool vmm_machine_serve_disks(VmmMachine *vm, const char **ret_socket, unsigned *ret_n_disks,
                             GError **error);
void vmm_machine_end_disks(VmmMachine *vm);

// Lets that many milliseconds pass: whoever has long work done by another thread calls this
// meanwhile, or libvirtd takes us for dead.
void vmm_machine_idle(VmmMachine *vm, unsigned ms);

// Connects to the guest agent's channel (a virtio-serial port such as org.vmgraft.agent.0 whose
// chardev is a unix socket). The error says whether the port is missing from the machine, nobody in
// the guest has opened it (where QEMU tells), or the socket cannot be connected.
GSocketConnection *vmm_machine_open_channel(VmmMachine *vm, const char *port_name, GError **error);
