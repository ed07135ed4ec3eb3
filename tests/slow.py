# SPDX-License-Identifier: GPL-2.0-or-later
"""LIVECHAIN_SLOW=MS: who tests and who is tested take their time, at random (userspace/lib/fault.h)."""
import os
import random
import time

LIMIT = float(os.environ.get("LIVECHAIN_SLOW", 0)) / 1000


def pause():
    """One time of 16 up to that long, else up to a 32nd of it."""
    if LIMIT:
        time.sleep(random.random() * LIMIT / (32 if random.randrange(16) else 1))
