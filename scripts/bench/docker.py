"""A peer: Docker Engine with CRIU, by daemons of its own that leave a Docker of the host alone."""

import json
import os
import shutil
import subprocess
import time

import host
import process
from rootfs import Root
from tools import Checkpoint, Restore, Tool, Work

IMAGE = "workrs-bench"
CGROUP = "workrs-bench-docker"
# Made by dockerd when it lacks one.
KEY = "/etc/docker/key.json"
START_DEADLINE_S = 60
TIMEOUT_S = 300


class Docker:
    """containerd and dockerd in a folder of their own, without network, with an image of the shared root."""

    def __init__(self, clean_up: host.CleanUp, root: Root, workrs: str) -> None:
        self.folder = clean_up.scratch("docker")
        # What nodes of Workrs need of it.
        self._runtimes = {"workrs": {"path": workrs, "runtimeArgs": ["internal", "runtime"]}}
        self._daemons: list[subprocess.Popen] = []
        had_key = os.path.exists(KEY)
        clean_up.add(lambda: self._remove(had_key))
        self.socket = f"{self.folder}/docker.sock"
        self._address = f"unix://{self.socket}"
        self._start_containerd()
        self._start_dockerd()
        self.call("import", root.archive, IMAGE)

    def call(self, *arguments: str) -> process.Done:
        command = ["docker", "--config", f"{self.folder}/config", "--host", self._address, *arguments]
        return process.run(command, TIMEOUT_S, " ".join(["docker", *arguments[:2]]))

    @property
    def pids(self) -> list[int]:
        return [daemon.pid for daemon in self._daemons]

    @property
    def data(self) -> str:
        return f"{self.folder}/data"

    def _start_containerd(self) -> None:
        """Its own, as dockerd would otherwise use one that serves the host."""
        address = f"{self.folder}/containerd.sock"
        config = f"{self.folder}/containerd.toml"
        with open(config, "w", encoding="utf-8") as out:
            out.write(
                f'version = 2\nroot = "{self.folder}/containerd"\nstate = "{self.folder}/containerd-state"\n'
                'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
                f'[grpc]\naddress = "{address}"\n'
                f'[plugins."io.containerd.internal.v1.opt"]\npath = "{self.folder}/opt"\n'
            )
        self._start("containerd", ["--config", config], lambda: os.path.exists(address))

    def _start_dockerd(self) -> None:
        config = f"{self.folder}/daemon.json"
        with open(config, "w", encoding="utf-8") as out:
            json.dump({"experimental": True, "cgroup-parent": f"/{CGROUP}", "runtimes": self._runtimes}, out)
        options = ["--config-file", config, "--data-root", self.data, "--exec-root", f"{self.folder}/run"]
        options += ["--containerd", f"{self.folder}/containerd.sock", "--pidfile", f"{self.folder}/docker.pid"]
        options += ["--host", self._address]
        options += ["--bridge=none", "--iptables=false", "--ip6tables=false"]
        self._start("dockerd", options, self._answers)

    def _answers(self) -> bool:
        try:
            self.call("version")
        except RuntimeError:
            return False
        return True

    def _start(self, program: str, options: list[str], is_up) -> None:
        log_path = f"{self.folder}/{program}.log"
        with open(log_path, "wb") as log:
            command = [program, *options]
            daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._daemons.append(daemon)
        deadline = time.monotonic() + START_DEADLINE_S
        while not is_up():
            if daemon.poll() is not None or time.monotonic() > deadline:
                with open(log_path, encoding="utf-8", errors="replace") as log:
                    raise RuntimeError(f"{program} does not start; its log ends: {log.read()[-400:].strip()}")
            time.sleep(0.1)

    def _remove(self, had_key: bool) -> None:
        try:
            if len(self._daemons) == 2 and self._answers():
                for container in self.call("ps", "--all", "--quiet").output.split():
                    self.call("rm", "--force", container)
        finally:
            for daemon in reversed(self._daemons):
                process.end(daemon)
            host.remove_cgroups(CGROUP)
            if not had_key and os.path.exists(KEY):
                os.remove(KEY)


class DockerJob(Tool):
    """Checkpoints to the daemon's own folder and starts from there; the wall time of the command counts.

    A checkpoint holds memory only: the container's files are those of the moment of the restore.
    """

    name = "Docker"
    counts = "dockerd and containerd"
    note = "holds no files"

    def __init__(self, docker: Docker) -> None:
        super().__init__()
        self._docker = docker
        self._container = ""
        self._taken = 0

    def start(self, work: Work) -> None:
        limits = ["--network", "none", "--memory", f"{work.memory_mib}m", "--cpus", "1", "--workdir", "/job"]
        self._container = self._docker.call("run", "--detach", *limits, IMAGE, *work.command()).output
        self.wait_ready()

    def log(self) -> str:
        return self._docker.call("logs", self._container).output

    def checkpoint(self) -> Checkpoint:
        self._taken += 1
        done = self._docker.call("checkpoint", "create", "--leave-running", self._container, f"c{self._taken}")
        if os.path.exists(self._path(self._taken - 1)):
            self._docker.call("checkpoint", "rm", self._container, f"c{self._taken - 1}")
        written = host.folder_bytes(self._path(self._taken))
        return Checkpoint(done.took_ms, written, gap_ms=self.longest_gap())

    def _path(self, checkpoint: int) -> str:
        return f"{self._docker.data}/containers/{self._container}/checkpoints/c{checkpoint}"

    def restore(self) -> Restore:
        self._docker.call("kill", self._container)
        self._docker.call("wait", self._container)
        before = self.log()
        done = self._docker.call("start", "--checkpoint", f"c{self._taken}", self._container)
        self.wait_alive(before)
        return Restore(done.took_ms)

    def reset_peak(self) -> None:
        process.reset_peak(self._docker.pids)

    def peak_mib(self) -> float:
        return process.peak_mib(self._docker.pids)

    def remove(self) -> None:
        if self._container:
            self._docker.call("rm", "--force", self._container)


def missing() -> str | None:
    """What of Docker this host lacks."""
    lacks = [program for program in ("dockerd", "containerd", "docker") if not shutil.which(program)]
    return f"{', '.join(lacks)} not installed (scripts/setup.sh --bench)" if lacks else None
