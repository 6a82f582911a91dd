#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Carried files that memory does not have come from the guest's disks:
# disks.sh LAB VMGRAFT AGENT [OPTION-OF-LAB-UP...]
#
# Two disks with an ext4 each, one of them qcow2. What the program has open is written with known
# bytes, thrown out of the page cache, and changed in part; then it is captured, ended, the disks
# are unmounted, and it is restored where there are no such files: it brings them along. Of its own
# code, which is on a disk, too, most was never read in: an ELF core has it nevertheless.
set -uo pipefail
lab=$1 vmgraft=$2 agent=$3
shift 3
a=disks-$$
work=$(mktemp -d)
export TMPDIR=$work
trap '"$lab" down "$a"; rm -rf "$work"' EXIT

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

# exports: how many disks QEMU serves.
exports() {
    if [ "$target" = "$a" ]; then
        virsh qemu-monitor-command "$a" '{"execute":"query-block-exports"}' |
            python3 -c 'import json, sys; print(len(json.load(sys.stdin)["return"]))'
        return
    fi
    python3 - "${target#qmp:}" <<'END'
import json, socket, sys
qmp = socket.socket(socket.AF_UNIX)
qmp.connect(sys.argv[1])
talk = qmp.makefile("rw")
talk.readline()
for command in "qmp_capabilities", "query-block-exports":
    print(json.dumps({"execute": command}), file=talk, flush=True)
    while "return" not in (answer := json.loads(talk.readline())):
        pass
print(len(answer["return"]))
END
}

mkdir "$work/one" "$work/two" "$work/expected"
head -c 400000 /dev/urandom >"$work/one/data"
head -c 300000 /dev/urandom >"$work/one/log"
head -c 50000 /dev/urandom >"$work/one/late"
head -c 123456 /dev/urandom >"$work/two/other"
cp /bin/busybox "$work/one/busybox"
{
    mke2fs -q -t ext4 -b 4096 -d "$work/one" "$work/one.raw" 64M
    mke2fs -q -t ext4 -b 1024 -d "$work/two" "$work/two.raw" 16M
    qemu-img convert -O qcow2 "$work/two.raw" "$work/two.qcow2"
} >"$work/out" 2>"$work/err" || fail "no disks"

"$lab" up "$a" --memory 256 --agent "$agent" --module ext4 --disk "$work/one.raw" \
    --disk "$work/two.qcow2" "$@" || exit 1
target=$("$lab" target "$a")
# Nothing is written back by the clock, and what is committed is for us to say.
in_guest sh -ec 'echo 0 >/proc/sys/vm/dirty_writeback_centisecs
    mkdir -p /mnt/one /mnt/two
    mount -t ext4 -o commit=3600 /dev/vda /mnt/one
    mount -t ext4 -o commit=3600 /dev/vdb /mnt/two' || exit 1
pid=$("$lab" exec "$a" --detach -- sh -c \
    'exec /mnt/one/busybox sleep 100000 </mnt/one/data 4</mnt/two/other 5>>/mnt/one/log 6</mnt/one/late') || exit 1

# A page in the middle of one file and the end of another are newer than the disk. The fsync of a
# third commits their times, and leaves their pages. The last file's change is not committed.
in_guest sh -ec 'until [ "$(readlink /proc/'"$pid"'/fd/6)" = /mnt/one/late ]; do :; done
    dd if=/mnt/one/data of=/dev/null bs=4096 count=1 2>/dev/null
    head -c 5000 /dev/zero | dd of=/mnt/one/data bs=1000 seek=200 conv=notrunc 2>/dev/null
    head -c 9000 /dev/zero >>/mnt/one/log
    echo x | dd of=/mnt/one/x conv=fsync 2>/dev/null
    printf x | dd of=/mnt/one/late conv=notrunc 2>/dev/null' || exit 1
debugfs -R "dump /data $work/on-disk" "$work/one.raw" 2>/dev/null
cmp -s "$work/on-disk" "$work/one/data" || fail "the guest has written back what it should keep"

# Whoever is killed leaves nothing behind in QEMU.
"$vmgraft" capture "$target" "$pid" --carry-files --disks -o "$work/killed" 2>"$work/err" &
victim=$!
until ls -d "$work"/libguestfs* >"$work/out" 2>&1; do
    kill -0 $victim 2>/dev/null || fail "it has ended"
    sleep 0.05
done
dog=$(pgrep -P $victim -x vmgraft-resume) || fail "it has no watchdog"
kill -9 $victim
wait $victim 2>/dev/null
tail --pid="$dog" -f /dev/null
[ "$(exports)" = 0 ] || fail "its disks are still served"
echo "ok: killed"

status 0 "$vmgraft" capture "$target" "$pid" --carry-files -o "$work/poor"
status 0 "$vmgraft" capture --verbose "$target" "$pid" --carry-files --disks -o "$work/image"
says "/mnt/one/late is not carried: it has changed so lately"
[ "$(grep -c 'is not carried' "$work/err")" = 1 ] || fail "more is not carried"
[ "$(exports)" = 0 ] || fail "its disks are still served"
status 0 "$vmgraft" convert "$work/poor" --to core -o "$work/poor.core"
status 0 "$vmgraft" convert "$work/image" --to core -o "$work/core"
code() {
    "$(dirname "$0")/core_code" "$1" /mnt/one/busybox "$work/one/busybox"
}
read -r poor_has poor_lacks < <(code "$work/poor.core") || fail "no core"
read -r has lacks < <(code "$work/core") || fail "no core with its code"
[ "$poor_lacks" -gt 50 ] || fail "all of its code was in memory"
[ "$has $lacks" = "$((poor_has + poor_lacks)) 0" ] || fail "of its code the core lacks $lacks pages"
echo "ok: captured"

# Elsewhere: the names are free. What was not carried is there already.
in_guest sh -ec 'kill -9 '"$pid"'
    while [ -e /proc/'"$pid"' ]; do :; done
    cp -p /mnt/one/late /mnt/one/busybox /
    umount /mnt/one
    umount /mnt/two
    cp -p /late /busybox /mnt/one' || exit 1
status 3 "$vmgraft" restore "$work/poor" "$target"
says "not all of it was in the source's memory"
status 0 "$vmgraft" restore "$work/image" "$target"
python3 - "$work" <<'END'
import sys
work = sys.argv[1]
data = bytearray(open(f"{work}/one/data", "rb").read())
data[200000:205000] = bytes(5000)
open(f"{work}/expected/data", "wb").write(data)
open(f"{work}/expected/log", "wb").write(open(f"{work}/one/log", "rb").read() + bytes(9000))
END
cp "$work/two/other" "$work/expected"
in_guest cat /mnt/one/data >"$work/data"
in_guest cat /mnt/one/log >"$work/log"
in_guest cat /mnt/two/other >"$work/other"
for file in data log other; do
    cmp "$work/$file" "$work/expected/$file" >"$work/out" 2>"$work/err" || fail "$file is another"
done
in_guest cmp "/proc/$pid/fd/4" /mnt/two/other || fail "it does not have what came along"
echo "ok: restored"
