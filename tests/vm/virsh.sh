#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# vmgraftd as a user of virsh meets it: virsh.sh LAB VMGRAFT VMGRAFTD AGENT MOVE_SUBJECT
# To be run by with_libvirtd.
set -uo pipefail
. "$(dirname "$0")/move_subject.sh"
lab=$1 vmgraft=$2 vmgraftd=$3 agent=$4 subject=$5
a=virsh-a-$$ b=virsh-b-$$
work=$(mktemp -d)
images=$work/images
daemon=
trap '[ -z "$daemon" ] || kill -9 "$daemon"; "$lab" down "$a"; "$lab" down "$b"; rm -rf "$work"' EXIT

fail() {
    echo "FAIL: $*"
    virsh list --all
    virsh metadata "$a" urn:vmgraft:request
    virsh metadata "$a" urn:vmgraft:answer
    tail -n 40 "$work/log"
    exit 1
}

start_daemon() {
    "$vmgraftd" --vmgraft "$vmgraft" --state "$work/state" --allow-directory "$images" \
        2>>"$work/log" &
    daemon=$!
}

# ask DOMAIN XML
ask() {
    virsh metadata "$1" urn:vmgraft:request --key vmgraft --set "$2" >"$work/out" 2>&1 ||
        fail "virsh metadata --set '$2': $(cat "$work/out")"
}

# answer DOMAIN ID: attributes of the answer; nothing while there is none.
answer() {
    virsh metadata "$1" urn:vmgraft:answer 2>/dev/null | sed -n "s/.*<answer id=\"$2\"\\(.*\\)\\/>.*/\\1/p"
}

# wait_for DOMAIN ID STATE [TEXT]: the answer comes to that state (begun: running or any end; over: any
# end); what it says is in $said.
wait_for() {
    for _ in $(seq 1200); do
        said=$(answer "$1" "$2")
        case $said in
        *' state="waiting"'*) [ "$3" != waiting ] || break ;;
        *' state="running"'*) [ "$3" != begun ] || break ;;
        ?*) break ;;
        esac
        sleep 0.1
    done
    [[ $3 == over || $3 == begun ]] || [[ $said == *" state=\"$3\""* ]] || fail "request $2 is not $3: $said"
    [[ $said == *"${4-}"* ]] || fail "request $2 does not say '$4': $said"
    echo "ok: $2: $said"
}

# shellcheck source=tests/vm/domain.sh
. "$(dirname "$0")/domain.sh"

# works GUEST: the subject is there, unhurt, and gets on.
works() {
    gets_on "$1" || fail "the subject does not get on in $1"
}

"$vmgraftd" --help | grep -q -- --allow-directory || fail "--help"
"$vmgraftd" --nonsense 2>"$work/log"
[ $? = 2 ] || fail "an option that is none"
mkdir "$images"
start_daemon
until grep -q watching "$work/log"; do sleep 0.1; done
# It says so and waits.
"$vmgraftd" --vmgraft "$vmgraft" --state "$work/state" --allow-directory "$images" \
    2>"$work/second" &
second=$!
for _ in $(seq 600); do
    ! grep -q "held by another vmgraftd" "$work/second" || break
    sleep 0.1
done
kill $second && wait $second
grep -q "held by another vmgraftd" "$work/second" || fail "two at once: $(cat "$work/second")"
"$lab" up "$a" --libvirt qemu:///system --memory 256 --agent "$agent" \
    --program "$subject=/usr/bin/move_subject" || exit 1
"$lab" up "$b" --libvirt qemu:///system --memory 256 --agent "$agent" \
    --program "$subject=/usr/bin/move_subject" || exit 1
pid=$("$lab" exec "$a" --detach -- move_subject 16) || exit 1
until "$lab" exec "$a" -- test -e /tmp/rounds; do sleep 0.1; done

# One process, by its pid.
ask "$a" "<capture id='pid' pid='$pid' to='$images/pid.vmg'/>"
wait_for "$a" pid "done" 'pause-ms="'
"$vmgraft" verify "$images/pid.vmg" || fail "the image is none"
[[ $(state "$a") == running* ]] || fail "$a is $(state "$a")"
works "$a"

