#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# vmgraft on domains of libvirt, beside virsh: libvirt.sh LAB VMGRAFT AGENT MOVE_SUBJECT
# To be run by with_libvirtd.
set -uo pipefail
. "$(dirname "$0")/move_subject.sh"
lab=$1 vmgraft=$2 agent=$3 subject=$4
a=dom-a-$$ b=dom-b-$$
work=$(mktemp -d)
small=$work/small # has no room for what its disk says it holds
trap '"$lab" down "$a"; "$lab" down "$b"; umount "$small"; rm -rf "$work"' EXIT

fail() {
    echo "FAIL: $*"
    virsh list --all
    cat "$work/err" 2>/dev/null
    exit 1
}

# shellcheck source=tests/vm/expect.sh
. "$(dirname "$0")/expect.sh"
# shellcheck source=tests/vm/domain.sh
. "$(dirname "$0")/domain.sh"

running() {
    [[ $(state "$a") == running* ]] || fail "$1: $a is $(state "$a")"
}

# works GUEST WHAT: the subject is there, unhurt, and gets on.
works() {
    gets_on "$1" || fail "$2: the subject does not get on in $1"
    echo "ok: $2"
}

# end_in GUEST: the subject is killed there, and nothing of it is left.
end_in() {
    "$lab" exec "$1" -- sh -c "killall -9 move_subject
        while pidof move_subject || [ -e /proc/$pid ]; do sleep 0.1; done" >"$work/out"
}

# For a busy host.
patient="--deadline=60" agent_patient="--agent-timeout=60"
mkdir "$small" && mount -t tmpfs -o size=2M small "$small" && truncate -s 16M "$small/disk" || exit 1
"$lab" up "$a" --libvirt qemu:///system --memory 256 --agent "$agent" --disk "$small/disk" \
    --program "$subject=/usr/bin/move_subject" || exit 1
"$lab" up "$b" --libvirt qemu:///system --memory 256 --agent "$agent" --share-ram on \
    --module pvpanic-mmio \
    --program "$subject=/usr/bin/move_subject" || exit 1
pid=$("$lab" exec "$a" --detach -- move_subject 16) || exit 1
until "$lab" exec "$a" -- test -e /tmp/rounds; do sleep 0.1; done

# A domain by each of its names, and the libvirt it is in by each way to say so.
for name in "$a" "$(virsh domuuid "$a")" "$(virsh domid "$a")"; do
    status 0 "$vmgraft" ps "$name"
    grep -q move_subject "$work/out" || fail "ps $name does not show the subject"
done
status 0 "$vmgraft" show --connect qemu:///system "$a" "$pid"
status 0 env -u LIBVIRT_DEFAULT_URI VIRSH_DEFAULT_CONNECT_URI=qemu:///system "$vmgraft" ps "$a"
status 0 "$vmgraft" agent status "$a"
running "after a look"

# Images: the domain goes on, or not.
status 0 "$vmgraft" capture $patient "$a" "$pid" -o "$work/a.vmg"
status 0 "$vmgraft" verify "$work/a.vmg"
running "after a capture"
status 0 "$vmgraft" capture $patient --leave-paused "$a" "$pid" -o "$work/paused.vmg"
[ "$(state "$a")" = "paused (user)" ] || fail "--leave-paused: $(state "$a")"
# Who was paused stays paused.
status 0 "$vmgraft" capture $patient "$a" "$pid" -o "$work/still.vmg"
[ "$(state "$a")" = "paused (user)" ] || fail "suspended before: $(state "$a")"
# It may run for a moment where a process is in the middle of something, and is paused in the end,
# though vmgraft be killed.
virsh resume "$a" >"$work/out"
busy=$("$lab" exec "$a" --detach -- dd if=/dev/zero of=/dev/null bs=1) || fail "no dd"
for delay in "" "" "" 0.2 0.3 0.4 0.5; do
    virsh suspend "$a" >"$work/out"
    if [ -z "$delay" ]; then
        status 0 "$vmgraft" capture $patient --let-run "$a" "$busy" \
            -o "$work/busy.vmg"
    else
        timeout -s KILL $delay "$vmgraft" capture --let-run "$a" "$busy" -o "$work/busy.vmg" \
            2>"$work/err"
        for _ in $(seq 600); do
            [ "$(state "$a")" != "paused (user)" ] || break
            sleep 0.1
        done
    fi
    [ "$(state "$a")" = "paused (user)" ] || fail "--let-run: $(state "$a")"
    virsh resume "$a" >"$work/out"
