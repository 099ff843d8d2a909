"""The measured job: holds some memory, changes a little of it all the time, and tells when it stood still.

usage: job.py MEGABYTES
"""

import os
import sys
import time

PAGE = 4096
# As much of the memory changes again and again.
CHANGING_PAGES = 512
PAUSE_S = 0.005
# Longer than what a busy machine's scheduler makes of the pause.
STOOD_STILL_MS = 40


def main(megabytes: int) -> None:
    memory = bytearray()
    for _ in range(megabytes):
        memory += os.urandom(1 << 20)
    print("ready", flush=True)
    turn = 0
    before = time.monotonic()
    while True:
        turn += 1
        at = turn * 7 % CHANGING_PAGES * PAGE
        memory[at : at + PAGE] = os.urandom(PAGE)
        time.sleep(PAUSE_S)
        now = time.monotonic()
        gap_ms = (now - before) * 1e3
        if gap_ms > STOOD_STILL_MS:
            print(f"stood still {gap_ms:.1f}", flush=True)
        before = now


main(int(sys.argv[1]))
