"""How long a job rests when its node is killed: three members of etcd, an S3 server and three nodes on this machine."""

import contextlib
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import etcd  # noqa: F401  finds the module `cluster`, beside this folder
import cluster
import host
import rootfs
from bench import Bench
from common import Failed
from figures import Sweep, percentile
from node import Api, in_use
from paired import MEGABYTES
from tools import Work

LEASES_S = (2, 5)
# Kills of a node, and of a node together with etcd's leader; with --full more.
KILLS, KILLS_FULL = 20, 50
LEADER_KILLS, LEADER_KILLS_FULL = 5, 10
EVERY_S = 2
WORK = Work("bytes", MEGABYTES, 0.01 / EVERY_S)
DEADLINE_S = 90
POLL_S = 0.02
POOL = "3G"


@dataclass(frozen=True)
class Recovery:
    """From the kill to the job's running on another node, in seconds, and what it went by with."""

    total: float
    # From the kill until the job was queued again.
    detection: float
    # Until another node had claimed it.
    claim: float
    # Until its checkpoint was there and checked.
    fetch: float
    # Until the program ran.
    restore: float


PHASES = ("total", "detection", "claim", "fetch", "restore")


class Group(cluster.Group):
    """With a job that runs somewhere in it."""

    def __init__(self, bench: Bench, lease_s: int, stack: contextlib.ExitStack) -> None:
        self.folder = Path(bench.clean_up.scratch("recovery"))
        prefix = f"bench-{os.getpid()}"
        cluster.hold(prefix, stack)
        super().__init__(bench.workrs, self.folder, prefix, stack)
        options = ["--lease", f"{lease_s}s", "--disk-pool", POOL, "--cpus", "1", "--memory", "2G", "--json-log"]
        for node in self.nodes:
            node.options = options
        self.start()
        job = {"checkpoint": f"every={EVERY_S}s", "memory": f"{WORK.memory_mib}M", "disk": f"{WORK.disk_mib}M"}
        api = Api(self.nodes[0].address)
        self.job_id = api.submit_script(rootfs.SCRIPT, name="recovery", args=WORK.arguments, cpus=1, **job)["id"]

    def job(self) -> dict:
        """As some node that lives tells it."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            for node in filter(cluster.Node.is_running, self.nodes):
                with contextlib.suppress(OSError):
                    return cluster.fetch_json(f"{node.url}/api/v1/jobs/{self.job_id}")
            time.sleep(POLL_S)
        raise RuntimeError(f"no node tells of the job within {DEADLINE_S} s")

    def until(self, what, text: str) -> dict:
        deadline = time.monotonic() + DEADLINE_S
        while not what(job := self.job()):
            if job["state"] == "finished":
                raise RuntimeError(f"the job ended before {text}: {job['outcome_text']}; {job['attempts']}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"no {text} within {DEADLINE_S} s: {job['attempts']}")
            time.sleep(POLL_S)
        return job

    def kill_its_node(self, with_leader: bool) -> Recovery:
        """Kills the node that runs the job, waits until the job runs elsewhere, and starts the node again."""
        is_saved = lambda job: any(checkpoint["epoch"] == job["epoch"] for checkpoint in job["checkpoints"])
        before = self.until(lambda job: job["state"] == "running" and is_saved(job), "checkpoint")
        victim = next(node for node in self.nodes if node.name == before["node"])
        leader = self.leader() if with_leader else None
        if with_leader and leader is None:
            raise RuntimeError("etcd has no leader")
        killed_ms = time.time() * 1e3
        victim.signal(9)
        if leader:
            leader.signal(9)
        after = self.until(lambda job: runs_since(job, before["epoch"]), "restart")
        for program in filter(None, (victim, leader)):
            program.process.wait()
            self.start_again(program)
        victim.until(victim.is_up)
        if leader:
            leader.until(leader.is_healthy)
        return self.phases(before["epoch"], after, killed_ms)

    def phases(self, epoch: int, job: dict, killed_ms: float) -> Recovery:
        attempts = {attempt["epoch"]: attempt for attempt in job["attempts"]}
        old, new = attempts[epoch], next(one for one in job["attempts"] if one["epoch"] > epoch and "started_at" in one)
        if new["start"] == "clean":
            raise RuntimeError(f"the job was not restored but started anew: {new}")
        fetch_ms = self.fetch_ms(new)
        restore_ms = new["started_at"] - new["claimed_at"] - fetch_ms
        laps_ms = (
            new["started_at"] - killed_ms,
            old["ended_at"] - killed_ms,
            new["claimed_at"] - old["ended_at"],
            fetch_ms,
            restore_ms,
        )
        return Recovery(*(lap / 1e3 for lap in laps_ms))

    def fetch_ms(self, attempt: dict) -> float:
        """What the node's log tells of its newest restore."""
        node = next(node for node in self.nodes if node.name == attempt["node"])
        for line in reversed(node.log.read_text(errors="replace").splitlines()):
            if '"fetch_ms"' in line:
                return json.loads(line)["fetch_ms"]
        raise RuntimeError(f"the log of {node.name} does not tell how long the fetch took")

    def end(self) -> None:
        """Nothing is to be saved: the job is cancelled before the nodes stop."""
        with contextlib.suppress(RuntimeError, OSError):
            node = next(filter(cluster.Node.is_running, self.nodes))
            Api(node.address).call("POST", f"/api/v1/jobs/{self.job_id}/cancel")
            Api(node.address).job(self.job_id, wait="20s")


