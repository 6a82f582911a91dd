# SPDX-License-Identifier: GPL-2.0-or-later
# To be sourced: the states of a domain, and how it is being saved without end. Needs $work and fail().

state() {
    virsh domstate "$1" --reason
}

# comes_to DOMAIN STATE
comes_to() {
    for _ in $(seq 600); do
        [ "$(state "$1")" != "$2" ] || return 0
        sleep 0.1
    done
    fail "$1 is $(state "$1"), not $2"
}

# begin_save DOMAIN: for as long as nobody reads that.
begin_save() {
    mkfifo "$work/fifo"
    exec 9<>"$work/fifo"
    virsh save "$1" "$work/fifo" >"$work/saved" 2>&1 9>&- &
    saver=$!
    comes_to "$1" "paused (saving)"
}

# end_save DOMAIN: it is not saved after all.
end_save() {
    virsh domjobabort "$1" >"$work/out" || fail "the job cannot be ended"
    exec 9>&- # it is full, and whoever writes to it waits
    wait "$saver" && fail "it was saved nevertheless"
    rm "$work/fifo"
}
