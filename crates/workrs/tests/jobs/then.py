"""Runs long enough to be killed and resumed, then ends as THEN says."""
import os
import signal
import time


def attempt():
    with open("/run/workrs/attempt") as file:
        return int(file.read())


print("started", flush=True)
held = bytearray()
while attempt() == 1:
    time.sleep(0.05)
print("resumed", flush=True)
then = os.environ["THEN"]
if then == "exit":
    raise SystemExit(7)
if then == "signal":
    os.kill(os.getpid(), signal.SIGSEGV)
if then == "memory":
    while True:
        held.extend(b"x" * (1 << 20))
if then == "disk":
    with open("big", "wb") as file:
        while True:
            file.write(os.urandom(1 << 16))
            file.flush()
time.sleep(1000)
