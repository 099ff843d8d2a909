"""A peer: podman with runc and CRIU, with storage of its own."""

import os
import resource
import subprocess
import time

import host
import process
from rootfs import Root
from tools import Checkpoint, Restore, Tool, Work

IMAGE = "workrs-bench"
LOCKS = "/dev/shm/libpod_lock"
TIMEOUT_S = 300
# Its own defaults are above what an unprivileged node may raise, and then no container starts.
OPEN_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
LIMITS = ["--network", "none", "--ulimit", f"nofile={OPEN_FILES}:{OPEN_FILES}", "--ulimit", "nproc=4096:4096"]


class Podman:
    """Podman, with an image of the shared root."""

    def __init__(self, clean_up: host.CleanUp, root: Root) -> None:
        self.folder = clean_up.scratch("podman")
        had_locks = os.path.exists(LOCKS)
        clean_up.add(lambda: self._remove(had_locks))
        self._command = ["podman", "--root", f"{self.folder}/storage", "--runroot", f"{self.folder}/run"]
        self._command += ["--tmpdir", f"{self.folder}/tmp", "--runtime", "runc", "--cgroup-manager", "cgroupfs"]
        self._command += ["--events-backend", "none", "--log-level", "error"]
        self.call("import", "--quiet", root.archive, IMAGE)

    def call(self, *arguments: str) -> process.Done:
        return process.run([*self._command, *arguments], TIMEOUT_S, " ".join(["podman", *arguments[:2]]))

    def run_true(self) -> float:
        """Milliseconds of a container that does nothing."""
        return self.call("run", "--rm", *LIMITS, IMAGE, "true").took_ms

    def _remove(self, had_locks: bool) -> None:
        self.call("rm", "--all", "--force", "--time", "0")
        self.call("rmi", "--all", "--force")
        subprocess.run(["umount", f"{self.folder}/storage/overlay"], capture_output=True, check=False)
        host.remove_cgroups("libpod_parent")
        if not had_locks and os.path.exists(LOCKS):
            os.remove(LOCKS)


class PodmanJob(Tool):
    """Exports checkpoints to an archive and imports them; the wall time of the command counts."""

    name = "podman"
    counts = "the largest process of the command"

    def __init__(self, podman: Podman) -> None:
        super().__init__()
        self._podman = podman
        self._container = f"job-{time.monotonic_ns()}"
        self._archive = f"{podman.folder}/{self._container}.tar"
        self._peak_mib = 0.0

    def start(self, work: Work) -> None:
        limits = [*LIMITS, "--memory", f"{work.memory_mib}m", "--cpus", "1", "--workdir", "/job"]
        self._podman.call("run", "--detach", "--name", self._container, *limits, IMAGE, *work.command())
        self.wait_ready()

    def log(self) -> str:
        return self._podman.call("logs", self._container).output

    def checkpoint(self) -> Checkpoint:
        done = self._measured("checkpoint", self._container, "--export", self._archive, "--leave-running")
        exported = os.path.getsize(self._archive)
        return Checkpoint(done.took_ms, exported, gap_ms=self.longest_gap())

    def restore(self) -> Restore:
        self._podman.call("rm", "--force", "--time", "0", self._container)
        done = self._measured("restore", "--import", self._archive)
        self._read = 0  # its log starts anew
        self.wait_alive()
        return Restore(done.took_ms)

    def _measured(self, *arguments: str) -> process.Done:
        done = self._podman.call("container", *arguments)
        self._peak_mib = max(self._peak_mib, done.peak_mib)
        return done

    def reset_peak(self) -> None:
        self._peak_mib = 0.0

    def peak_mib(self) -> float:
        return self._peak_mib

    def remove(self) -> None:
        self._podman.call("rm", "--force", "--ignore", "--time", "0", self._container)
        if os.path.exists(self._archive):
            os.remove(self._archive)
