# SPDX-License-Identifier: GPL-2.0-or-later
# To be sourced: what a command ends with and says. Needs $work and fail().

# status WANTED COMMAND...: it ends with that exit code; what it says is in $work/out and $work/err.
status() {
    local wanted=$1 got=0
    shift
    "$@" >"$work/out" 2>"$work/err" || got=$?
    [ "$got" -eq "$wanted" ] || fail "exit code $got, not $wanted: $*"
}

# says TEXT: the last command said so on stderr.
says() {
    grep -qF -- "$1" "$work/err" || fail "'$1' was not said"
}
