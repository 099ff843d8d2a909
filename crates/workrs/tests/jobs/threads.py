"""Four threads that hash on from each other's results, round by round."""
import hashlib
import os
import threading
import time

steps, pause = int(os.environ["STEPS"]), float(os.environ["PAUSE"])
COUNT = 4
before = [b"%d" % i for i in range(COUNT)]
after = list(before)
barrier = threading.Barrier(COUNT)


def work(me):
    for n in range(1, steps + 1):
        mine = hashlib.sha256(before[me] + before[(me + 1) % COUNT] + b"%d" % n)
        after[me] = mine.digest()
        if barrier.wait() == 0:
            before[:] = after
            print(n, hashlib.sha256(b"".join(after)).hexdigest()[:16], flush=True)
            with open("lines", "a") as lines:
                lines.write(f"{n}\n")
        barrier.wait()
        time.sleep(pause)


threads = [threading.Thread(target=work, args=(i,)) for i in range(COUNT)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("joined", flush=True)
