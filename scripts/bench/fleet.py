"""Groups of pretended nodes on a real etcd: how many jobs they take and finish a second, and what grows with them.

The nodes are real but for their engine, and live in one process: crates/workrs/examples/group_bench.
"""

import json
import os
import resource
import subprocess
import time
from pathlib import Path

import process
from bench import Bench
from etcd import Etcd, missing
from figures import MIB, Sweep

ROOT = Path(__file__).resolve().parent.parent.parent
CARGO = ["--quiet", "--release", "--locked", "--package", "workrs", "--example", "group_bench"]
BUILD_TIMEOUT_S = 1800
# Jobs that a node takes all at once, and jobs that take a core each.
TINY_MILLI, WHOLE_MILLI = 10, 1000
GROUPS = (1, 3, 10)
JOBS = 3000
SUBMITS_GOAL, JOBS_GOAL = 500, 300
IDLE_S = 10
# Of groups, and of queues before the largest group.
NODES = (10, 100, 1_000)
QUEUED, QUEUED_FULL = (1_000, 10_000), (1_000, 10_000, 100_000)


class Fleet:
    """The process with the nodes, which does as it is told."""

    def __init__(self, bench: Bench, state: str) -> None:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        folder = bench.clean_up.scratch("fleet")
        self._log = Path(folder, "log")
        with self._log.open("wb") as log:
            command = ["setpriv", "--pdeathsig", "KILL", "--", program(bench), state, fast_folder(bench, folder)]
            environment = {"WORKRS_LOG": "error"} | dict(os.environ)
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
            self._process = subprocess.Popen(command, **pipes, text=True, env=environment)
        bench.clean_up.add(self.stop)

    def ask(self, command: str) -> dict:
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or '{"error": "the process with the nodes has ended"}')
        if "error" in answer:
            raise RuntimeError(f"{command}: {answer['error']}; {self._log.read_text(errors='replace')[-500:]}")
        return answer

    def resident_mib(self) -> float:
        return process.status_mib(self._process.pid, "VmRSS")

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def fast_folder(bench: Bench, otherwise: str) -> str:
    """In memory where there is room: a disk's speed is not of interest where nodes only pretend to use it."""
    return bench.clean_up.scratch("fleet", "/dev/shm") if os.path.isdir("/dev/shm") else otherwise


def program(bench: Bench) -> str:
    if bench.group_bench is None:
        process.run(["cargo", "build", *CARGO], BUILD_TIMEOUT_S, "cargo build --example group_bench", cwd=ROOT)
        target = os.environ.get("CARGO_TARGET_DIR", ROOT / "target")
        bench.group_bench = os.path.join(target, "release/examples/group_bench")
    return bench.group_bench


def require_etcd() -> None:
    if reason := missing():
        raise RuntimeError(reason)


def rate(count: int, answer: dict, key: str = "seconds") -> float:
    return count / max(answer[key], 1e-9)


# --- throughput -----------------------------------------------------------------------------------------------------


def measure_throughput(bench: Bench) -> None:
    require_etcd()
    print("\nSubmits, claims and jobs that do nothing, on three members of etcd (pretended engine)")
    table, etcd = bench.figures.sweep("a second, on three members of etcd"), Etcd(bench.clean_up)
    slowest = {"submits": float("inf"), "jobs": float("inf")}
    for nodes in GROUPS:
        fleet = Fleet(bench, etcd.state(f"throughput-{nodes}"))
        try:
            fleet.ask(f"nodes {nodes}")
            submits, jobs = measure_group(etcd, fleet, table, f"{nodes} node{'s' if nodes > 1 else ''}")
        finally:
            fleet.stop()
        slowest = {"submits": min(submits, slowest["submits"]), "jobs": min(jobs, slowest["jobs"])}
    etcd.stop()
    for what, goal in {"submits": SUBMITS_GOAL, "jobs": JOBS_GOAL}.items():
        name = {"submits": "submits over HTTP", "jobs": "no-op jobs from submit to finished"}[what]
        text = f"{name} a second on etcd, the slowest of groups of {', '.join(map(str, GROUPS))}: at least {goal}"
        bench.figures.goal(f"{text}, measured {slowest[what]:.0f}", slowest[what] >= goal)


def measure_group(etcd: Etcd, fleet: Fleet, table: Sweep, group: str) -> tuple[float, float]:
    """Gives submits and jobs a second, as users see them."""

    def note_writes(name: str, answer: dict) -> float:
        table.note(group, name, rate(JOBS, answer), "/s")
        table.note(group, f"{name}, p50", answer["p50_ms"], "ms")
        table.note(group, f"{name}, p99", answer["p99_ms"], "ms")
        return rate(JOBS, answer)

    puts = note_writes("bare puts of a record's size, 64 at once", fleet.ask(f"put {JOBS}"))
    fleet.ask("hold")
    submits = note_writes("submits into the state, 64 at once", fleet.ask(f"submit {JOBS} {TINY_MILLI}"))
    table.note(group, "these submits / bare puts", submits / puts, "×")
    fleet.ask("release")
    drained = fleet.ask("drain")
    table.note(group, "claims, of jobs that all fit", rate(drained["claimed"], drained, "claim_seconds"), "/s")
    fleet.ask("hold")
    posts = note_writes("submits over HTTP, 64 at once", fleet.ask(f"post {JOBS} {WHOLE_MILLI}"))
    fleet.ask("release")
    fleet.ask("drain")
    before, began = etcd.load(), time.monotonic()
    fleet.ask(f"post {JOBS} {WHOLE_MILLI}")
    fleet.ask("drain")
    took, load = time.monotonic() - began, etcd.load().since(before)
    table.note(group, "no-op jobs, first submit over HTTP to last finished", JOBS / took, "/s")
    table.note(group, "requests to etcd for each such job", load.requests / JOBS)
    table.note(group, "etcd's processor time for each, three members", load.cpu_s / JOBS * 1e3, "ms")
    return posts, JOBS / took


