#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Moves that are interrupted in every possible place: one copy lives, and it is well.
# cli_move.sh LAB VMGRAFT AGENT MOVE_SUBJECT
set -uo pipefail
. "$(dirname "$0")/move_subject.sh"
lab=$1 vmgraft=$2 agent=$3 subject=$4
a=move-a-$$ b=move-b-$$
work=$(mktemp -d)
patient="--agent-timeout=60" # for a busy host
trap '"$lab" down "$a"; "$lab" down "$b"; rm -rf "$work"' EXIT

fail() {
    echo "FAIL: $*"
    for guest in "$a" "$b"; do
        echo "# $guest:"
        "$vmgraft" ps "$("$lab" target "$guest")"
        "$vmgraft" agent status "$("$lab" target "$guest")"
    done
    exit 1
}

for guest in "$a" "$b"; do
    "$lab" up "$guest" --memory 256 --agent "$agent" --program "$subject=/usr/bin/move_subject" ||
        exit 1
done
ta=$("$lab" target "$a") tb=$("$lab" target "$b")

exists() {
    "$lab" exec "$1" -- kill -0 "$pid" 2>/dev/null
}

# Exactly one copy lives, in the guest(s) named; leaves its guest in $here and the other in $there.
expect_in() {
    local found=
    for guest in "$a" "$b"; do
        "$lab" exec "$guest" -- test -e /tmp/FAIL && fail "$1: the subject is hurt in $guest"
        gets_on "$guest" && found="$found $guest"
    done
    case $found in
    " $a") here=$a there=$b ;;
    " $b") here=$b there=$a ;;
    *) fail "$1: it lives in:$found" ;;
    esac
    exists "$there" && fail "$1: something is left in $there"
    [[ " $2 " == *" $here "* ]] || fail "$1: it lives in $here, not in $2"
    echo "ok: $1: it lives in $here"
}

target() {
    "$lab" target "$1"
}

raise_pid_max() {
    "$lab" exec "$1" -- sh -c "echo 100000 >/proc/sys/kernel/pid_max; $2" || fail "pid_max of $1"
}
raise_pid_max "$a" "echo 50000 >/proc/sys/kernel/ns_last_pid"
pid=$("$lab" exec "$a" --detach -- move_subject 16) || exit 1
until "$lab" exec "$a" -- test -e /tmp/rounds; do sleep 0.1; done
expect_in "at the start" "$a"

"$vmgraft" migrate "$ta" "$pid" "$tb" 2>"$work/stderr"
[[ $? -eq 3 && $(cat "$work/stderr") == *"pid-max: pid $pid is beyond"* ]] ||
    fail "a pid beyond the target's: $(cat "$work/stderr")"
expect_in "beyond pid_max" "$a"
raise_pid_max "$b" :

"$vmgraft" migrate $patient "$ta" "$pid" "$tb" || fail "move"
expect_in "moved" "$b"
"$vmgraft" migrate $patient --json "$tb" "$pid" "$ta" >"$work/json" || fail "move back"
python3 -c 'import json,sys; r = json.load(open(sys.argv[1]))
assert r["result"] == "moved" and r["pause_ms"] > 0 and len(r["pids"]) == 2, r' "$work/json" ||
    fail "JSON of a move"
expect_in "moved back" "$a"

# Ctrl-C at some place: undone, or past the point of no return and completed.
for delay in 0.05 0.1 0.2 0.3 0.4 0.6 0.8 1.0 1.3 1.6 2.0 2.5 3.0 4.0; do
    timeout --preserve-status -s INT "$delay" \
        "$vmgraft" migrate $patient -q "$(target "$here")" "$pid" "$(target "$there")" 2>"$work/stderr"
    status=$?
    case $status in
    0) expect_in "SIGINT after $delay s" "$there" ;;
    130) expect_in "SIGINT after $delay s" "$here" ;;
    *) fail "SIGINT after $delay s: exit $status: $(cat "$work/stderr")" ;;
    esac
done

