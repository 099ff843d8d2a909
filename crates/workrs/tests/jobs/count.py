"""Prints 1 to STEPS and writes each line to a file."""
import os
import time

steps, pause = int(os.environ["STEPS"]), float(os.environ["PAUSE"])
with open("lines", "w") as lines:
    for n in range(1, steps + 1):
        print(n, flush=True)
        lines.write(f"{n}\n")
        lines.flush()
        time.sleep(pause)
