# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests: their directories, their processes, how they come up and go down."""

import ipaddress
import json
import os
import select
import shutil
import socket
import sys
import time

from . import client, daemon, domain, initramfs, kernels, labd, net, proto
from .common import LAB, TREE, LabError, UsageError, check_name, home, image_format, locked

MODULES = ["virtio_pci", "virtio_console"]
MODULES_IF_THERE = ["virtio_net", "virtio_blk"]
SOCKET_PATH_MAX = 107


class Guest:
    """A guest by name, whether it runs or not."""

    def __init__(self, name):
        self.name = check_name(name, "guest")
        self.dir = home() / "guests" / name
        self.lock = home() / "guests" / f".{name}.lock"
        self.qmp = self.dir / "qmp.sock"
        self.agent = self.dir / "agent.sock"
        self.broker = self.dir / "broker.sock"
        self.console = self.dir / "console.log"
        self.qemu_record = self.dir / "qemu.pid"
        self.broker_record = self.dir / "broker.pid"
        self.facts = self.dir / "guest.json"
        self.domain = self.dir / "libvirt"  # the URI, where libvirt runs it

    def connect(self):
        """A connection for one command, or an error that says what is there instead."""
        self.require()
        return client.Connection(self.broker, self.name)

    def require(self):
        if daemon.pid(self.qemu_record):
            return
        if self.dir.exists():
            raise LabError(f"guest {self.name} has died: see 'lab console {self.name}', "
                           f"clear it with 'lab down {self.name}'")
        names = ", ".join(guest.name for guest in every())
        raise LabError(f"no guest named {self.name} (there is {names or 'none'})")

    def state(self):
        return "running" if daemon.pid(self.qemu_record) else "dead"

    def describe(self):
        return {"name": self.name, "state": self.state(), **self.read_facts(),
                "pid": daemon.pid(self.qemu_record), "target": self.target(),
                "agent_socket": str(self.agent)}

    def target(self):
        return self.name if self.domain.exists() else f"qmp:{self.qmp}"

    def read_facts(self):
        try:
            return json.loads(self.facts.read_text())
        except FileNotFoundError:
            return {}  # it is just coming or going

    def write_facts(self, facts):
        new = self.facts.with_suffix(".new")
        new.write_text(json.dumps(facts))
        new.rename(self.facts)

    def console_tail(self, lines=15):
        try:
            text = self.console.read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.replace("\r", "").rstrip().splitlines()[-lines:])


def every():
    folder = home() / "guests"
    return [Guest(path.name) for path in sorted(folder.glob("[!.]*"))] if folder.is_dir() else []


def find_agent(asked):
    """The agent's path: as asked, from the environment, from the tree's build, or None."""
    if asked == "none":
        return None
    path = asked or os.environ.get("VMGRAFT_AGENT")
    if path:
        if not os.path.isfile(path):
            raise LabError(f"no agent {path}")
        return path
    built = TREE / "build/guestagent/vmgraft-agent"
    return str(built) if built.exists() else None


def accelerator():
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        flags = {word for line in file if line.startswith("flags") for word in line.split()}
    if flags & {"vmx", "svm"} and os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "kvm"
    return "tcg,thread=multi"


def cpu_model():
    """The CPU model: all there is, less what TCG gets wrong.

    QEMU 7.2's cmpxchg16b may leave an operand in EFLAGS: NT, VM, AC and reserved bits as they come.
    The slab allocator of later kernels runs it all the time and dies of it when an interrupt comes
    right behind; processes keep such flags, too. Without CX16 the kernel takes another path.
    """
    return "max" if accelerator() == "kvm" else "max,-cx16"


def _quoted(path):
    return str(path).replace(",", ",,")


def _qemu_argv(guest, kernel, options, port_path, hub):
    ram = "memory-backend-memfd,share=on" if options.share_ram == "on" else "memory-backend-ram"
    # The kernel takes an emulated timer for broken where the host is busy.
    append = ["console=ttyS0", "loglevel=5", "panic=-1", "no_timer_check", *options.append]
    argv = [
        "qemu-system-x86_64", "-name", guest.name, "-nodefaults", "-no-user-config",
        "-display", "none", "-no-reboot",
        "-machine", "q35,memory-backend=ram", "-accel", accelerator(),
        "-cpu", options.cpu or cpu_model(),
        "-smp", str(options.cpus), "-m", f"{options.memory}M",
        "-object", f"{ram},id=ram,size={options.memory}M",
        "-kernel", str(kernel.image), "-initrd", str(guest.dir / "initramfs"),
        "-append", " ".join(append),
        "-chardev", f"file,id=console,path={_quoted(guest.console)}", "-serial", "chardev:console",
        "-qmp", f"unix:{_quoted(guest.qmp)},server=on,wait=off",
        "-device", "virtio-serial-pci",
        "-chardev", f"socket,id=vmgraft-agent,path={_quoted(guest.agent)},server=on,wait=off",
        "-device", "virtserialport,chardev=vmgraft-agent,name=org.vmgraft.agent.0",
        "-chardev", f"socket,id=vmgraft-lab,path={_quoted(port_path)}",
        "-device", "virtserialport,chardev=vmgraft-lab,name=org.vmgraft.lab.0",
    ]
    for n, disk in enumerate(options.disk):
        argv += ["-blockdev", json.dumps({
            "driver": image_format(disk), "node-name": f"disk{n}",
            "file": {"driver": "file", "filename": str(disk)}}),
                 "-device", f"virtio-blk-pci,drive=disk{n}"]
    if hub:
        # The address makes it distinct on its segment, and the same each time.
        mac = "52:54:00:" + ipaddress.IPv4Interface(options.address).packed[1:].hex(":")
        argv += ["-netdev", f"stream,id=net,server=off,addr.type=unix,addr.path={_quoted(hub)}",
                 "-device", f"virtio-net-pci,netdev=net,mac={mac}"]
    return argv


