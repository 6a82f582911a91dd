#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A Debian of its own gets the agent into its disk: agent.sh LAB VMGRAFT AGENT MOVE_SUBJECT [LAYOUT]
#
# To be run by with_libvirtd. The disk has its root on LVM, or as LAYOUT says (see debian_disk); the
# domain boots from it, and systemd starts the agent.
set -uo pipefail
. "$(dirname "$0")/move_subject.sh"
lab=$1 vmgraft=$2 agent=$3 subject=$4 layout=${5-lvm}
a=agent-a-$$ d=agent-d-$$
work=$(mktemp -d)
trap '"$lab" down "$a"; virsh destroy "$d"; rm -rf "$work"' EXIT

fail() {
    echo "FAIL: $*"
    virsh list --all
    cat "$work/out" "$work/err"
    tail -n 30 "$work/console" 2>/dev/null
    exit 1
}

# shellcheck source=tests/vm/expect.sh
. "$(dirname "$0")/expect.sh"

# fact KEY JSON...: so it is in the JSON of the last command.
fact() {
    while [ $# -gt 0 ]; do
        python3 -c 'import json, sys
got = json.load(open(sys.argv[1]))[sys.argv[2]]
sys.exit(0 if json.dumps(got) == sys.argv[3] else f"it is {got}")' "$work/out" "$1" "$2" 2>>"$work/err" ||
            fail "$1 is not $2"
        shift 2
    done
}

channels() {
    virsh dumpxml --inactive "$d" | grep -c "name='org.vmgraft.agent.0'"
}

# on_disk PATH...: how many of them there are on the disk, seen with nothing of ours nor libguestfs'
on_disk() {
    for path; do
        debugfs -R "stat $path" "$filesystem" 2>"$work/debugfs"
    done | grep -c '^Inode:'
}

disk=$("$(dirname "$0")/debian_disk" "$layout") || exit 1
case $layout in
    lvm) device=/dev/mapper/debian-root begin=2 ;;
    *) device=/dev/vda1 begin=1 ;;
esac
qemu-img convert -O raw "$disk/disk.qcow2" "$work/disk" || exit 1
filesystem="$work/disk?offset=$((begin << 20))"
debugfs -w -R "write $subject /usr/bin/move_subject" "$filesystem" 2>"$work/debugfs"
[ "$(on_disk /usr/bin/move_subject)" = 1 ] || exit 1
# As the lab has it for its own.
kind=kvm less=
if ! grep -qwE 'vmx|svm' /proc/cpuinfo; then
    kind=qemu less="<feature policy='disable' name='cx16'/>"
fi
cat >"$work/domain.xml" <<END
<domain type='$kind'>
  <name>$d</name>
  <memory unit='MiB'>512</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>$disk/kernel</kernel>
    <initrd>$disk/initrd</initrd>
    <cmdline>console=ttyS0 root=$device rw quiet systemd.show_status=no</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='maximum'>$less</cpu>
  <on_reboot>destroy</on_reboot>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='$work/disk'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <serial type='file'><source path='$work/console'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
END
virsh define "$work/domain.xml" >"$work/out" || exit 1

# Into the disk, and the definition; the second time there is nothing to do.
status 0 "$vmgraft" agent install --agent "$agent" --json "$d"
fact result '"installed"' service '"systemd"' installed true enabled true channel '"added"'
[ "$(channels)" = 1 ] || fail "not in the domain's XML"
virsh dumpxml --inactive "$d" >"$work/before"
echo "ok: installed"
status 0 "$vmgraft" agent install --agent "$agent" --json "$d"
fact result '"unchanged"' service '"systemd"' installed true enabled true channel '"added"'
virsh dumpxml --inactive "$d" | cmp - "$work/before" || fail "the definition has changed"
echo "ok: installed twice"

# Its own init starts it. A disk that is in use is nobody else's.
virsh start "$d" >"$work/out" || fail "it does not start"
status 1 "$vmgraft" agent install --agent "$agent" "$d"
says "domain $d is running"
status 1 "$vmgraft" agent remove --format raw "$work/disk"
says "in use by a guest that runs"
"$lab" up "$a" --libvirt qemu:///system --memory 256 --agent "$agent" \
    --program "$subject=/usr/bin/move_subject" || exit 1
# A pid that is free in both.
"$lab" exec "$a" -- sh -c 'echo 4000 >/proc/sys/kernel/ns_last_pid' || exit 1
pid=$("$lab" exec "$a" --detach -- move_subject 4) || exit 1
until "$vmgraft" agent status "$d" >"$work/out" 2>"$work/err"; do
    grep -q "does not run in this guest" "$work/err" || fail "its agent is not there"
    [ $SECONDS -lt 1500 ] || fail "its agent does not come"
    sleep 1
done
echo "ok: its agent answers"

# A process goes there, and comes back.
until "$lab" exec "$a" -- test -e /tmp/rounds; do sleep 0.1; done
status 0 "$vmgraft" migrate "$a" "$pid" "$d"
status 0 "$vmgraft" ps "$d"
grep -q move_subject "$work/out" || fail "the subject is not there"
# Of a library that its init has mapped and hardly uses most was never read in: that comes from this
# disk.
library=/usr/lib/x86_64-linux-gnu/libcrypto.so.3
debugfs -R "dump $library $work/library" "$filesystem" 2>"$work/debugfs"
for how in "" --disks; do
    # shellcheck disable=SC2086
    status 0 "$vmgraft" capture --forensic $how "$d" 1 -o "$work/image"
    status 0 "$vmgraft" convert "$work/image" --to core -o "$work/core"
    "$(dirname "$0")/core_code" "$work/core" "$library" "$work/library" >>"$work/code" 2>"$work/err" ||
        fail "no core with the code of $library"
    rm "$work/image" "$work/core"
done
{ read -r had lacked && read -r has lacks; } <"$work/code"
[ "$lacked" -gt 0 ] || fail "all of $library was in memory"
[ "$has $lacks" = "$((had + lacked)) 0" ] || fail "of $library the core lacks $lacks pages"
echo "ok: $lacked pages of code from its disk"
status 0 "$vmgraft" migrate "$d" "$pid" "$a"
gets_on "$a" || fail "the subject does not get on"
"$lab" down "$a"
echo "ok: a process was there"

# Gone, without a trace.
virsh shutdown "$d" >"$work/out"
for _ in $(seq 3000); do
    [ "$(virsh domstate "$d")" != "shut off" ] || break
    sleep 0.1
done
status 0 "$vmgraft" agent status --json "$d"
version=$("$vmgraft" --version)
fact version "\"${version#vmgraft }\"" installed true enabled true channel '"added"'
echo "ok: status"
files=("/usr/local/sbin/vmgraft-agent" "/etc/systemd/system/vmgraft-agent.service"
    "/etc/systemd/system/multi-user.target.wants/vmgraft-agent.service")
[ "$(on_disk "${files[@]}")" = 3 ] || fail "the disk has $(on_disk "${files[@]}") of 3 files"
status 0 "$vmgraft" agent remove --json "$d"
fact result '"removed"' channel '"absent"'
[ "$(channels)" = 0 ] || fail "the port stays in the domain's XML"
[ "$(on_disk "${files[@]}" /usr/local/sbin/.vmgraft-agent.new)" = 0 ] || fail "something is left on the disk"
echo "ok: removed"
