"""Has what CRIU cannot restore for a few seconds: a POSIX message queue, or a child that exited with 200."""
import ctypes
import os
import sys
import time

if sys.argv[1] == "queue":
    assert ctypes.CDLL("librt.so.1").mq_open(b"/queue", 0o102, 0o600, None) >= 0
    time.sleep(6)
else:
    child = os.fork()
    if child == 0:
        os._exit(200)
    time.sleep(6)
    print("waited for", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print("done")
