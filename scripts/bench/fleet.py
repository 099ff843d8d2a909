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
from etcd import Etcd, Load, missing
from figures import MIB

ROOT = Path(__file__).resolve().parent.parent.parent
CARGO = ["--quiet", "--release", "--locked", "--package", "workrs", "--example", "group_bench"]
BUILD_TIMEOUT_S = 1800
# Jobs that a node takes all at once, and jobs that take a core each.
TINY_MILLI, WHOLE_MILLI = 10, 1000
GROUPS = (1, 3, 10)
JOBS = 3000
SUBMITS_GOAL, JOBS_GOAL = 500, 300
IDLE_S = 10


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
    print("\nSubmits, claims and jobs that do nothing, a second, on three members of etcd (pretended engine)")
    figures, etcd = bench.figures, Etcd(bench.clean_up)
    least: dict[str, list[float]] = {"submits": [], "jobs": []}
    for nodes in GROUPS:
        fleet = Fleet(bench, etcd.state(f"throughput-{nodes}"))
        try:
            fleet.ask(f"nodes {nodes}")
            measure_group(bench, etcd, fleet, nodes, least)
        finally:
            fleet.stop()
    etcd.stop()
    for what, goal in {"submits": SUBMITS_GOAL, "jobs": JOBS_GOAL}.items():
        slowest = min(least[what])
        named = "submits" if what == "submits" else "jobs that do nothing, end to end,"
        figures.goal(f"{named} a second on etcd: at least {goal}, measured {slowest:.0f}", slowest >= goal)


def measure_group(bench: Bench, etcd: Etcd, fleet: Fleet, nodes: int, least: dict[str, list[float]]) -> None:
    figures, group = bench.figures, f"{nodes} node{'s' if nodes > 1 else ''}"
    puts = fleet.ask(f"put {JOBS}")
    figures.show(f"{group}: bare puts of a record's size, 64 at once", [rate(JOBS, puts)], "/s")
    fleet.ask("hold")
    submits = fleet.ask(f"submit {JOBS} {TINY_MILLI}")
    figures.show(f"{group}: submits, 64 at once", [rate(JOBS, submits)], "/s")
    figures.show("  p50 of a submit", [submits["p50_ms"]])
    figures.show("  p99 of a submit", [submits["p99_ms"]])
    figures.show("  submits / bare puts", [rate(JOBS, submits) / rate(JOBS, puts)], "×")
    fleet.ask("release")
    drained = fleet.ask("drain")
    figures.show(f"{group}: claims", [rate(drained["claimed"], drained, "claim_seconds")], "/s")
    fleet.ask("hold")
    posts = fleet.ask(f"post {JOBS} {WHOLE_MILLI}")
    figures.show(f"{group}: submits over HTTP, 64 at once", [rate(JOBS, posts)], "/s")
    figures.show("  p50 of a submit over HTTP", [posts["p50_ms"]])
    figures.show("  p99 of a submit over HTTP", [posts["p99_ms"]])
    least["submits"].append(rate(JOBS, posts))
    fleet.ask("release")
    fleet.ask("drain")
    before, began = etcd.load(), time.monotonic()
    fleet.ask(f"post {JOBS} {WHOLE_MILLI}")
    fleet.ask("drain")
    took = time.monotonic() - began
    load = etcd.load().since(before)
    least["jobs"].append(JOBS / took)
    figures.show(f"{group}: jobs, first submit over HTTP to last finished", [JOBS / took], "/s")
    figures.show("  requests to etcd for each", [load.requests / JOBS], "")
    figures.show("  etcd's processor time for each", [load.cpu_s / JOBS * 1e3])


# --- scale ----------------------------------------------------------------------------------------------------------