def _listen(path):
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise LabError(f"the socket path {path} is too long: "
                       "set VMGRAFT_LAB to a shorter directory")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)
    return listener


def _wait_ready(guest, qemu_pid, timeout):
    """Until labd answers through the broker; QEMU's death or the deadline is an error."""
    qemu_fd = os.pidfd_open(qemu_pid)
    deadline = time.monotonic() + timeout
    try:
        with client.Connection(guest.broker, guest.name) as connection:
            while True:
                left = max(deadline - time.monotonic(), 0)
                ready = select.select([qemu_fd, connection.socket], [], [], left)[0]
                if connection.socket in ready:
                    if connection.next()[0] == proto.READY:
                        return
                elif ready:
                    log = guest.dir / "qemu.log"
                    errors = log.read_text(errors="replace").strip() if log.exists() else ""
                    raise LabError(f"guest {guest.name} died while booting: {errors}")
                else:
                    raise LabError(f"guest {guest.name} did not answer within {timeout} s")
    finally:
        os.close(qemu_fd)


def _boot(guest, kernel, options):
    segment = net.Segment(options.net) if options.net else None
    needed = MODULES + (["virtio_net"] if options.net else []) + options.module
    modules = kernel.load_order(needed, MODULES_IF_THERE)
    tree = initramfs.base(guest.name, labd.binary(), find_agent(options.agent), modules,
                          options.address)
    for folder in options.overlay:
        tree.add_tree(folder)
    for program in options.program:
        tree.add_program(*program.split("=", 1))
    tree.write(guest.dir / "initramfs")
    guest.write_facts({
        "kernel": kernel.release, "memory_mib": options.memory, "cpus": options.cpus,
        "share_ram": options.share_ram == "on", "net": options.net, "address": options.address})
    port_path = guest.dir / "port.sock"
    with _listen(guest.broker) as listener, _listen(port_path) as port:
        descriptors = (listener.fileno(), port.fileno())
        daemon.start([sys.executable, LAB / "lab", "run-broker", *map(str, descriptors)],
                     guest.broker_record, guest.dir / "broker.log", descriptors)
    if options.libvirt:
        pid = domain.start(guest, kernel, options, accelerator(), options.cpu or cpu_model(),
                           port_path)
    else:
        hub = segment.join() if segment else None
        pid = daemon.start(_qemu_argv(guest, kernel, options, port_path, hub), guest.qemu_record,
                           guest.dir / "qemu.log").pid
    _wait_ready(guest, pid, options.timeout)
    (guest.dir / "initramfs").unlink()  # QEMU has read it


def up(name, options):
    guest = Guest(name)
    if bool(options.net) != bool(options.address):
        raise UsageError("--net and --address belong together")
    if options.address:
        try:
            options.address = ipaddress.IPv4Interface(options.address).with_prefixlen
        except ValueError as error:
            raise UsageError(f"--address: {error}") from error
    if options.libvirt and options.net:
        raise UsageError("--net is for guests without --libvirt")
    if options.net:
        check_name(options.net, "network segment")
    kernel = kernels.choose(options.kernel)
    with locked(guest.lock):
        if guest.dir.exists():
            raise LabError(f"guest {name} is there already ({guest.state()})")
        try:
            guest.dir.mkdir(parents=True)
            _boot(guest, kernel, options)
        except BaseException as error:
            tail = guest.console_tail()
            _remove(guest)
            if isinstance(error, LabError) and tail:
                raise LabError(f"{error}\nlast lines of its console:\n{tail}") from error
            raise


def _remove(guest):
    """End the guest's processes and delete its directory; the caller holds the lock."""
    segment = guest.read_facts().get("net")
    domain.end(guest)
    daemon.end(guest.qemu_record)
    daemon.end(guest.broker_record)
    if guest.dir.exists():
        shutil.rmtree(guest.dir)
    if segment:
        net.Segment(segment).leave(
            lambda: any(other.read_facts().get("net") == segment for other in every()))


def down(name):
    guest = Guest(name)
    with locked(guest.lock):
        if not guest.dir.exists():
            guest.require()
        _remove(guest)
