#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# A shell with a child in the background, a subshell in a pipeline and a command every moment:
# shell.sh WORKDIR [--sabotage], as subject.h tells.
workdir=$1

publish() {
    echo "$2" >"$workdir/$1.half" && mv "$workdir/$1.half" "$workdir/$1"
}

fail() {
    publish verdict "FAIL $1"
    exit 1
}

umask 022
trap 'usr1=$((usr1 + 1))' USR1
usr1=0

# The child tells its parent how far it has come by its exit code.
(
    n=0
    while [ "$n" -eq 0 ] || [ ! -e "$workdir/ask" ]; do
        n=$((n + 1))
        sleep 0.07
    done
    [ "$n" -gt 0 ] && exit 42
    exit 1
) &
child=$!

count=0
sum=0
publish ready ''
# However early it is asked: a sabotaged one must find out.
while [ "$count" -eq 0 ] || [ ! -e "$workdir/ask" ]; do
    count=$((count + 1))
    sum=$((sum + count))
    case $2 in --sabotage) sum=$((sum + 1)) ;; esac
    [ $((count * (count + 1) / 2)) -eq $sum ] || fail "sum to $count is $sum"
    [ $((count % 10)) -ne 0 ] || sleep 0.03
    [ $((count % 100)) -ne 0 ] || [ "$(echo $count | tr 0-9 a-j | tr a-j 0-9)" = $count ] ||
        fail "a pipeline lost $count"
done
kill -USR1 $$
[ $usr1 -eq 1 ] || fail "the trap ran $usr1 times"
wait $child
code=$?
[ $code -eq 42 ] || fail "the child ended with $code"
publish verdict PASS