# Killed outright: the agents find out by themselves.
for delay in 0.1 0.3 0.6 1.0 1.5 2.0 3.0; do
    {
        timeout -s KILL "$delay" \
            "$vmgraft" migrate $patient -q "$(target "$here")" "$pid" "$(target "$there")"
    } 2>/dev/null
    for _ in $(seq 120); do
        exists "$a" && exists "$b" || break
        sleep 1
    done
    # Should it have been killed just before the end, somebody has to decide.
    if "$vmgraft" agent status "$(target "$there")" | grep -q '^holds'; then
        exists "$here" && verb=abort || verb=release
        "$vmgraft" agent $verb "$(target "$there")" || fail "agent $verb"
    fi
    expect_in "SIGKILL after $delay s" "$a $b"
done

# An agent that hangs: one sentence, and the process goes on.
"$lab" exec "$there" -- sh -c 'kill -STOP $(pidof vmgraft-agent)'
"$vmgraft" migrate --agent-timeout 3 "$(target "$here")" "$pid" "$(target "$there")" 2>"$work/stderr"
[ $? = 1 ] && grep -q "no agent answers" "$work/stderr" || fail "stopped agent: $(cat "$work/stderr")"
"$lab" exec "$there" -- sh -c 'kill -CONT $(pidof vmgraft-agent)'
expect_in "the target's agent hangs" "$here"

agent_of() {
    # Its children have other parents than init.
    "$lab" exec "$1" -- sh -c 'for p in $(pidof vmgraft-agent); do
        set -- $(cat /proc/$p/stat); [ $4 = 1 ] && echo $p; done; :'
}

# The target's agent dies in the middle; init starts another. Who kills it is in the guest already
# when the process appears there, and stops it at once: it takes a while to find all of its
# processes.
target_agent=$(agent_of "$there")
"$lab" exec "$there" --detach -- sh -c \
    "until [ -e /proc/$pid ]; do :; done; kill -STOP $target_agent
     kill -KILL \$(pidof vmgraft-agent)" >/dev/null
"$vmgraft" migrate --agent-timeout 5 "$(target "$here")" "$pid" "$(target "$there")" \
    2>"$work/stderr" &
move=$!
wait $move && fail "the target's agent was killed, and the move says it is done"
expect_in "the target's agent is killed" "$here"