# --- scale ----------------------------------------------------------------------------------------------------------


def measure_scale(bench: Bench) -> None:
    require_etcd()
    sizes, queues = NODES, QUEUED_FULL if bench.full else QUEUED
    print(f"\nUp to {sizes[-1]:,} nodes and {queues[-1]:,} queued jobs (pretended engine, three members of etcd)")
    etcd = Etcd(bench.clean_up)
    fleet = Fleet(bench, etcd.state("scale"))
    try:
        measure_nodes(etcd, fleet, bench.figures.sweep("idle nodes"), sizes)
        table = bench.figures.sweep(f"jobs queued, {sizes[-1]:,} busy nodes")
        for jobs in queues:
            began = time.monotonic()
            fleet.ask("hold")
            print(f"  each node has a job that takes all of it, after {time.monotonic() - began:.1f} s")
            measure_queue(etcd, fleet, table, sizes[-1], jobs)
    finally:
        fleet.stop()
        etcd.stop()


def measure_nodes(etcd: Etcd, fleet: Fleet, table: Sweep, sizes: tuple[int, ...]) -> None:
    empty_mib = fleet.resident_mib()
    for nodes in sizes:
        column = f"{nodes:,}"
        table.note(column, "started within", fleet.ask(f"nodes {nodes}")["seconds"], "s")
        time.sleep(settling_s(nodes))
        note_rest(etcd, fleet, table, column, nodes)
        table.note(column, "memory of each", (fleet.resident_mib() - empty_mib) / nodes * 1024, "KiB")
        table.note(column, "etcd's memory, three members", etcd.memory_mib(), "MiB")


def settling_s(nodes: int) -> float:
    """Until the newest node has looked round and noted that it is up."""
    return 8 + nodes / 100


def note_rest(etcd: Etcd, fleet: Fleet, table: Sweep, column: str, nodes: int) -> None:
    """What a while of rest costs etcd and the nodes."""
    before, cpu_before = etcd.load(), fleet.cpu_s()
    time.sleep(IDLE_S)
    load, cpu_s = etcd.load().since(before), fleet.cpu_s() - cpu_before
    table.note(column, "at rest: requests to etcd, of each node", load.requests / IDLE_S / nodes, "/s")
    table.note(column, "at rest: bytes to and from etcd, of each node", load.bytes / IDLE_S / nodes, "B/s")
    table.note(column, "at rest: writes to etcd, of all nodes", load.revisions / IDLE_S, "/s")
    table.note(column, "at rest: etcd's processors, three members", 100 * load.cpu_s / IDLE_S, "% of a core")
    table.note(column, "at rest: processors of all nodes", 100 * cpu_s / IDLE_S, "% of a core")


def measure_queue(etcd: Etcd, fleet: Fleet, table: Sweep, nodes: int, jobs: int) -> None:
    column, memory_mib, before = f"{jobs:,}", fleet.resident_mib(), etcd.load()
    submits = fleet.ask(f"submit {jobs} {WHOLE_MILLI}")
    table.note(column, "submits", rate(jobs, submits), "/s")
    table.note(column, "requests to etcd for a submit", etcd.load().since(before).requests / jobs)
    table.note(column, "record and index keys of each", fleet.ask("records 100")["bytes"], "B")
    time.sleep(2)
    table.note(column, "memory of each, in all nodes", (fleet.resident_mib() - memory_mib) / jobs * 1024, "KiB")
    note_rest(etcd, fleet, table, column, nodes)
    before, cpu_before, began = etcd.load(), fleet.cpu_s(), time.monotonic()
    fleet.ask("release")
    drained = fleet.ask("drain")
    took, load = time.monotonic() - began, etcd.load().since(before)
    table.note(column, "drained within", took, "s")
    table.note(column, "jobs finished", rate(drained["finished"], drained, "finish_seconds"), "/s")
    table.note(column, "requests to etcd for each", load.requests / jobs)
    table.note(column, "bytes to and from etcd for each", load.bytes / jobs / 1024, "KiB")
    table.note(column, "etcd's processor time for each, three members", load.cpu_s / jobs * 1e3, "ms")
    table.note(column, "processor time of the nodes for each", (fleet.cpu_s() - cpu_before) / jobs * 1e3, "ms")
    table.note(column, "etcd's database, of one member", etcd.load().database_bytes / MIB, "MiB")
    table.note(column, "etcd's memory, three members", etcd.memory_mib(), "MiB")
    table.note(column, "memory of all nodes", fleet.resident_mib(), "MiB")
