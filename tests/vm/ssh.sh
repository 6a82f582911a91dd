#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Moves between two hosts, through ssh: ssh.sh LAB VMGRAFT AGENT MOVE_SUBJECT
#
# The hosts are network namespaces of this machine, each with a libvirtd (with_libvirtd) and an sshd
# of its own, and a third one where the user sits. Keys and configuration live as long as the test.
set -uo pipefail
here=$(dirname "$(readlink -f "$0")")

# host NAME WORK: one of the hosts, until the test says stop. Run by with_libvirtd.
if [ "$1" = host ]; then
    name=$2 work=$3
    ip link set lo up
    mkdir -p /run/sshd
    cat >"$work/$name.sshd" <<END
HostKey $work/$name.key
AuthorizedKeysFile $work/user.key.pub
PidFile $work/$name.sshd.pid
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
PrintMotd no
END
    mkfifo "$work/$name.stop"
    /usr/sbin/sshd -f "$work/$name.sshd" -E "$work/$name.sshd.log" || exit 1
    echo $$ >"$work/$name.new" && mv "$work/$name.new" "$work/$name.pid"
    read -r _ <"$work/$name.stop"
    kill "$(cat "$work/$name.sshd.pid")"
    exit 0
fi

if [ "$(id -u)" -ne 0 ]; then
    echo "needs root"
    exit 77
fi
# Inside it is the first process of its namespace: however it ends, nothing outlives it.
if [ -z "${SSH_TEST-}" ]; then
    "$1" fetch bookworm || exit 1 # there is no network inside
    SSH_TEST=$$ exec unshare --net --pid --fork --kill-child --mount-proc "$0" "$@"
fi

. "$here/move_subject.sh"
# Meson names them from its own directory; a host's shell has another.
lab=$(realpath "$1") vmgraft=$(realpath "$2") agent=$(realpath "$3") subject=$(realpath "$4")
a=ssh-a-$SSH_TEST b=ssh-b-$SSH_TEST
work=$(mktemp -d)
chmod 755 "$work"

# on HOST COMMAND...: as root there.
on() {
    nsenter --mount --net --target "$(cat "$work/$1.pid")" -- \
        env LIBVIRT_DEFAULT_URI=qemu:///system PATH="$PATH" "${@:2}"
}

# finish HOST GUEST: with its host.
finish() {
    [ -e "$work/$1.pid" ] || return
    on "$1" "$lab" down "$2"
    echo stop 1<>"$work/$1.stop" # does not wait for one who has gone
}

tidy() {
    finish hosta "$a" &
    finish hostb "$b" &
    wait # for the hosts too
    rm -rf "$work"
}
trap tidy EXIT