done
"$lab" exec "$a" -- kill "$busy"
works "$a" "captured, suspended, resumed"

# Killed while it holds the domain: the watchdog lets it go on.
"$vmgraft" capture "$a" "$pid" -o - | head -c 1 >"$work/out"
for delay in 0.02 0.05 0.1 0.2; do
    timeout -s KILL $delay "$vmgraft" capture "$a" "$pid" -o "$work/killed.vmg" 2>"$work/err"
done
for _ in $(seq 600); do
    [[ $(state "$a") == running* ]] && break
    sleep 0.1
done
running "killed"
[ ! -e "$work/killed.vmg" ] || "$vmgraft" verify "$work/killed.vmg" || fail "half an image"
works "$a" "killed while it captured"

# Moves, from private RAM to shared and back.
status 0 "$vmgraft" migrate $agent_patient "$a" "$pid" "$b"
works "$b" "moved"
status 0 "$vmgraft" migrate $agent_patient "$b" "$pid" "$a"
works "$a" "moved back"
status 0 "$vmgraft" restore $agent_patient "$work/a.vmg" "$b"
end_in "$b"

# As a stream: neither side seeks, both live on. What goes wrong on one side ends the other.
"$vmgraft" capture $patient "$a" "$pid" -o - 2>"$work/err" | cat | "$vmgraft" restore $agent_patient - "$b" 2>>"$work/err" ||
    fail "capture | restore"
works "$a" "captured into a pipe"
works "$b" "restored out of a pipe"
"$vmgraft" capture $patient "$a" "$pid" -o - 2>"$work/err" | "$vmgraft" restore - "$b" 2>>"$work/err"
[ "${PIPESTATUS[*]}" = "0 3" ] || fail "a pid that is taken: exit codes ${PIPESTATUS[*]}"
works "$b" "a second one is refused"
end_in "$b"
"$vmgraft" capture $patient "$a" "$pid" -o - 2>"$work/err" | head -c 1000000 |
    "$vmgraft" restore - "$b" 2>>"$work/err"
[ "${PIPESTATUS[2]}" = 1 ] || fail "cut off: exit codes ${PIPESTATUS[*]}"
"$lab" exec "$b" -- kill -0 "$pid" 2>/dev/null && fail "cut off: something lives in $b"
"$vmgraft" capture "$a" 999999 -o - 2>"$work/err" | "$vmgraft" restore - "$b" 2>>"$work/err"
[ "${PIPESTATUS[*]}" = "1 1" ] || fail "nothing to capture: exit codes ${PIPESTATUS[*]}"
works "$a" "streams that came to nothing"

# libvirtd is started anew: domains live on, and so does what we can do with them.
"$RESTART_LIBVIRTD" || fail "libvirtd does not start again"
status 0 "$vmgraft" capture $patient "$a" "$pid" -o "$work/a.vmg"
works "$a" "libvirtd started anew"

# Where the agent is missing: it is said once, with what helps; an image needs none.
"$lab" exec "$b" -- sh -c 'mv /usr/sbin/vmgraft-agent /usr/sbin/away; kill $(pidof vmgraft-agent)'
for _ in $(seq 600); do
    "$lab" exec "$b" -- pidof vmgraft-agent >"$work/out" || break
    sleep 0.1
