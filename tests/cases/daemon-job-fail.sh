#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# As daemon-io-fail, with a job that changes the chain: mirror, stream, commit, or commit of the active image.
#
# LIVECHAIN_JOB=NAME: which (by default the seed says); LIVECHAIN_SECONDS=N: how long (40);
# LIVECHAIN_POINT=KINDS:N:COUNT:HOW (as a report names it): only that.
# kernels: by-name
# timeout: 400
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img
plan 1
program=$BUILD/tests/crash/disks
[ -x "$program" ] || bail "$program is not built: make tools"
jobs=(mirror stream commit commit-active)
job=${LIVECHAIN_JOB:-${jobs[SEED % 4]}}
load_module
require_module nbd nbds_max=4 max_part=0
mkdir "$T/disks"
PYTHONDONTWRITEBYTECODE=1 python3 -S "$TOP/tests/daemonfail.py" --program "$program" --daemon "$LIVECHAIND" \
	--work "$T/disks" --job "$job" --seed "$SEED" --seconds "${LIVECHAIN_SECONDS:-40}" \
	${LIVECHAIN_POINT:+--only "$LIVECHAIN_POINT"} 2>&1 | sed -u 's/^/# /'
st=${PIPESTATUS[0]}
ok "$st" "$job: whatever request fails, seed $SEED"
[ "$st" = 0 ] || diag "$(tail -n 40 "$T/disks/daemon.log")"
