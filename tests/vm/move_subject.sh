# SPDX-License-Identifier: GPL-2.0-or-later
# To be sourced: what the tests that move move_subject ask of it. Needs $lab and $pid.

# gets_on GUEST: the subject is there, unhurt, and gets on.
gets_on() {
    "$lab" exec "$1" -- sh -c "
        [ ! -e /tmp/FAIL ] && kill -0 $pid 2>/dev/null || exit 1
        before=\$(cat /tmp/rounds)
        for i in \$(seq 150); do
            sleep 0.2
            kill -0 $pid 2>/dev/null || exit 1 # it was about to go
            [ \"\$(cat /tmp/rounds)\" = \"\$before\" ] || exit 0
        done
        exit 1"
}
