"""Holds 40 MB that do not compress and changes a little of it while it counts; says in the end whether all is there."""
import hashlib
import os
import random
import time

generator = random.Random(int(os.environ.get("SEED", "1")))
pages = [bytearray(generator.randbytes(4096)) for _ in range(10_000)]
with open("lines", "w") as lines:
    for n in range(1, int(os.environ["STEPS"]) + 1):
        pages[n % len(pages)][:8] = n.to_bytes(8, "little")
        print(n, flush=True)
        lines.write(f"{n}\n")
        lines.flush()
        time.sleep(float(os.environ["PAUSE"]))
print(hashlib.sha256(b"".join(pages)).hexdigest())
