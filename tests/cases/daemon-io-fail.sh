#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Any request of kernel or daemon to any image may fail: no wrong byte, and the same again works.
#
# LIVECHAIN_SECONDS=N: how long (40); LIVECHAIN_POINT=KINDS:N:COUNT:HOW (as a report names it): only that.
# kernels: 6.1 debug
# timeout: 400
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img
plan 1
program=$BUILD/tests/crash/disks
[ -x "$program" ] || bail "$program is not built: make tools"
load_module
require_module nbd nbds_max=4 max_part=0
mkdir "$T/disks"
PYTHONDONTWRITEBYTECODE=1 python3 -S "$TOP/tests/daemonfail.py" --program "$program" --daemon "$LIVECHAIND" \
	--work "$T/disks" --seed "$SEED" --seconds "${LIVECHAIN_SECONDS:-40}" \
	${LIVECHAIN_POINT:+--only "$LIVECHAIN_POINT"} 2>&1 | sed -u 's/^/# /'
st=${PIPESTATUS[0]}
ok "$st" "whatever request fails, seed $SEED"
[ "$st" = 0 ] || diag "$(tail -n 40 "$T/disks/daemon.log")"
