#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Bad input without a guest: one clear sentence, the right exit code, nothing left behind.
# usage: bad-input.sh VMGRAFT AGENT
set -u
vmgraft=$1 agent=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

# check WHAT EXIT PATTERN COMMAND...: the command exits so, and a line of its stderr matches.
check() {
    local what=$1 want=$2 pattern=$3 got
    shift 3
    "$@" >"$work/stdout" 2>"$work/stderr" </dev/null
    got=$?
    if [ "$got" != "$want" ]; then
        echo "not ok: $what: exit $got, not $want: $(cat "$work/stderr")"
        failures=$((failures + 1))
    elif [ -n "$pattern" ] && ! grep -qE -- "$pattern" "$work/stderr"; then
        echo "not ok: $what: says '$(cat "$work/stderr")', not '$pattern'"
        failures=$((failures + 1))
    else
        echo "ok: $what"
    fi
}

check_stdout() {
    if grep -qE -- "$2" "$work/stdout"; then
        echo "ok: $1"
    else
        echo "not ok: $1: stdout is '$(cat "$work/stdout")'"
        failures=$((failures + 1))
    fi
}

check "no command" 2 "^Usage: vmgraft" "$vmgraft"
check "unknown command" 2 "'captur' is no command; did you mean 'capture'" "$vmgraft" captur
check "unknown command, none near" 2 "see vmgraft help" "$vmgraft" xyzzy
check "option before the command" 2 "options follow the command" "$vmgraft" -v ps
check "help" 0 "" "$vmgraft" help
check_stdout "help lists commands" "^  migrate "
check "version" 0 "" "$vmgraft" --version
check_stdout "version is one line" "^vmgraft [0-9.]+$"
for command in ps show capture inspect verify convert restore migrate agent; do
    check "help of $command" 0 "" "$vmgraft" help "$command"
    check_stdout "help of $command has an example" "^Examples:"
    check_stdout "help of $command has exit codes" "3 refused"
    check "$command without operands" 2 "^vmgraft: $command: too few operands" "$vmgraft" "$command"
    check "$command with an unknown option" 2 "--frobnicate" "$vmgraft" "$command" --frobnicate
done
check "help of nothing" 2 "is no command" "$vmgraft" help nothing

# Another host, where ssh says why it fails, with standard streams that are closed
printf '#!/bin/sh\necho "ssh: no way there" >&2\nexit 255\n' >"$work/ssh"
chmod +x "$work/ssh"
far="qemu+ssh://nowhere/system?command=$work/ssh"
check "no way to a host" 1 "^vmgraft: nowhere: ssh: no way there$" "$vmgraft" ps -c "$far" web
for closed in '<&-' '>&-' '<&- >&-'; do
    check "no way to a host, $closed" 1 "^vmgraft: nowhere: ssh: no way there$" \
        sh -c "\"\$@\" $closed" sh "$vmgraft" ps -c "$far" web
done

# Targets and pids
check "target that is none" 1 "nonsense/.*qmp:" "$vmgraft" ps nonsense/
check "no libvirt" 1 "/nonexistent" "$vmgraft" ps -c "qemu+unix:///system?socket=/nonexistent" web
check "socket that is missing" 1 "$work/none" "$vmgraft" ps "qmp:$work/none"
check "pid that is none" 2 "'1x' is no pid" "$vmgraft" show "qmp:$work/none" 1x
check "pid 0" 2 "'0' is no pid" "$vmgraft" show "qmp:$work/none" 0
check "negative pid" 2 "'-1' is no pid" "$vmgraft" show -- "qmp:$work/none" -1
check "huge pid" 2 "is no pid" "$vmgraft" show "qmp:$work/none" 99999999999999999999
check "name that is none" 2 "'name:' is no pid" "$vmgraft" show "qmp:$work/none" name:
check "port that is none" 2 "name:COMMAND, cgroup:/PATH, port:NUMBER" "$vmgraft" show "qmp:$work/none" port:x
check "cgroup that is none" 2 "'cgroup:x' is no pid" "$vmgraft" show "qmp:$work/none" cgroup:x
check "pid of migrate" 2 "'x' is no pid" "$vmgraft" migrate "qmp:$work/none" x "qmp:$work/none2"
check "same source and target" 2 "same guest" "$vmgraft" migrate "qmp:$work/none" 5 "qmp:$work/none"
check "agent verb" 2 "none of status, install, remove, release, abort" "$vmgraft" agent sing "qmp:$work/none"
check "agent of a disk that is missing" 1 "$work/none.img" "$vmgraft" agent status "$work/none.img"
check "agent: a disk does not run" 2 "is a disk" "$vmgraft" agent release "$work/none.img"
check "agent: a disk in use" 2 "its disk is its own" "$vmgraft" agent install "qmp:$work/none"
check "agent: two domains" 2 "'b' is one too many" "$vmgraft" agent install a b
check "agent: no agent to install" 1 "$work/none.*No such file" \
    "$vmgraft" agent install --agent "$work/none" ./disk
check "agent: not for every guest" 1 "no static program" "$vmgraft" agent install --agent /bin/sh ./disk
check "agent timeout" 2 "--agent-timeout takes" "$vmgraft" agent --agent-timeout=-1 status "qmp:$work/none"
check "deadline" 2 "--deadline takes" "$vmgraft" capture --deadline=-1 "qmp:$work/none" 5 -o "$work/out"

