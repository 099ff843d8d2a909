"""Forks until it may not, and keeps trying."""
import os
import time

top = os.getpid()
while True:
    try:
        os.fork()
    except OSError as error:
        if os.getpid() == top:
            print("no more processes:", error, flush=True)
            time.sleep(0.5)
        else:
            time.sleep(0.05)
