#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Disks that a Debian with systemd is not: agent_kinds.sh VMGRAFT AGENT. To be run by hand: libguestfs
# starts a dozen times, some minutes.
#
# The systems are as much of one as libguestfs needs to know them. That the files are right is looked
# at from outside, with debugfs. Needs busybox-static, e2fsprogs, qemu-utils.
set -uo pipefail
vmgraft=$1 agent=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "FAIL: $*"
    cat "$work/out" "$work/err"
    exit 1
}

# shellcheck source=tests/vm/expect.sh
. "$(dirname "$0")/expect.sh"

# look IMAGE COMMAND: what debugfs says
look() {
    debugfs -R "$2" "$1" 2>"$work/debugfs"
}

# there IMAGE TYPE MODE PATH...
there() {
    local image=$1 type=$2 mode=$3
    shift 3
    for path; do
        look "$image" "stat $path" | grep -q "Type: $type *Mode: *$mode" || fail "$image: $path is not there"
    done
}

# gone IMAGE PATH...
gone() {
    local image=$1
    shift
    for path; do
        look "$image" "stat $path" | grep -q Inode: && fail "$image: $path is there"
    done
    look "$image" "ls -p /usr/local/sbin" | grep -q vmgraft && fail "$image: something is left"
}

# system NAME: a directory with the beginnings of a Linux
system() {
    local root=$work/$1
    mkdir -p "$root"/{bin,sbin,etc/init.d,usr/local/sbin,lib,var}
    cp /bin/busybox "$root/bin/busybox"
    for name in sh ls; do cp /bin/busybox "$root/bin/$name"; done
    echo "/dev/sda / ext4 rw 0 1" >"$root/etc/fstab"
    printf 'NAME="%s"\nID=%s\nVERSION_ID=1.2\nPRETTY_NAME="%s 1.2"\n' "$1" "$1" "$1" >"$root/etc/os-release"
    echo "$root"
}

# image NAME: an ext4 without a partition around it
image() {
    mke2fs -q -t ext4 -d "$work/$1" "$work/$1.img" 48M >"$work/mke2fs" || exit 1
    echo "$work/$1.img"
}

# OpenRC, under busybox's init. SELinux without a label anywhere.
root=$(system alpine)
echo 1.2.3 >"$root/etc/alpine-release"
ln -s /bin/busybox "$root/sbin/init"
cp /bin/busybox "$root/sbin/openrc"
mkdir -p "$root/etc/runlevels/default" "$root/etc/selinux"
echo SELINUX=enforcing >"$root/etc/selinux/config"
disk=$(image alpine)
status 0 "$vmgraft" agent install --agent "$agent" --format raw "$disk"
says "/.autorelabel"
there "$disk" regular 0755 /usr/local/sbin/vmgraft-agent /etc/init.d/vmgraft-agent
there "$disk" symlink 0777 /etc/runlevels/default/vmgraft-agent
there "$disk" regular 0644 /.autorelabel
look "$disk" "dump /usr/local/sbin/vmgraft-agent $work/agent"
cmp "$work/agent" "$agent" || fail "another agent than was given"
sum=$(sha256sum <"$disk")
status 0 "$vmgraft" agent status "$disk"
grep -q "openrc service enabled" "$work/out" || fail "status"
[ "$(sha256sum <"$disk")" = "$sum" ] || fail "status wrote to the disk"
status 0 "$vmgraft" agent remove "$disk"
gone "$disk" /usr/local/sbin/vmgraft-agent /etc/init.d/vmgraft-agent /etc/runlevels/default/vmgraft-agent
echo "ok: openrc"

# sysvinit, with labels to take.
root=$(system devuan)
cp /bin/busybox "$root/sbin/init"
mkdir -p "$root"/etc/rc{0,1,2,3,4,5,6}.d "$root/etc/selinux"
echo SELINUX=permissive >"$root/etc/selinux/config"
disk=$(image devuan)
for path in /usr/local/sbin /etc/rc2.d; do
    look "$disk" "ea_set $path security.selinux system_u:object_r:bin_t:s0" >"$work/out"
    debugfs -w -R "ea_set $path security.selinux system_u:object_r:bin_t:s0" "$disk" 2>"$work/debugfs"
done
status 0 "$vmgraft" agent install --agent "$agent" "$disk"
there "$disk" regular 0755 /usr/local/sbin/vmgraft-agent /etc/init.d/vmgraft-agent
there "$disk" symlink 0777 /etc/rc2.d/S99vmgraft-agent /etc/rc6.d/K01vmgraft-agent
for path in /usr/local/sbin/vmgraft-agent /etc/rc2.d/S99vmgraft-agent; do
    look "$disk" "ea_get $path security.selinux" | grep -q bin_t || fail "$path has no label"
done
# Its administrator has it started at another place; that is kept.
debugfs -w -R "symlink /etc/rc2.d/S20vmgraft-agent ../init.d/vmgraft-agent" "$disk" 2>"$work/debugfs"
debugfs -w -R "rm /etc/rc2.d/S99vmgraft-agent" "$disk" 2>"$work/debugfs"
status 0 "$vmgraft" agent install --agent "$agent" "$disk"
says "was there already"
status 0 "$vmgraft" agent remove "$disk"
gone "$disk" /etc/init.d/vmgraft-agent /etc/rc2.d/S20vmgraft-agent /etc/rc0.d/K01vmgraft-agent
status 0 "$vmgraft" agent remove "$disk"
says "there was no agent"
echo "ok: sysvinit"

# What somebody else has made under our names.
printf '#!/bin/sh\necho mine\n' >"$root/etc/init.d/vmgraft-agent"
disk=$(image devuan)
status 1 "$vmgraft" agent install --agent "$agent" "$disk"
says "/etc/init.d/vmgraft-agent in the guest is not vmgraft's"
gone "$disk" /usr/local/sbin/vmgraft-agent
echo "ok: somebody else's"

# What cannot be.
status 1 "$vmgraft" agent install --agent "$agent" "$work/alpine.img" "$work/devuan.img"
says "more than one operating system"
truncate -s 16M "$work/empty.img"
status 1 "$vmgraft" agent install --agent "$agent" --format raw "$work/empty.img"
says "no operating system"
qemu-img create -q -f luks --object secret,id=key,data=secret -o key-secret=key,iter-time=10 \
    "$work/luks.img" 16M || exit 1
status 1 "$vmgraft" agent install --agent "$agent" --format raw "$work/luks.img"
says "encrypted"
truncate -s 16M "$work/swap.img"
mkswap -q "$work/swap.img"
printf S1SUSPEND | dd of="$work/swap.img" bs=1 seek=4086 conv=notrunc status=none
status 1 "$vmgraft" agent install --agent "$agent" --format raw "$work/alpine.img" "$work/swap.img"
says "hibernated"
echo "ok: what cannot be"
