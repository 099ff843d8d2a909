"""Commands and processes: how long they take and how much memory they use."""

import os
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Done:
    """A command that has ended well."""

    output: str
    took_ms: float
    # Of the largest process among the command and those it waited for.
    peak_mib: float


def run(command: list[str], timeout_s: float = 120, called: str | None = None, **options) -> Done:
    """Runs a command to its end; raises RuntimeError with its last words if it fails or takes too long."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": errors}
        began = time.monotonic()
        process = subprocess.Popen(command, **(streams | options))
        watchdog = threading.Timer(timeout_s, os.kill, (process.pid, signal.SIGKILL))
        watchdog.start()
        try:
            # Not process.wait(), as that does not tell what was used.
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            watchdog.cancel()
        took_ms = (time.monotonic() - began) * 1e3
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = [read_all(file) for file in (output, errors)]
    if process.returncode != 0:
        late = f"took longer than {timeout_s:.0f} s; " if process.returncode == -signal.SIGKILL else ""
        raise RuntimeError(f"{called or os.path.basename(command[0])}: {late}{(texts[1] or texts[0]).strip()[-400:]}")
    return Done(texts[0].strip(), took_ms, usage.ru_maxrss / 1024)


def read_all(file) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def end(process: subprocess.Popen | None, grace_s: float = 20) -> None:
    """Ends a process that this one started: asks, then insists."""
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# --- memory ---------------------------------------------------------------------------------------------------------


def status_mib(pid: int, field: str) -> float:
    """A figure of /proc/PID/status; 0 once the process has ended."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def peak_mib(pids: list[int]) -> float:
    """The most memory (VmHWM) that each of them held since the last reset, summed up."""
    return sum(status_mib(pid, "VmHWM") for pid in pids)


def reset_peak(pids: list[int]) -> None:
    for pid in pids:
        with open(f"/proc/{pid}/clear_refs", "w", encoding="ascii") as file:
            file.write("5")


class HelperWatch:
    """Samples the memory of a process together with its helpers: the descendants in its own PID namespace.

    Jobs, being in namespaces of their own, do not count. What is shared between processes counts in each.
    """

    INTERVAL_S = 0.05

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._namespace = pid_namespace(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.peak_mib = 0.0

    def __enter__(self) -> "HelperWatch":
        self._thread.start()
        return self

    def __exit__(self, *_error) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(self.INTERVAL_S):
            family = [pid for pid in descendants(self._pid) if pid_namespace(pid) == self._namespace]
            self.peak_mib = max(self.peak_mib, sum(status_mib(pid, "VmRSS") for pid in [self._pid, *family]))


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as children:
                found += map(int, children.read().split())
    except OSError:
        pass  # it has ended
    return found + [below for child in found for below in descendants(child)]


def pid_namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""