# Done once, however often it is asked.
inode=$(stat -c %i "$images/pid.vmg")
ask "$a" "<requests><capture to='$images/pid.vmg' id='pid' pid='$pid'/>
    <capture id='after' pid='$pid' to='$images/after.vmg'/></requests>"
wait_for "$a" after "done"
wait_for "$a" pid "done"
[ "$(stat -c %i "$images/pid.vmg")" = "$inode" ] || fail "a request was done twice"

# What makes no sense, beside what does.
ln -s /tmp "$images/away"
ln -s /tmp/virsh-test-$$ "$images/link"
ask "$a" "<requests>
    <capture id='pid' pid='1' to='$images/other.vmg'/>
    <capture id='word' pid='$pid' to='$images/x.vmg' colour='red'/>
    <capture id='outside' pid='$pid' to='/etc/x.vmg'/>
    <capture id='dots' pid='$pid' to='$images/../x.vmg'/>
    <capture id='away' pid='$pid' to='$images/away/x.vmg'/>
    <capture id='nowhere' pid='$pid' to='$images/no/such/x.vmg'/>
    <capture id='which' to='$images/x.vmg'/>
    <capture id='gone' command='no-such' to='$images/x.vmg'/>
    <capture id='same' pid='$pid' to='$images/same.vmg'/>
    <capture id='same' pid='$pid' to='$images/x.vmg'/>
    <capture pid='$pid' to='$images/x.vmg'/>
    <move id='self' pid='$pid' domain='no-such-domain'/>
    <capture id='good' pid='$pid' to='$images/good.vmg'/></requests>"
wait_for "$a" good "done"
wait_for "$a" pid failed "was used before"
wait_for "$a" word failed "&lt;capture&gt; knows no 'colour'"
wait_for "$a" outside failed "not in a directory that vmgraftd may write to"
wait_for "$a" dots failed "no absolute path"
wait_for "$a" away failed "not in a directory that vmgraftd may write to"
wait_for "$a" nowhere failed "there is no directory"
wait_for "$a" which failed "which process?"
wait_for "$a" gone failed "no process is named no-such"
wait_for "$a" self failed "no domain with matching name"
wait_for "$a" "" failed "it needs an id"
[ ! -e "$images/x.vmg" ] || fail "something was written that should not"
ask "$a" "<harm id='1'/>"
until virsh metadata "$a" urn:vmgraft:answer | grep -q "&lt;harm&gt; is no request"; do sleep 0.1; done
virsh metadata "$a" urn:vmgraft:request --remove >"$work/out"
while virsh metadata "$a" urn:vmgraft:answer >"$work/out" 2>&1; do sleep 0.1; done

# By its cgroup, by its port; what cannot be taken out.
"$lab" exec "$a" -- sh -c "mkdir /sys/fs/cgroup/job &&
    echo $pid >/sys/fs/cgroup/job/cgroup.procs" || fail "no cgroup"
"$lab" exec "$a" --detach -- nc -l -p 4242 >"$work/nc" || fail "no nc"
"$lab" exec "$a" --detach -- sh -c 'sleep 1000 | tail' >"$work/out" || fail "no pipe"
until "$lab" exec "$a" -- sh -c 'netstat -ltn | grep -q :4242 && pidof tail'; do sleep 0.1; done
ask "$a" "<requests>
    <capture id='cgroup' cgroup='/job' to='$images/cgroup.vmg'/>
    <capture id='port' port='4242' to='$images/port.vmg' forensic='yes'/>
    <capture id='no-port' port='4243' to='$images/x.vmg'/>
    <capture id='pipe' command='tail' to='$images/x.vmg'/></requests>"
wait_for "$a" cgroup "done"
wait_for "$a" port "done"
wait_for "$a" no-port failed "no process serves port 4243"
wait_for "$a" pipe refused "external-pipe"
"$vmgraft" inspect "$images/cgroup.vmg" | grep -q "\b$pid\b" || fail "not what is in the cgroup"
"$vmgraft" inspect "$images/port.vmg" | grep -q "\b$(cat "$work/nc")\b" || fail "not who listens"

# By name, and the newest two are kept.
for i in 1 2 3; do
    ask "$a" "<capture id='keep-$i' command='move_subject' to='$images/keep' keep='2'/>"
    wait_for "$a" "keep-$i" "done"
    newest=$(sed 's/.* file="\([^"]*\)".*/\1/' <<<"$said")
