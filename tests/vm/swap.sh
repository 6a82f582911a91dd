#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A process whose memory is swapped out: swap.sh LAB VMGRAFT AGENT SUBJECT [OPTION-OF-LAB-UP...]
#
# To a partition, a whole disk and a file of an ext4, all at once; with another swap area on another
# disk of that size, which nobody may take for it. Memory of each kind is checked word by word after
# it was taken from there: in another guest, and from an image in the same, where nothing is left of
# the original.
set -uo pipefail
lab=$1 vmgraft=$2 agent=$3 subject=$4
shift 4
a=swap-$$ b=swap-to-$$
work=$(mktemp -d)
export TMPDIR=$work
trap '"$lab" down "$a"; "$lab" down "$b"; rm -rf "$work"' EXIT

fail() {
    echo "FAIL: $*"
    cat "$work/out" "$work/err"
    exit 1
}

# shellcheck source=tests/vm/expect.sh
. "$(dirname "$0")/expect.sh"

in_guest() {
    "$lab" exec "$a" -- "$@"
}

# wait_for WORDS [GUEST]: the subject says them, and nothing else.
wait_for() {
    local state
    state=$("$lab" exec "${2-$a}" -- timeout 600 cat /tmp/state)
    [ "$state" = "$1" ] || fail "the subject says '$state'"
}

{
    truncate -s 65M "$work/one.raw"
    echo 'label: gpt
        start=2048, size=63M, type=swap' | sfdisk -q "$work/one.raw"
    mke2fs -q -t ext4 -b 4096 "$work/two.raw" 96M
    truncate -s 63M "$work/three.raw" "$work/four.raw"
    mkswap -q "$work/four.raw"
} >"$work/out" 2>"$work/err" || fail "no disks"
"$lab" up "$a" --memory 192 --agent "$agent" --module ext4 --disk "$work/one.raw" \
    --disk "$work/two.raw" --disk "$work/three.raw" --disk "$work/four.raw" \
    --program /sbin/swapon=/usr/bin/swapon_with \
    --program "$subject=/usr/bin/swap_subject" "$@" || exit 1
target=$("$lab" target "$a")
areas="/dev/vda1 /dev/vdc /mnt/two/area"
in_guest sh -ec "mkdir -p /mnt/tmpfs /mnt/two /mnt/cgroup
    mount -t tmpfs tmpfs /mnt/tmpfs
    mount -t cgroup2 cgroup2 /mnt/cgroup
    mount -t ext4 /dev/vdb /mnt/two
    dd if=/dev/zero of=/mnt/two/before bs=1M count=3 2>/dev/null
    dd if=/dev/zero of=/mnt/two/area bs=1M count=48 2>/dev/null
    chmod 600 /mnt/two/area
    sync
    echo 200 >/proc/sys/vm/swappiness
    mkfifo /tmp/state
    for area in $areas; do
        mkswap \$area >/dev/null
        swapon_with -p 5 \$area
    done" || exit 1

pid=$("$lab" exec "$a" --detach -- swap_subject /mnt/tmpfs/file) || exit 1
wait_for swapped
# What is written stays in memory until somebody needs that.
in_guest sh -c 'for i in 1 2 3 4 5; do
        [ "$(awk "/^SwapCached/ { print \$2 }" /proc/meminfo)" -ge 2000 ] || exit 0
        echo 16M >/mnt/cgroup/memory.reclaim || : # that much may not be there
    done; cat /proc/meminfo; exit 1' >"$work/out" || fail "swapped pages stay in memory"
in_guest awk 'NR > 1 && $4 < 400 { exit 1 }' /proc/swaps || fail "an area has nothing"
in_guest kill -USR2 "$pid"
wait_for read

status 3 "$vmgraft" capture "$target" "$pid" -o "$work/image"
says "is swapped out to "
says "; --disks reads it there"
[ ! -e "$work/image" ] || fail "there is an image"
status 0 "$vmgraft" capture "$target" "$pid" --disks -o "$work/image"
status 0 "$vmgraft" verify "$work/image"

"$lab" up "$b" --memory 192 --agent "$agent" --program "$subject=/usr/bin/swap_subject" "$@" || exit 1
"$lab" exec "$b" -- mkfifo /tmp/state || exit 1
status 0 "$vmgraft" migrate --disks "$target" "$pid" "$("$lab" target "$b")"
"$lab" exec "$b" -- kill -USR1 "$pid"
wait_for right "$b"
echo "ok: migrated"

in_guest sh -ec "while pidof swap_subject >/dev/null; do :; done
    for area in $areas; do swapoff \$area; done" || fail "the original is not gone"
status 0 "$vmgraft" restore "$work/image" "$target"
in_guest kill -USR1 "$pid"
wait_for right
echo "ok: restored"