# --allow takes what can be lost, and says what that is
for command in capture migrate; do
    operands=("qmp:$work/none" 5)
    [ "$command" = migrate ] && operands+=("qmp:$work/none2") || operands+=(-o "$work/out")
    check "$command --allow of nothing known" 2 \
        "no kind of refusal 'external-pip'; .*: bpf, .*, external-pipe, .*socket" \
        "$vmgraft" "$command" --allow external-pip "${operands[@]}"
    check "$command --allow of what cannot be" 2 "'io_uring' \(an io_uring\) cannot be lost; .*bpf, " \
        "$vmgraft" "$command" --allow device,io_uring "${operands[@]}"
    check "$command --allow of an empty word" 2 "no kind of refusal ''" \
        "$vmgraft" "$command" --allow device, "${operands[@]}"
    check "$command --allow ''" 2 "no kind of refusal ''" "$vmgraft" "$command" --allow '' "${operands[@]}"
    check "$command --allow of what can be" 1 "$work/none" \
        "$vmgraft" "$command" --allow device,bpf --allow external-pipe "${operands[@]}"
    check "help of $command" 0 "" "$vmgraft" help "$command"
    check_stdout "help of $command says what --allow takes" "^  external-pipe  *a pipe that"
    check_stdout "help of $command says what becomes of it" "end of file for readers, EPIPE for writers"
done

for limit in 0 -1 x 1X 1MM 5G 99999999999999999999 '' M; do
    check "capture --carry-limit '$limit'" 2 "--carry-limit takes a size" \
        "$vmgraft" capture --carry-limit="$limit" "qmp:$work/none" 5 -o "$work/out"
done
for limit in 1 4G 64k 4194304K; do
    check "migrate --carry-limit $limit" 1 "$work/none" \
        "$vmgraft" migrate --carry-limit "$limit" "qmp:$work/none" 5 "qmp:$work/none2"
done

# Output
check "capture to nowhere" 2 "where to" "$vmgraft" capture "qmp:$work/none" 5
check "capture to a folder that is not there" 1 "$work/no/out" \
    "$vmgraft" capture "qmp:$work/none" 5 -o "$work/no/out"
check "capture to a folder" 1 "not a regular file" "$vmgraft" capture "qmp:$work/none" 5 -o "$work"
check "capture: json and image on stdout" 2 "standard output" \
    "$vmgraft" capture "qmp:$work/none" 5 -o - --json
check "capture to a terminal" 2 "" script -qec "'$vmgraft' capture qmp:/none 5 -o -" /dev/null
check_stdout "capture to a terminal says why" "standard output is a terminal"
check "failed capture" 1 "$work/none" "$vmgraft" capture "qmp:$work/none" 5 -o "$work/image"
if [ -e "$work/image" ] || compgen -G "$work/.image*" >/dev/null; then
    echo "not ok: a failed capture left a file"
    failures=$((failures + 1))
fi

# Images
printf 'VMGRAFT\nbut no more' >"$work/short"
head -c 100000 /dev/urandom >"$work/noise"
: >"$work/empty"
for command in inspect verify "convert --to core -o $work/core" "restore --quiet"; do
    # shellcheck disable=SC2086
    set -- $command
    name=$1
    shift
    operands=()
    [ "$name" = restore ] && operands=("qmp:$work/none")
    check "$name: missing image" 1 "$work/none.vmg.*No such file" \
        "$vmgraft" "$name" "$@" "$work/none.vmg" "${operands[@]}"
    check "$name: empty image" 1 "$work/empty" "$vmgraft" "$name" "$@" "$work/empty" "${operands[@]}"
    check "$name: foreign image" 1 "$work/noise.*not a vmgraft image" \
        "$vmgraft" "$name" "$@" "$work/noise" "${operands[@]}"
    check "$name: short image" 1 "$work/short" "$vmgraft" "$name" "$@" "$work/short" "${operands[@]}"
    check "$name: a folder" 1 "$work" "$vmgraft" "$name" "$@" "$work" "${operands[@]}"
    # A guest that cannot take the image is found out before anything is read.
    nothing="standard input"
    [ "$name" = restore ] && nothing="$work/none"
    check "$name: nothing on stdin" 1 "$nothing" "$vmgraft" "$name" "$@" - "${operands[@]}"
done
[ -e "$work/core" ] && echo "not ok: a failed convert left a file" && failures=$((failures + 1))
check "convert without a format" 2 "--to takes" "$vmgraft" convert "$work/short" -o "$work/core"
check "convert to an unknown format" 2 "--to takes" "$vmgraft" convert "$work/short" --to elf -o "$work/core"
check "convert to nowhere" 2 "where to" "$vmgraft" convert "$work/short" --to core

# The agent
check "agent: version" 0 "" "$agent" --version
check_stdout "agent: version is one line" "^vmgraft-agent [0-9.]+$"
check "agent: help" 0 "" "$agent" --help
check "agent: operand" 2 "no operand" "$agent" now
check "agent: unknown option" 2 "--frobnicate" "$agent" --frobnicate
check "agent: port that is missing" 1 "$work/port.*No such file" "$agent" --port "$work/port"
check "agent: image that is missing" 1 "$work/none.vmg" "$agent" --restore "$work/none.vmg"

[ "$failures" = 0 ]
