"""Holds a POSIX message queue, which CRIU cannot dump, for a few seconds."""
import ctypes
import time

queue = ctypes.CDLL("librt.so.1").mq_open(b"/queue", 0o102, 0o600, None)
assert queue >= 0
print("holds a message queue", flush=True)
time.sleep(6)
print("done", flush=True)