fail() {
    echo "FAIL: $*"
    cat "$work/err" 2>/dev/null
    tail -n 5 "$work"/*.sshd.log
    exit 1
}

# shellcheck source=tests/vm/expect.sh
. "$here/expect.sh"

# works GUEST WHAT: the subject is there, unhurt, and gets on.
works() {
    gets_on "$1" || fail "$2: the subject does not get on in $1"
    echo "ok: $2"
}

# absent GUEST WHAT: the subject is dead there, and whoever has it as a child takes note of that.
absent() {
    "$lab" exec "$1" -- sh -c "while read -r _ _ state _ </proc/$pid/stat; do
        [ \$state = Z ] || [ \$state = X ] || exit 1
        sleep 0.1
    done 2>/dev/null" || fail "$2: it is still in $1"
}

# ssh is found by the name that virsh users would give it in the URI.
cat >"$work/config" <<END
IdentityFile $work/user.key
IdentitiesOnly yes
UserKnownHostsFile $work/known_hosts
GlobalKnownHostsFile none
User root
Host hosta
    HostName 10.99.0.2
Host hostb
    HostName 10.99.0.3
Host nowhere
    HostName 192.0.2.1
END
sed s/user.key/other.key/ "$work/config" >"$work/config-other"
sed s/known_hosts/unknown_hosts/ "$work/config" >"$work/config-unknown"
# way NAME CONFIG [COMMAND...]: an ssh for the URI.
way() {
    printf '#!/bin/sh\nexec %s ssh -F %s "$@"\n' "${*:3}" "$work/$2" >"$work/$1"
}
way ssh config
way ssh-other config-other
# Without a terminal, where ssh could ask.
way ssh-unknown config-unknown env SSH_ASKPASS_REQUIRE=never setsid --wait
chmod +x "$work"/ssh*
for key in user hosta hostb other; do
    ssh-keygen -q -t ed25519 -N "" -f "$work/$key.key" || fail "no key"
done
echo "10.99.0.2 $(cat "$work/hosta.key.pub")" >"$work/known_hosts"
echo "10.99.0.3 $(cat "$work/hostb.key.pub")" >>"$work/known_hosts"

# The user's place has the switch.
ip link set lo up
ip link add switch type bridge && ip link set switch up && ip addr add 10.99.0.1/24 dev switch ||
    fail "no bridge"
n=1
for name in hosta hostb; do
    n=$((n + 1))
    unshare --net "$here/with_libvirtd" "$here/ssh.sh" host $name "$work" >"$work/$name.log" 2>&1 &
    host=$!
    until [ -e "$work/$name.pid" ]; do
        kill -0 $host 2>/dev/null || fail "$name does not come up: $(cat "$work/$name.log")"
        sleep 0.05
    done
    ip link add $name type veth peer name net netns "$(cat "$work/$name.pid")" || fail "no network"
    ip link set $name master switch up
    on $name ip addr add 10.99.0.$n/24 dev net
    on $name ip link set net up
done

parameters="command=$work/ssh&vmgraft=$vmgraft"
hosta="qemu+ssh://hosta/system?$parameters" hostb="qemu+ssh://hostb/system?$parameters"

# boot HOST GUEST
boot() {
    on "$1" "$lab" up "$2" --libvirt qemu:///system --memory 256 --agent "$agent" \
        --program "$subject=/usr/bin/move_subject"
}
boot hosta "$a" &
boot_a=$!
boot hostb "$b" || fail "$b does not boot"
wait $boot_a || fail "$a does not boot"
pid=$("$lab" exec "$a" --detach -- move_subject 16) || exit 1
until "$lab" exec "$a" -- test -e /tmp/rounds; do sleep 0.1; done
patient="--deadline=60" agent_patient="--agent-timeout=60"

# Looks from afar.
status 0 "$vmgraft" ps -c "$hosta" "$a"
grep -q move_subject "$work/out" || fail "ps does not show the subject"
status 0 "$vmgraft" agent status -c "$hostb" "$b"
status 0 "$vmgraft" capture $patient -c "$hosta" "$a" "$pid" -o "$work/a.vmg"
status 0 "$vmgraft" verify "$work/a.vmg"
works "$a" "captured from afar"

# From here to there, from there to here, from there to there.
status 0 on hosta "$vmgraft" migrate $agent_patient "$a" "$pid" "$b" --connect-to "$hostb"
absent "$a" "moved to another host"
works "$b" "moved to another host"
status 0 on hosta "$vmgraft" migrate $agent_patient -c "$hostb" "$b" "$pid" "$a" \
    --connect-to qemu:///system
absent "$b" "moved from another host"
works "$a" "moved from another host"
status 0 "$vmgraft" migrate $agent_patient --json -c "$hosta" "$a" "$pid" "$b" --connect-to "$hostb"
absent "$a" "moved between other hosts"
works "$b" "moved between other hosts"
cat "$work/out"

# Ways that lead nowhere: one sentence, and nothing has happened.
# refused_as URI TEXT: how a look there ends.
refused_as() {
    status 1 "$vmgraft" ps -c "$1" "$b"
    says "$2"
    [ "$(wc -l <"$work/err")" = 1 ] || fail "more than one line: $2"
}
printf '#!/bin/sh\necho noise\necho vmgraft-remote 9.9.9\ncat\n' >"$work/other"
printf '#!/bin/sh\nexit 2\n' >"$work/older"
chmod +x "$work/other" "$work/older"
nowhere="qemu+ssh://nowhere/system?$parameters"
refused_as "$nowhere" "nowhere: ssh: connect to host 192.0.2.1 port 22"
refused_as "qemu+ssh://hostb:23/system?$parameters" "Connection refused"
refused_as "$hostb&command=$work/ssh-other" "Permission denied (publickey)"
refused_as "$hostb&command=$work/ssh-unknown" "Host key verification failed"
refused_as "$hostb&command=$work/no-ssh" "No such file"
refused_as "$hostb&vmgraft=no-such-vmgraft" "hostb: vmgraft is not installed there"
refused_as "$hostb&vmgraft=$work/other" "is version 9.9.9"
refused_as "$hostb&vmgraft=$work/older" "is older than this one"
refused_as "$hostb&socket=/nonexistent" "/nonexistent"
status 1 on hosta "$vmgraft" migrate "$a" 1 "$b" --connect-to "$nowhere"
says "nowhere: ssh: connect to host 192.0.2.1 port 22"
status 1 "$vmgraft" ps -c "$hostb" no-such-domain
says "no domain with matching name 'no-such-domain'"
status 2 "$vmgraft" ps -c "qemu+ssh:///system" "$b"
says "it names no host"
status 2 "$vmgraft" ps -c "$hostb&colour=red" "$b"
says "it has no parameter 'colour'"
# Refusals come from where they are found, with their exit code.
status 3 "$vmgraft" migrate $agent_patient -c "$hostb" "$b" 1 "$a" --connect-to "$hosta"
status 2 "$vmgraft" show -c "$hostb" "$b" nonsense
works "$b" "ways that lead nowhere"

# The user gives up, or the network does. The process is in one of the two places, whole.
# alive GUEST: it runs there; what has died and waits for its parent does not.
alive() {
    "$lab" exec "$1" -- sh -c "read -r _ _ state _ </proc/$pid/stat && [ \$state != Z ] &&
        [ \$state != X ]" 2>/dev/null
}

# one_place WHAT: the subject is in one of the guests, and moves there from here on.
one_place() {
    from=$a to=$b from_uri=$hosta to_uri=$hostb
    alive "$a" || from=$b to=$a from_uri=$hostb to_uri=$hosta
    absent "$to" "$1"
    works "$from" "$1, $from has it"
}

# settle: what was held when the network went is still so. As docs/agent-protocol.md has it.
settle() {
    "$vmgraft" agent status $agent_patient --json -c "$to_uri" "$to" >"$work/status" ||
        fail "no status of $to"
    grep -q '"held": *"' "$work/status" || return
    alive "$from" && word=abort || word=release
    "$vmgraft" agent $word $agent_patient -c "$to_uri" "$to" || fail "agent $word"
    echo "# it was held in $to: agent $word"
}

# cut_short WHAT TEXT COMMAND...: a move during which COMMAND is run, when it has said TEXT.
cut_short() {
    local what="$1 once it '$2'" text=$2 got=0
    shift 2
    # In the background a shell has Ctrl-C ignored.
    env --default-signal=INT "$vmgraft" migrate -v $agent_patient -c "$from_uri" "$from" "$pid" \
        "$to" --connect-to "$to_uri" >"$work/out" 2>"$work/err" &
    move=$!
    until grep -q "$text" "$work/err" || ! kill -0 $move 2>/dev/null; do sleep 0.01; done
    "$@"
    wait $move || got=$?
    ip link set hosta up && ip link set hostb up
    grep -q "$text" "$work/err" || fail "$what: it never did"
    echo "# $what: exit code $got: $(tail -n 1 "$work/err")"
    settle
    one_place "$what"
}
interrupt() { kill -INT $move; }
cut() { ip link set "$1" down; }
one_place "at first"
cut_short "Ctrl-C" "processes are frozen" interrupt
cut_short "source cut off" "processes are frozen" cut "host${from:4:1}"
cut_short "target cut off" "holds the whole copy" cut "host${to:4:1}"