done
[ "$(find "$images" -name 'keep.*' | wc -l)" = 2 ] || fail "not two are kept"
"$vmgraft" verify "$newest" || fail "the newest is none"

# When it is suspended: captured, and it stays suspended.
ask "$a" "<capture id='susp' command='move_subject' to='$images/susp.vmg' on='suspend'/>"
wait_for "$a" susp waiting
virsh suspend "$a" >"$work/out"
wait_for "$a" susp "done"
[ "$(state "$a")" = "paused (user)" ] || fail "not left suspended: $(state "$a")"
"$vmgraft" verify "$images/susp.vmg" || fail "the image is none"
virsh resume "$a" >"$work/out"
works "$a"

# To be saved is not to be suspended, though it is paused for that.
ask "$a" "<capture id='save' pid='$pid' to='$images/save.vmg' on='suspend'/>"
wait_for "$a" save waiting
begin_save "$a"
end_save "$a"
works "$a"
wait_for "$a" save waiting
virsh suspend "$a" >"$work/out"
wait_for "$a" save "done"
virsh resume "$a" >"$work/out"
works "$a"

# A move, and back.
ask "$a" "<move id='go' pid='$pid' domain='$b'/>"
wait_for "$a" go "done"
works "$b"
ask "$b" "<move id='back' command='move_subject' domain='$a'/>"
wait_for "$b" back "done"
works "$a"

# The daemon is killed at some place, and another started at once: done, or not, and never twice.
n=0
for delay in 0.02 0.1 0.3 0.6 0.9 1.2; do
    n=$((n + 1))
    ask "$a" "<capture id='kill-$n' pid='$pid' to='$images/kill-$n' keep='9'/>"
    sleep $delay
    kill -9 "$daemon"
    { wait "$daemon"; } 2>>"$work/log"
    start_daemon
    wait_for "$a" "kill-$n" over
    files=$(find "$images" -name "kill-$n.*" | wc -l)
    case $said in
    *'"done"'*) [ "$files" = 1 ] || fail "done, and there are $files files" ;;
    *'"failed"'*) [ "$files" = 0 ] || fail "failed, and there are $files files" ;;
    *) fail "killed after $delay s: $said" ;;
    esac
    [[ $(state "$a") == running* ]] || fail "$a is $(state "$a")"
done
# Between the image and the answer.
ask "$a" "<capture id='between' pid='$pid' to='$images/between.vmg'/>"
until [ -e "$images/between.vmg" ]; do :; done
kill -9 "$daemon"
{ wait "$daemon"; } 2>>"$work/log"
start_daemon
wait_for "$a" between "done" 'pause-ms="'
works "$a"

# Stopped by its user in the middle: it says so.
ask "$a" "<capture id='stop' pid='$pid' to='$images/stop.vmg'/>"
wait_for "$a" stop begun
kill "$daemon"
wait "$daemon" || fail "vmgraftd ends with exit code $?"
daemon=
[[ $(state "$a") == running* ]] || fail "$a is $(state "$a")"
said=$(answer "$a" stop)
[[ $said == *'"done"'* && -e $images/stop.vmg || $said == *'"failed"'* && ! -e $images/stop.vmg ]] ||
    fail "stopped: $said"
echo "ok: stop: $said"

# Asked while it is away; libvirtd is started anew below it.
ask "$a" "<capture id='while-away' pid='$pid' to='$images/away.vmg'/>"
start_daemon
wait_for "$a" while-away "done"
"$RESTART_LIBVIRTD" || fail "libvirtd does not start again"
ask "$a" "<capture id='anew' pid='$pid' to='$images/anew.vmg'/>"
wait_for "$a" anew "done"
works "$a"

# A domain that has no memory now.
virsh destroy "$b" >"$work/out"
ask "$a" "<move id='off' pid='$pid' domain='$b'/>"
wait_for "$a" off failed "domain $b is shut off"
works "$a"
virsh managedsave "$a" >"$work/out" || fail "virsh managedsave: $(cat "$work/out")"
ask "$a" "<capture id='saved' pid='$pid' to='$images/saved.vmg'/>"
wait_for "$a" saved failed "domain $a is saved to disk"
echo "ok: all"