def measure_scale(bench: Bench) -> None:
    require_etcd()
    sizes, queues = bench.fleet_sizes, bench.queue_sizes
    print(f"\nUp to {sizes[-1]:,} nodes and {queues[-1]:,} queued jobs (pretended engine, three members of etcd)")
    etcd = Etcd(bench.clean_up)
    fleet = Fleet(bench, etcd.state("scale"))
    empty_mib = fleet.resident_mib()
    try:
        for nodes in sizes:
            began = fleet.ask(f"nodes {nodes}")["seconds"]
            time.sleep(settling_s(nodes))
            show_idle(bench, etcd, fleet, f"{nodes:,} idle nodes", nodes, began, empty_mib)
        held_s = fleet.ask("hold")["seconds"]
        bench.figures.show(f"{sizes[-1]:,} jobs that each take a whole node: all run after", [held_s], "s")
        for jobs in queues:
            measure_queue(bench, etcd, fleet, sizes[-1], jobs)
            if jobs != queues[-1]:
                fleet.ask("hold")
    finally:
        fleet.stop()
        etcd.stop()


def settling_s(nodes: int) -> float:
    """Until the newest node has looked round and noted that it is up."""
    return 8 + nodes / 100


def show_idle(
    bench: Bench, etcd: Etcd, fleet: Fleet, what: str, nodes: int, began_s: float, empty_mib: float
) -> None:
    figures = bench.figures
    load, cpu_s = over(etcd, fleet)
    figures.show(f"{what}: started within", [began_s], "s")
    figures.show("  memory for each", [(fleet.resident_mib() - empty_mib) / nodes * 1024], "KiB")
    show_load(bench, load, cpu_s, nodes)


def over(etcd: Etcd, fleet: Fleet) -> tuple[Load, float]:
    """What a while of rest costs etcd, and the nodes in processor time."""
    before, cpu_before = etcd.load(), fleet.cpu_s()
    time.sleep(IDLE_S)
    return etcd.load().since(before), fleet.cpu_s() - cpu_before


def show_load(bench: Bench, load: Load, cpu_s: float, nodes: int) -> None:
    figures = bench.figures
    figures.show("  requests to etcd a second, for each node", [load.requests / IDLE_S / nodes], "/s")
    sent = (load.sent_bytes + load.received_bytes) / IDLE_S / nodes
    figures.show("  bytes to and from etcd a second, for each node", [sent], "B/s")
    figures.show("  writes to etcd a second, all nodes", [load.revisions / IDLE_S], "/s")
    figures.show("  etcd's processors", [100 * load.cpu_s / IDLE_S], "%")
    figures.show("  the nodes' processors", [100 * cpu_s / IDLE_S], "%")


def measure_queue(bench: Bench, etcd: Etcd, fleet: Fleet, nodes: int, jobs: int) -> None:
    figures, what = bench.figures, f"{nodes:,} busy nodes, {jobs:,} queued jobs"
    memory_mib, before = fleet.resident_mib(), etcd.load()
    submits = fleet.ask(f"submit {jobs} {WHOLE_MILLI}")
    written = etcd.load().since(before)
    figures.show(f"{what}: submits", [rate(jobs, submits)], "/s")
    figures.show("  requests to etcd for a submit", [written.requests / jobs], "")
    figures.show("  record and index keys of each", [fleet.ask("records 100")["bytes"]], "B")
    time.sleep(2)
    figures.show("  memory for each, in all nodes together", [(fleet.resident_mib() - memory_mib) / jobs * 1024], "KiB")
    load, cpu_s = over(etcd, fleet)
    show_load(bench, load, cpu_s, nodes)
    before, cpu_before, began = etcd.load(), fleet.cpu_s(), time.monotonic()
    fleet.ask("release")
    drained = fleet.ask("drain")
    took = time.monotonic() - began
    load = etcd.load().since(before)
    figures.show(f"{what}: all finished after", [took], "s")
    figures.show("  jobs finished", [rate(drained["finished"], drained, "finish_seconds")], "/s")
    figures.show("  requests to etcd for each", [load.requests / jobs], "")
    figures.show("  bytes to and from etcd for each", [(load.sent_bytes + load.received_bytes) / jobs / 1024], "KiB")
    figures.show("  etcd's processor time for each", [load.cpu_s / jobs * 1e3])
    figures.show("  the nodes' processor time for each", [(fleet.cpu_s() - cpu_before) / jobs * 1e3])
    figures.show("  etcd's database, one member", [etcd.load().database_bytes / MIB], "MiB")
    figures.show("  etcd's memory, three members", [etcd.memory_mib()], "MiB")
