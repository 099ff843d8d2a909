"""Holds MEGABYTES of random content, changes a little of it each step, and prints the hash of all at the end."""
import hashlib
import os
import random
import time

steps, pause = int(os.environ["STEPS"]), float(os.environ["PAUSE"])
BLOCK = 1 << 20
source = random.Random(7)
blocks = [bytearray(source.randbytes(BLOCK)) for _ in range(int(os.environ["MEGABYTES"]))]
for n in range(1, steps + 1):
    block, at = source.randrange(len(blocks)), source.randrange(BLOCK - 4096)
    blocks[block][at : at + 4096] = source.randbytes(4096)
    print(n, block, at, flush=True)
    time.sleep(pause)
whole = hashlib.sha256()
for block in blocks:
    whole.update(block)
print(whole.hexdigest(), flush=True)