done
child=$("$lab" exec "$b" --detach -- sleep 1000) || fail "no sleep"
for command in "restore $work/a.vmg $b" "migrate $a $pid $b" "migrate --copy $a $pid $b" \
    "agent status $b"; do
    # shellcheck disable=SC2086
    status 1 "$vmgraft" $command
    says "$b: vmgraft-agent does not run in this guest"
    says "\`vmgraft agent install $b\`"
    [ "$(grep -c agent "$work/err")" = 1 ] || fail "said more than once: $command"
done
status 3 "$vmgraft" migrate "$b" "$child" "$a"
says "runs no agent that could end the original"
says "\`vmgraft agent install $b\`"
yes | "$vmgraft" restore - "$b" 2>"$work/err"
[ "${PIPESTATUS[*]}" = "141 1" ] || fail "no agent: the image is read nevertheless"
says "\`vmgraft agent install $b\`"
status 0 "$vmgraft" capture $patient "$b" "$child" -o "$work/none.vmg"
works "$a" "no agent in the other guest"

# Of a guest that crashed and was kept, what sleeps can be taken, and nothing else can be done.
"$lab" exec "$b" --detach -- sh -c 'echo c >/proc/sysrq-trigger' >"$work/out"
comes_to "$b" "crashed (panicked)"
status 0 "$vmgraft" ps "$b"
status 0 "$vmgraft" capture "$b" "$child" -o "$work/crashed.vmg"
status 0 "$vmgraft" verify "$work/crashed.vmg"
status 3 "$vmgraft" migrate "$b" "$child" "$a"
says "the source guest does not run, as its kernel has panicked"
status 1 "$vmgraft" restore "$work/a.vmg" "$b"
says "$b: its kernel has panicked, so no agent can answer"
[ "$(state "$b")" = "crashed (panicked)" ] || fail "crashed: $(state "$b")"
echo "ok: crashed"

# One whose disk has failed.
"$lab" exec "$a" --detach -- dd if=/dev/zero of=/dev/vda bs=1M oflag=direct >"$work/out"
comes_to "$a" "paused (I/O error)"
status 0 "$vmgraft" ps "$a"
status 3 "$vmgraft" migrate "$a" "$pid" "$b"
says "the source guest does not run, as it stopped when a disk of it failed"
"$vmgraft" capture --let-run "$a" "$pid" -o "$work/error.vmg" 2>"$work/err" ||
    says "it stopped when a disk of it failed, where the process cannot be taken"
[ "$(state "$a")" = "paused (I/O error)" ] || fail "a disk that failed: $(state "$a")"
mount -o remount,size=32M "$small"
virsh resume "$a" >"$work/out"
works "$a" "a disk that failed"

# One that is being saved.
begin_save "$a"
for command in "ps $a" "capture $a $pid -o $work/saving.vmg" "migrate $a $pid $b"; do
    # shellcheck disable=SC2086
    status 1 "$vmgraft" $command
    says "domain $a is being migrated, saved or dumped: wait until that is over"
done
[ "$(state "$a")" = "paused (saving)" ] || fail "being saved: $(state "$a")"
end_save "$a"
running "not saved after all"
works "$a" "being saved"

# What cannot be.
status 1 "$vmgraft" ps no-such-domain
says "no domain with matching name 'no-such-domain'"
status 1 "$vmgraft" ps /no/such
says "'/no/such' is no target"
status 1 "$vmgraft" ps --connect test:///default test
says "only QEMU's have the monitor"
status 1 "$vmgraft" ps --connect "qemu+unix:///system?socket=/nonexistent" "$a"
says "/nonexistent"
virsh destroy "$b" >"$work/out"
status 1 "$vmgraft" ps "$b"
says "domain $b is shut off"
status 1 "$vmgraft" migrate "$a" "$pid" "$b"
works "$a" "the target was off"
