#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs parts of vmm_machine against QEMUs that need no operating system:
# vmm_bare.sh VMM_MACHINE
set -euo pipefail
test=$1
dir=$(mktemp -d)
trap 'kill $(cat "$dir"/*.pid) 2>/dev/null || true; rm -rf "$dir"' EXIT

# start NAME QEMU-OPTION...: returns when its QMP socket listens.
start() {
    local name=$1
    shift
    qemu-system-x86_64 -daemonize -pidfile "$dir/$name.pid" -display none -nodefaults \
        -qmp "unix:$dir/$name,server=on,wait=off" "$@"
}

# One shared and one private block, both below and above a PCI hole that starts at 256 MiB, with
# noise over the border of the blocks and at both sides of the hole.
head -c 8M /dev/urandom >"$dir/noise"
start numa -machine q35,accel=tcg,max-ram-below-4g=256M -m 512 -smp 2 \
    -object memory-backend-memfd,id=m0,size=128M,share=on -numa node,memdev=m0,cpus=0 \
    -object memory-backend-ram,id=m1,size=384M -numa node,memdev=m1,cpus=1 \
    -device loader,file="$dir/noise",addr=0x7c00000,force-raw=on \
    -device loader,file="$dir/noise",addr=0xf800000,force-raw=on \
    -device loader,file="$dir/noise",addr=0x100000000,force-raw=on
"$test" -p /vmm/machine/memory "qmp:$dir/numa"

# A file as RAM, shared.
start file -machine q35,accel=tcg,memory-backend=m0 -m 64 \
    -object memory-backend-file,id=m0,size=64M,mem-path="$dir/ram",share=on \
    -device loader,file="$dir/noise",addr=0x1000000,force-raw=on
"$test" -p /vmm/machine/memory -p /vmm/machine/pause "qmp:$dir/file"

# Nothing to be read yet.
start incoming -machine q35,accel=tcg -m 64 -incoming defer
"$test" "qmp:$dir/incoming"
