"""What all parts of the benchmark share: the tools that this host has, and the figures."""

import shutil

import docker
import host
import rootfs
from docker import Docker, DockerJob
from figures import Figures
from node import Node
from podman import Podman, PodmanJob
from runc import RuncJob
from tools import Tool
from workrs import WorkrsJob

# In the order in which they are measured.
TOOLS = ["workrs", "workrs-docker", "podman", "docker"]
# Twice the disk of the largest job, and room for what is being deleted.
DISK_POOL = "6G"
# What the copy of the host's programs may take.
FIRST_JOB_WAIT = "120s"


class Bench:
    """Prepares each peer once; why one cannot be measured is in `lacking`."""

    def __init__(self, workrs: str, rounds: int, tools: list[str], full: bool, group_bench: str | None,
                 kills: int | None) -> None:
        self.workrs = workrs
        self.rounds = rounds
        self.kills = kills
        self.tools = tools
        self.full = full
        # The example program of that name; None: it is to be built.
        self.group_bench = group_bench
        self.figures = Figures()
        self.clean_up = host.CleanUp()
        self.lacking: dict[str, str] = {}
        self.podman: Podman | None = None
        self.docker: Docker | None = None
        self.root: rootfs.Root
        # By engine.
        self._nodes: dict[str, Node] = {}

    def prepare(self) -> None:
        self.root = rootfs.Root(self.clean_up)
        self.podman = self._prepare("podman", podman_missing, Podman)
        self.docker = self._prepare("docker", docker.missing, lambda *host: Docker(*host, self.workrs))
        if not self.docker and "workrs-docker" in self.tools:
            self.lacking["workrs-docker"] = self.lacking.get("docker", "it runs beside docker: name that tool, too")

    def _prepare(self, name: str, missing, make):
        if name not in self.tools:
            return None
        try:
            reason = missing()
            if not reason:
                return make(self.clean_up, self.root)
        except (RuntimeError, OSError) as error:
            reason = str(error)
        self.lacking[name] = reason
        self.figures.fail(f"{name}: {reason}")
        return None

    def fresh_node(self, engine: str = "runc") -> Node:
        """One that nothing has run on but a first job."""
        options = ["--engine", engine]
        if engine == "docker":
            assert self.docker, "the node needs the daemon"
            options += ["--docker-socket", self.docker.socket]
        node = Node(self.workrs, self.clean_up, DISK_POOL, *options)
        node.start()
        api = node.api()
        # It waits for the copy of the host's programs.
        api.job(api.submit(command=["true"])["id"], wait=FIRST_JOB_WAIT)
        return node

    def node(self, engine: str = "runc") -> Node:
        """The one that the parts share, as it takes some time to set one up; its process is fresh each time."""
        node = self._nodes.get(engine)
        if node and node.exists():
            node.kill()
            node.start()
        else:
            self._nodes[engine] = self.fresh_node(engine)
        return self._nodes[engine]

    def workrs_job(self, every_s: float, engine: str = "runc") -> WorkrsJob:
        return WorkrsJob(self.node(engine), rootfs.SCRIPT, every_s, self.root.program)

    def job(self, tool: str, every_s: float) -> Tool:
        """A job under the tool, not started yet; RuntimeError says why there is none."""
        if tool in self.lacking:
            raise RuntimeError(self.lacking[tool])
        if tool == "workrs":
            return self.workrs_job(every_s)
        if tool == "workrs-docker":
            return self.workrs_job(every_s, "docker")
        if tool == "podman":
            return PodmanJob(self.podman)
        if tool == "docker":
            return DockerJob(self.docker)
        return RuncJob(self.clean_up, self.root)


def podman_missing() -> str | None:
    return None if shutil.which("podman") else "podman is not installed (scripts/setup.sh --bench)"