# A signal that comes when the image has been taken: the original goes on, and gets it.
catcher=$("$lab" exec "$here" --detach -- sh -c 'trap "echo >/tmp/caught" USR1
    while :; do sleep 0.2; done') || fail "no process that catches signals"
target_agent=$(agent_of "$there")
"$lab" exec "$there" --detach -- sh -c \
    "until [ -e /proc/$catcher ]; do :; done; kill -STOP $target_agent" >/dev/null
"$vmgraft" migrate --agent-timeout 30 "$(target "$here")" "$catcher" "$(target "$there")" \
    2>"$work/stderr" &
move=$!
until "$lab" exec "$there" -- grep -q "^State:.T" "/proc/$target_agent/status"; do
    kill -0 $move || fail "no move: $(cat "$work/stderr")"
    sleep 0.1
done
"$lab" exec "$here" -- sh -c "kill -USR1 $catcher; [ ! -e /tmp/caught ]" || fail "it is not frozen"
"$lab" exec "$there" -- kill -CONT "$target_agent"
wait $move && fail "a signal was sent, and the move says it is done"
grep -q "was sent a signal while it was frozen" "$work/stderr" || fail "signal: $(cat "$work/stderr")"
"$lab" exec "$here" -- timeout 60 sh -c "until [ -e /tmp/caught ]; do sleep 0.1; done
    kill -KILL $catcher" || fail "the signal is lost"
"$lab" exec "$there" -- test ! -e "/proc/$catcher" || fail "the copy lives as well"
echo "ok: a signal that comes in the middle"

# The source's agent hangs when it is to end the original: nobody knows, and the copy is kept until
# somebody does.
# The target's agent is held up while it builds, so that there is time for that.
source_agent=$(agent_of "$here") target_agent=$(agent_of "$there")
"$lab" exec "$there" --detach -- sh -c \
    "until [ -e /proc/$pid ]; do :; done; kill -STOP $target_agent" >/dev/null
"$vmgraft" migrate --agent-timeout 30 "$(target "$here")" "$pid" "$(target "$there")" \
    2>"$work/stderr" &
move=$!
until "$lab" exec "$there" -- grep -q "^State:.T" "/proc/$target_agent/status"; do sleep 0.1; done
"$lab" exec "$here" -- kill -STOP "$source_agent"
"$lab" exec "$there" -- kill -CONT "$target_agent"
wait $move && fail "in doubt: the move says it is done"
grep -q "it is not known whether the original is dead" "$work/stderr" ||
    fail "in doubt: $(cat "$work/stderr")"
"$vmgraft" agent status "$(target "$there")" | grep -q "^holds pid $pid" || fail "nothing is held"
"$vmgraft" restore "$work/stderr" "$(target "$there")" 2>/dev/null && fail "restore of nonsense"
other=$("$lab" exec "$there" --detach -- sleep 1000) || fail "no other process"
"$vmgraft" capture --deadline=60 "$(target "$there")" "$other" -o "$work/other" || fail "no image of it"
"$lab" exec "$there" -- kill -KILL "$other"
"$vmgraft" restore "$work/other" "$(target "$there")" 2>"$work/stderr" && fail "restore beside what is held"
grep -q "still holds pid $pid" "$work/stderr" || fail "what is held: $(cat "$work/stderr")"
rm "$work/other"
"$vmgraft" agent status "$(target "$there")" | grep -q "^holds pid $pid" || fail "nothing is held any more"
"$lab" exec "$here" -- kill -CONT "$source_agent"
while exists "$here"; do sleep 0.2; done # FINISH was in the ring
"$vmgraft" agent release "$(target "$there")" || fail "agent release"
expect_in "in doubt, then released" "$there"

# No agent in the source.
"$lab" exec "$here" -- sh -c 'mv /usr/sbin/vmgraft-agent /usr/sbin/away; kill $(pidof vmgraft-agent)'
"$vmgraft" migrate --agent-timeout 5 "$(target "$here")" "$pid" "$(target "$there")" 2>"$work/stderr"
[ $? = 3 ] && grep -q "runs no agent that could end the original" "$work/stderr" ||
    fail "no agent in the source: $(cat "$work/stderr")"
expect_in "no agent in the source" "$here"
"$vmgraft" migrate $patient --copy "$(target "$here")" "$pid" "$(target "$there")" || fail "copy"
gets_on "$a" && gets_on "$b" || fail "both live after a copy"
echo "ok: a copy: both live"
"$lab" exec "$there" -- sh -c "kill -KILL $pid; killall move_subject"
"$lab" exec "$here" -- mv /usr/sbin/away /usr/sbin/vmgraft-agent

# A capture that cannot be written, or is interrupted, leaves no file and a guest that runs.
mkdir "$work/full"
mount -t tmpfs -o size=1M none "$work/full" 2>/dev/null && {
    "$vmgraft" capture --deadline=60 "$(target "$here")" "$pid" -o "$work/full/image" \
        2>"$work/stderr"
    [ $? = 1 ] && grep -q "No space left" "$work/stderr" || fail "full disk: $(cat "$work/stderr")"
    [ -z "$(ls -A "$work/full")" ] || fail "full disk: a file is left"
    umount "$work/full"
    expect_in "a full disk" "$here"
}
for delay in 0.02 0.05 0.1 0.15 0.2 0.3; do
    timeout --preserve-status -s INT "$delay" \
        "$vmgraft" capture -q "$(target "$here")" "$pid" -o "$work/image"
    status=$?
    [ $status = 130 ] || [ $status = 0 ] || fail "capture, SIGINT after $delay s: exit $status"
    [ $status = 0 ] && { "$vmgraft" verify -q "$work/image" || fail "capture"; }
    rm -f "$work/image"
    [ -z "$(find "$work" -mindepth 1 -maxdepth 1 ! -name '*stderr*' ! -name '*json*' ! -name '*full*')" ] || fail "a partial file is left"
done
expect_in "interrupted captures" "$here"
"$lab" exec "$a" -- test ! -e /tmp/FAIL && "$lab" exec "$b" -- test ! -e /tmp/FAIL || fail "hurt"
echo "ok: all"