def runs_since(job: dict, epoch: int) -> bool:
    return job["epoch"] > epoch and any("started_at" in one for one in job["attempts"] if one["epoch"] > epoch)


def measure(bench: Bench) -> None:
    if reason := etcd.missing() or (None if shutil.which("garage") else "garage is not installed (scripts/setup.sh)"):
        raise RuntimeError(reason)
    print(f"\nThe node of a Python job of {MEGABYTES + 10} MB is killed: three nodes, three members of etcd, Garage")
    table = bench.figures.sweep("from kill -9 to running on another node")
    for lease_s in LEASES_S:
        with contextlib.ExitStack() as stack:
            try:
                measure_lease(bench, table, lease_s, stack)
            except Failed as error:
                raise RuntimeError(str(error)) from error


def measure_lease(bench: Bench, table: Sweep, lease_s: int, stack: contextlib.ExitStack) -> None:
    group = Group(bench, lease_s, stack)
    stack.push(lambda *_: tidy(group))
    stack.callback(group.end)
    kills, leader_kills = (KILLS_FULL, LEADER_KILLS_FULL) if bench.full else (KILLS, LEADER_KILLS)
    if bench.kills:
        kills, leader_kills = bench.kills, -(-bench.kills * LEADER_KILLS // KILLS)
    rounds = {False: kills, True: leader_kills}
    for with_leader, count in rounds.items():
        recovered = [group.kill_its_node(with_leader) for _ in range(count)]
        column = f"lease {lease_s} s{', etcd’s leader killed, too' if with_leader else ''}"
        limit_s = 2 * lease_s + 4 if with_leader else lease_s + 2
        show(bench, table, column, recovered, limit_s)


def show(bench: Bench, table: Sweep, column: str, recovered: list[Recovery], limit_s: float) -> None:
    table.note(column, "kills", len(recovered))
    for phase in PHASES:
        values = [getattr(recovery, phase) for recovery in recovered]
        bench.figures.values[f"{column}: {phase}"] = values
        bench.figures.units[f"{column}: {phase}"] = "s"
        table.note(column, f"{phase}, p50", percentile(values, 0.5), "s")
        table.note(column, f"{phase}, p99", percentile(values, 0.99), "s")
        table.note(column, f"{phase}, max", max(values), "s")
    p99 = percentile([recovery.total for recovery in recovered], 0.99)
    bench.figures.goal(f"recovery, {column}: p99 under {limit_s} s, measured {p99:.2f}", p99 < limit_s)


def tidy(group: Group) -> None:
    """After everything has ended: waits until the guards have let go of the disks, too."""
    deadline = time.monotonic() + 30
    while in_use(str(group.folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for node in group.nodes:
        host.remove_cgroups(f"workrs/{node.name}")
    shutil.rmtree(group.folder, ignore_errors=True)
