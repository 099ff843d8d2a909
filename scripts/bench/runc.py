"""A peer: a bundle under plain runc, without anything around it."""

import json
import os
import select
import shutil

import host
import process
from rootfs import Root
from tools import Checkpoint, Restore, Tool, Work

CGROUP = "workrs-bench-runc"
# As Workrs calls it.
CRIU_OPTIONS = ["--tcp-established", "--ext-unix-sk", "--file-locks"]
TIMEOUT_S = 300


class RuncJob(Tool):
    """Checkpoints to a folder on the local disk and restores from it; the wall time of the command counts."""

    name = "runc"
    counts = "the largest process of the command"

    def __init__(self, clean_up: host.CleanUp, root: Root) -> None:
        super().__init__()
        self._folder = clean_up.scratch("runc")
        self._root = root
        self._id = os.path.basename(self._folder)
        # CRIU dumps standard output only if it is a pipe (or /dev/null).
        self._reader, self._writer = os.pipe()
        self._log = b""
        self._peak_mib = 0.0
        clean_up.add(self.remove)

    def start(self, work: Work) -> None:
        self._write_bundle(work)
        self._call("run", "--detach", "--bundle", self._folder, self._id)
        self.wait_ready()

    def _write_bundle(self, work: Work) -> None:
        process.run(["runc", "spec", "--bundle", self._folder])
        path = f"{self._folder}/config.json"
        with open(path, encoding="utf-8") as file:
            spec = json.load(file)
        spec["process"] |= {"terminal": False, "args": work.command(), "cwd": "/job"}
        # The default asks for more than an unprivileged node may raise.
        spec["process"].pop("rlimits", None)
        spec["root"] = {"path": self._root.folder, "readonly": True}
        spec["mounts"] = [mount for mount in spec["mounts"] if not mount["destination"].startswith("/sys")]
        spec["linux"]["cgroupsPath"] = f"/{CGROUP}/{self._id}"
        spec["linux"]["resources"]["memory"] = {"limit": work.memory_mib << 20}
        with open(path, "w", encoding="utf-8") as file:
            json.dump(spec, file)

    def _call(self, *arguments: str) -> process.Done:
        command = ["runc", "--root", f"{self._folder}/state", *arguments]
        # The container inherits both.
        try:
            called = f"runc {arguments[0]}"
            return process.run(command, TIMEOUT_S, called, stdout=self._writer, stderr=self._writer)
        except RuntimeError as error:
            raise RuntimeError(f"{error} {self.log()[-400:].strip()}") from error

    def log(self) -> str:
        while select.select([self._reader], [], [], 0)[0]:
            self._log += os.read(self._reader, 1 << 16)
        return self._log.decode(errors="replace")

    def checkpoint(self) -> Checkpoint:
        shutil.rmtree(self._images, ignore_errors=True)
        images = ["--image-path", self._images, "--work-path", f"{self._folder}/work"]
        done = self._measured("checkpoint", "--leave-running", *images, *CRIU_OPTIONS, self._id)
        written = host.folder_bytes(self._images)
        return Checkpoint(done.took_ms, written, gap_ms=self.longest_gap())

    @property
    def _images(self) -> str:
        return f"{self._folder}/images"

    def restore(self) -> Restore:
        self._call("delete", "--force", self._id)
        before = self.log()
        images = ["--image-path", self._images, "--work-path", f"{self._folder}/work"]
        done = self._measured("restore", "--detach", "--bundle", self._folder, *images, *CRIU_OPTIONS, self._id)
        self.wait_alive(before)
        return Restore(done.took_ms)

    def _measured(self, *arguments: str) -> process.Done:
        done = self._call(*arguments)
        self._peak_mib = max(self._peak_mib, done.peak_mib)
        return done

    def reset_peak(self) -> None:
        self._peak_mib = 0.0

    def peak_mib(self) -> float:
        return self._peak_mib

    def remove(self) -> None:
        if os.path.exists(f"{self._folder}/state/{self._id}"):
            self._call("delete", "--force", self._id)
        host.remove_cgroups(CGROUP)
        shutil.rmtree(self._folder, ignore_errors=True)
