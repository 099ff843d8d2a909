"""Forks children and waits for them: some at once, some late as zombies (below 128, as CRIU cannot restore others), one
that lives as long as the job."""
import os
import time

steps, pause = int(os.environ["STEPS"]), float(os.environ["PAUSE"])


def child(code):
    pid = os.fork()
    if pid == 0:
        time.sleep(pause / 2)
        os._exit(code)
    return pid


def code(pid):
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


reader, writer = os.pipe()
lasting = os.fork()
if lasting == 0:
    os.close(writer)
    total = 0
    while line := os.read(reader, 4):
        total += int.from_bytes(line, "little")
    with open("total", "w") as file:
        file.write(f"{total}\n")
    os._exit(total % 256)
os.close(reader)
zombie = child(0)
for n in range(1, steps + 1):
    pids = [child((n * i) % 256) for i in range(1, 4)]
    os.write(writer, n.to_bytes(4, "little"))
    late, zombie = zombie, child(n % 128)
    print(n, [code(pid) for pid in pids], code(late), flush=True)
os.close(writer)
print("last", code(zombie), code(lasting), flush=True)
