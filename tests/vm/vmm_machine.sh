#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs vmm_machine against a guest with private RAM and one with shared RAM:
# vmm_machine.sh LAB VMM_MACHINE VMM_SPIN
set -euo pipefail
lab=$1 test=$2 spin=$3
guest=vmm-$$
trap '"$lab" down "$guest"' EXIT

for share in off on; do
    echo "# guest RAM shared: $share"
    "$lab" up "$guest" --cpus 2 --memory 256 --share-ram "$share" --agent none \
        --program "$spin=/bin/vmm_spin"
    "$lab" exec "$guest" --detach -- /bin/vmm_spin
    "$test" "$("$lab" target "$guest")"
    [ $share = on ] || "$lab" down "$guest"
done
