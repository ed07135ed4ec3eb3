#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Any request to any device may fail: no wrong byte, no error but for what failed, no hang.
#
# LIVECHAIN_SECONDS=N: how long (25); LIVECHAIN_POINT=all: every request in every way (an hour: SECONDS=9000);
# LIVECHAIN_POINT=LAYOUT:N:COUNT:HOW (as a report names it): only that.
# kernels: 6.1
# timeout: 300
# races: processors that run at once
. "$(dirname "$0")/../lib-kernel.sh"
plan 1
program=$BUILD/tests/crash/disks
[ -x "$program" ] || bail "$program is not built: make tools"
load_module
require_module nbd nbds_max=4 max_part=0
cleanup_fn _remove_all
mkdir "$T/disks"
case ${LIVECHAIN_POINT:-} in
'') words=();;
all) words=(--all);;
*) words=(--only "$LIVECHAIN_POINT");;
esac
PYTHONDONTWRITEBYTECODE=1 python3 -S "$TOP/tests/iofail.py" --program "$program" --work "$T/disks" \
	--seed "$SEED" --seconds "${LIVECHAIN_SECONDS:-25}" "${words[@]}" 2>&1 | sed 's/^/# /'
ok "${PIPESTATUS[0]}" "whatever request fails, seed $SEED"
