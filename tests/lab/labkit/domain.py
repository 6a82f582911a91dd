# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that are domains of libvirt instead of QEMU processes of our own: `lab up --libvirt`."""

import os
import subprocess
from xml.sax.saxutils import escape, quoteattr

from . import daemon
from .common import LabError, image_format


def _virsh(uri, *words):
    done = subprocess.run(["virsh", "--quiet", "--connect", uri, *words], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"virsh {words[0]}: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def _xml(guest, kernel, options, accelerator, model, port_path):
    memory = ("<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
              if options.share_ram == "on" else "")
    name, _, features = model.partition(",")
    policies = "".join(f"<feature policy='{'disable' if word[0] == '-' else 'require'}' "
                       f"name={quoteattr(word.lstrip('+-'))}/>" for word in features.split(",") if word)
    cpu = ("<cpu mode='maximum'>" if name == "max"
           else f"<cpu mode='custom' match='exact'><model>{escape(name)}</model>")
    disks = "".join(f"""<disk type='file' device='disk'>
      <driver name='qemu' type='{image_format(disk)}'/>
      <source file={quoteattr(os.path.abspath(disk))}/>
      <target dev='vd{"abcdefgh"[n]}' bus='virtio'/>
    </disk>""" for n, disk in enumerate(options.disk))
    append = " ".join(["console=ttyS0", "loglevel=5", "panic=-1", *options.append])
    return f"""<domain type='{"kvm" if accelerator == "kvm" else "qemu"}'>
  <name>{guest.name}</name>
  <memory unit='MiB'>{options.memory}</memory>
  {memory}
  <vcpu>{options.cpus}</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{escape(str(kernel.image))}</kernel>
    <initrd>{escape(str(guest.dir / "initramfs"))}</initrd>
    <cmdline>{escape(append)}</cmdline>
  </os>
  <features><acpi/></features>
  {cpu}{policies}</cpu>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <on_crash>preserve</on_crash>
  <devices>
    {disks}
    <serial type='file'><source path={quoteattr(str(guest.console))}/></serial>
    <channel type='unix'><target type='virtio' name='org.vmgraft.agent.0'/></channel>
    <channel type='unix'>
      <source mode='connect' path={quoteattr(str(port_path))}/>
      <target type='virtio' name='org.vmgraft.lab.0'/>
    </channel>
    <memballoon model='none'/>
    <panic model='isa'/>
  </devices>
</domain>
"""


def start(guest, kernel, options, accelerator, model, port_path):
    """Define and start the domain; QEMU's pid."""
    xml = guest.dir / "domain.xml"
    xml.write_text(_xml(guest, kernel, options, accelerator, model, port_path))
    # libvirt's QEMU may be another user.
    os.chmod(port_path, 0o777)
    _virsh(options.libvirt, "define", str(xml))
    guest.domain.write_text(options.libvirt)
    _virsh(options.libvirt, "start", guest.name)
    pid = _pid(guest.name)
    daemon.note_process(guest.qemu_record, pid)
    return pid


def _pid(name):
    for folder in ("/run/libvirt/qemu",
                   os.path.join(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent"),
                                "libvirt/qemu/run")):
        try:
            with open(f"{folder}/{name}.pid", encoding="ascii") as file:
                return int(file.read())
        except OSError:
            pass
    raise LabError(f"libvirt keeps no pid file of domain {name}: is it on this machine?")


def end(guest):
    """End and undefine the domain, if the guest is one."""
    try:
        uri = guest.domain.read_text()
    except FileNotFoundError:
        return
    for word in ("destroy", "undefine"):
        try:
            _virsh(uri, word, guest.name)
        except LabError:
            pass  # off, or gone already
