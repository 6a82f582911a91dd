#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# vmgraftd's unit under a real systemd: unit.sh LAB VMGRAFT VMGRAFTD UNIT AGENT MOVE_SUBJECT
#
# systemd is init of a pid namespace, in a cgroup of its own, with empty directories where it and
# libvirt keep things; it starts libvirtd, vmgraftd as its unit says, and the second half of this
# script. What the unit forbids must not be what vmgraftd needs: an image, a move, an end in time.
set -uo pipefail

fail() {
    echo "FAIL: $*"
    systemctl status --no-pager --lines 40 vmgraftd 2>&1
    exit 1
}

# As init's child, beside the services.
inside() {
    local images=/var/lib/vmgraft/images pid said
    trap '"$lab" down "$a"; "$lab" down "$b"' EXIT
    systemctl start vmgraftd || fail "it does not start"
    for guest in "$a" "$b"; do
        "$lab" up "$guest" --libvirt qemu:///system --memory 192 --agent "$agent" \
            --program "$subject=/usr/bin/move_subject" || exit 1
    done
    pid=$("$lab" exec "$a" --detach -- move_subject 4) || exit 1
    until "$lab" exec "$a" -- test -e /tmp/rounds; do sleep 0.1; done
    virsh metadata "$a" urn:vmgraft:request --key vmgraft --set "<requests>
        <capture id='1' pid='$pid' to='$images/one.vmg'/>
        <capture id='2' pid='$pid' to='/usr/two.vmg'/>
        <move id='3' pid='$pid' domain='$b'/></requests>" || fail "virsh metadata"
    for _ in $(seq 1200); do
        said=$(virsh metadata "$a" urn:vmgraft:answer 2>/dev/null)
        [[ ! $said =~ 'id="3" state="'(done|refused|failed) ]] || break
        sleep 0.1
    done
    echo "$said"
    [[ $said == *'id="1" state="done"'* ]] || fail "no image"
    [[ $said == *'id="2" state="failed"'* ]] || fail "an image where none may be"
    [[ $said == *'id="3" state="done"'* ]] || fail "no move"
    "$vmgraft" verify "$images/one.vmg" || fail "the image is none"
    [ "$(stat -c %a "$images/one.vmg")" = 600 ] || fail "others may read the image"
    "$lab" exec "$b" -- sh -c "kill -0 $pid && [ ! -e /tmp/FAIL ]" || fail "it does not live there"
    systemctl stop vmgraftd || fail "it does not stop"
    [ "$(systemctl show -P Result vmgraftd)" = success ] || fail "it did not end well"
    echo "ok: unit"
}

# First in the namespaces: mounts what is theirs, becomes init.
init() {
    mount --make-rprivate / && mount -t proc proc /proc || exit 1
    for dir in /run /etc/systemd/system /etc/libvirt /var/lib/libvirt /var/log/libvirt \
        /var/cache/libvirt /var/lib/vmgraft /usr/local/bin /usr/local/sbin /sys/fs/cgroup; do
        mkdir -p $dir && mount -t tmpfs unit $dir || exit 1
    done
    mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd &&
        mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified || exit 1
    cp "$vmgraft" /usr/local/bin/ && cp "$vmgraftd" /usr/local/sbin/ || exit 1
    systemd-analyze verify --man=no "$unit" || exit 1
    echo 'auth_unix_rw = "none"' >/etc/libvirt/libvirtd.conf
    printf '%s\n' 'user = "root"' 'group = "root"' 'dynamic_ownership = 0' \
        'security_driver = "none"' 'cgroup_controllers = []' >/etc/libvirt/qemu.conf
    # What is not there is of no use here: basic.target and what it wants.
    sed 's/^\[Unit\]/&\nDefaultDependencies=no/' "$unit" >/etc/systemd/system/vmgraftd.service
    for name in virtlogd libvirtd; do
        printf '%s\n' '[Unit]' DefaultDependencies=no '[Service]' "ExecStart=/usr/sbin/$name" \
            KillMode=process >/etc/systemd/system/$name.service
    done
    printf '%s\n' '[Unit]' DefaultDependencies=no 'After=libvirtd.service virtlogd.service' \
        'Wants=libvirtd.service virtlogd.service' SuccessAction=exit FailureAction=exit \
        '[Service]' Type=oneshot "Environment=UNIT_SH=inside VMGRAFT_LAB=${VMGRAFT_LAB-}" \
        Environment=LIBVIRT_DEFAULT_URI=qemu:///system \
        "StandardOutput=file:$out" "StandardError=file:$out" \
        "ExecStart=$self $*" >/etc/systemd/system/unit-test.service
    exec env -i container=vmgraft PATH="$PATH" /lib/systemd/systemd --system \
        --unit=unit-test.service
}

self=$(realpath "$0")
for word in "$@"; do
    set -- "${@:2}" "$(realpath "$word")"
done
a=unit-a-$$ b=unit-b-$$
lab=$1 vmgraft=$2 vmgraftd=$3 unit=$4 agent=$5 subject=$6
case ${UNIT_SH-} in
inside) inside ;;
init) init "$@" ;;
*)
    for needed in /lib/systemd/systemd /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
        if [ ! -e $needed ] || [ "$(id -u)" -ne 0 ]; then
            echo "needs root, systemd and its hierarchy of cgroups (no $needed)"
            exit 77
        fi
    done
    name=vmgraft-unit-$$
    export out
    out=$(mktemp)
    mkdir /sys/fs/cgroup/{systemd,unified}/$name || exit 77
    trap 'cat "$out"; rm -f "$out"; find /sys/fs/cgroup/{systemd,unified}/$name -depth -type d -exec rmdir {} +' EXIT
    # shellcheck disable=SC2016
    UNIT_SH=init bash -c 'for at in systemd unified; do
            echo $$ >/sys/fs/cgroup/$at/$1/cgroup.procs
        done
        exec unshare --fork --pid --kill-child --mount --uts --ipc --cgroup "${@:2}"' \
        - $name "$self" "$@" </dev/null
    grep -q "^ok: unit" "$out"
    ;;
esac
