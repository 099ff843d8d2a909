"""Measures Workrs on this machine beside podman; docs/benchmarks.md says what and how.

usage: main.py WORKRS [--only PARTS] [--rounds N] [--json FILE]
"""

import argparse
import os
import shutil
import sys
import threading
import time
from dataclasses import dataclass

import host
from figures import Figures, median, percentile
from node import Api, Node
from podman import Podman

JOB = os.path.join(os.path.dirname(os.path.abspath(__file__)), "job.py")
# With what Python itself takes, the job holds about 53 MB.
SMALL_MB = 43
LARGE_MB = 490
PARTS = ["checkpoint", "noop", "queue", "large"]
EXIT_FAILED = 1
EXIT_USAGE = 64

NOOPS = 20
QUEUED = 1000
SUBMITTERS = 8
# The queue is watched for this long; what still waits then is left behind.
QUEUE_WINDOW_S = 45
# A client asks, waits for the answer, then this long.
THINK_S = 0.01


class Bench:
    """What the parts share."""

    def __init__(self, workrs: str, rounds: int) -> None:
        self.workrs = workrs
        self.rounds = rounds
        self.figures = Figures()
        self.clean_up = host.CleanUp()
        self.podman: Podman | None = None

    def prepare_podman(self) -> None:
        if not shutil.which("podman"):
            print("podman: skipped, it is not installed (scripts/setup.sh --bench)")
            return
        podman = Podman(self.clean_up)
        try:
            podman.make_image()
        except (RuntimeError, OSError) as error:
            self.figures.fail(f"podman: {error}")
            return
        self.podman = podman

    def node(self, disk_pool: str = "6G") -> Node:
        """A node that has run its first job, which makes the copy of the host's programs."""
        node = Node(self.workrs, self.clean_up, disk_pool)
        node.start()
        first = node.api().submit(command=["true"])
        node.api().job(first["id"], wait="120s")
        return node


class Subject:
    """The measured job on a node of Workrs."""

    def __init__(self, node: Node, megabytes: int, every: str) -> None:
        self.node = node
        self.api = node.api()
        spec = {"args": [str(megabytes)], "checkpoint": f"every={every}", "memory": "1G", "cpus": 1}
        self.id = self.api.submit_script(JOB, name="bench", **spec)["id"]
        deadline = time.monotonic() + 60
        while "ready" not in self.api.log(self.id):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the job does not get ready: {self.api.job(self.id)['attempts']}")
            time.sleep(0.05)
        self._seen: tuple[int, int] = (0, 0)
        self._log_read = 0

    def next_checkpoint(self) -> dict:
        """The next checkpoint that is committed from now on."""
        newest = lambda job: max(((c["epoch"], c["seq"]) for c in job["checkpoints"]), default=(0, 0))
        self._seen = max(self._seen, newest(self.api.job(self.id)))
        job = self.api.wait_until(self.id, lambda job: newest(job) > self._seen, "checkpoint")
        self._seen = newest(job)
        return next(c for c in job["checkpoints"] if (c["epoch"], c["seq"]) == self._seen)

    def checkpointed_between(self, begin_ms: float, end_ms: float) -> bool:
        checkpoints = self.api.job(self.id)["checkpoints"]
        return any(begin_ms < c["at"] + c["total_ms"] and c["at"] < end_ms for c in checkpoints)

    def longest_gap(self) -> float | None:
        """The longest standstill that the job itself noticed since the last call, in ms."""
        text = self.api.log(self.id)
        fresh, self._log_read = text[self._log_read :], len(text)
        return longest_gap(fresh)

    def kill_and_restart(self) -> dict:
        """Kills the node and starts it anew; gives how long what took, in ms."""
        before = self.api.job(self.id)["epoch"]
        self.node.kill()
        began_ms = time.time() * 1e3
        up_s = self.node.start()
        self.api = self.node.api()
        started = lambda job: job["epoch"] > before and job["attempts"][-1].get("started_at")
        attempt = self.api.wait_until(self.id, started, "restart")["attempts"][-1]
        if attempt["start"] == "clean":
            raise RuntimeError(f"the job was not restored but started anew: {attempt}")
        restore = attempt["started_at"] - attempt["claimed_at"]
        return {"restore": restore, "up": up_s * 1e3, "all": attempt["started_at"] - began_ms}

    def cancel(self) -> None:
        self.api.call("POST", f"/api/v1/jobs/{self.id}/cancel")
        self.api.job(self.id, wait="30s")


def longest_gap(log: str) -> float | None:
    gaps = [float(line.split()[2]) for line in log.splitlines() if line.startswith("stood still")]
    return max(gaps, default=None)


@dataclass(frozen=True)
class Size:
    """One size of the measured job, and what is wanted of it."""

    megabytes: int
    every: str
    rounds: int
    restores: int
    standstill_goal: float | None = None
    restore_goal: float | None = None

    def name(self) -> str:
        """With what Python itself takes."""
        return f"{self.megabytes + 10} MB"


def measure_checkpoints(bench: Bench, size: Size) -> None:
    """Checkpoints and restores of one job, a round of Workrs and a round of podman in turn."""
    print(f"\nA Python job of {size.name()} that changes a little all the time")
    node = bench.node()
    subject = Subject(node, size.megabytes, size.every)
    podman = bench.podman
    if podman:
        podman.start("subject", JOB, str(size.megabytes))
        podman.wait_ready("subject")
    first = subject.next_checkpoint()
    subject.longest_gap()
    ours, peers = checkpoint_rounds(subject, podman, size.rounds)
    show_checkpoints(bench, size, ours, peers, first)
    peak = node.peak_memory_mib()
    restored, peer_restores, ups, alls = [], [], [], []
    for _ in range(size.restores):
        subject.next_checkpoint()
        took = subject.kill_and_restart()
        restored.append(took["restore"])
        ups.append(took["up"])
        alls.append(took["all"])
        if podman:
            peer_restores.append(podman.restore("subject"))
    figures = bench.figures
    figures.show("Workrs restore, claim to running", restored)
    if podman:
        figures.show("podman container restore --import", peer_restores)
        figures.ratio(f"restore / podman's command, {size.name()}", restored, peer_restores, size.restore_goal)
    figures.show("Workrs, node started anew to API up (no peer does this)", ups)
    figures.show("Workrs, node started anew to job running", alls)
    figures.show("node's peak memory (VmHWM), checkpointing", [peak], "MiB")
    figures.show("node's peak memory (VmHWM), restoring", [node.peak_memory_mib()], "MiB")
    subject.cancel()
    if podman:
        podman.remove("subject")
    node.remove()


def checkpoint_rounds(subject: Subject, podman: Podman | None, rounds: int) -> tuple[list[dict], list[dict]]:
    ours, peers = [], []
    for _ in range(3 * rounds):
        if len(ours) == rounds:
            break
        checkpoint = subject.next_checkpoint()
        checkpoint["gap"] = subject.longest_gap()
        if podman:
            begin_ms = time.time() * 1e3
            peer = {"command": podman.checkpoint("subject")}
            end_ms = time.time() * 1e3
            peer["gap"] = longest_gap(podman.call("logs", "--since", f"{begin_ms / 1e3:.3f}", "subject"))
            subject.longest_gap()  # one made by podman's work is not of interest
            if subject.checkpointed_between(begin_ms, end_ms):
                continue  # they were in each other's way
            peers.append(peer)
        ours.append(checkpoint)
    return ours, peers


def show_checkpoints(bench: Bench, size: Size, ours: list[dict], peers: list[dict], first: dict) -> None:
    figures, podman = bench.figures, bench.podman
    mib = lambda values: [value / (1 << 20) for value in values]
    standstill = [c["standstill_ms"] for c in ours]
    figures.show("Workrs standstill per checkpoint", standstill)
    figures.show("  the same as the job itself saw it", [c["gap"] for c in ours if c["gap"]])
    figures.show("Workrs from freeze to durable commit", [c["total_ms"] for c in ours])
    figures.show("  of the first checkpoint, which uploads all", [first["total_ms"]])
    figures.show("checkpoint's size", mib(c["size_bytes"] for c in ours), "MiB")
    figures.show("  newly stored of it", mib(c["uploaded_bytes"] for c in ours), "MiB")
    if not podman:
        return
    commands = [p["command"] for p in peers]
    figures.show("podman container checkpoint --export --leave-running", commands)
    figures.show("  standstill as the job itself saw it", [p["gap"] for p in peers if p["gap"]])
    figures.show("  exported archive", mib([podman.exported_bytes()]), "MiB")
    figures.ratio(f"standstill / podman's command, {size.name()}", standstill, commands, size.standstill_goal)
    seen = [(c["gap"], p["gap"]) for c, p in zip(ours, peers) if c["gap"] and p["gap"]]
    both = f"standstill / podman's, both as the job saw it, {size.name()}"
    figures.ratio(both, [mine for mine, _ in seen], [theirs for _, theirs in seen])


def measure_noop(bench: Bench) -> None:
    print("\nA job that does nothing, on an idle node")
    node = bench.node()
    api = node.api()
    laps: dict[str, list[float]] = {"all": [], "queued": [], "bring up": [], "run and finish": []}
    peers = []
    if bench.podman:
        bench.podman.call("run", "--rm", *PEER_NOOP)
    for _ in range(NOOPS):
        time.sleep(0.3)  # the one before is being tidied up
        began = time.monotonic()
        job = api.job(api.submit(command=["true"], name="noop")["id"], wait="30s")
        laps["all"].append((time.monotonic() - began) * 1e3)
        if job["outcome"] != "succeeded":
            raise RuntimeError(f"the no-op job: {job['outcome_text']}")
        attempt = job["attempts"][-1]
        laps["queued"].append(attempt["claimed_at"] - job["submitted_at"])
        laps["bring up"].append(attempt["started_at"] - attempt["claimed_at"])
        laps["run and finish"].append(job["finished_at"] - attempt["started_at"])
        if bench.podman and len(peers) < 10:
            time.sleep(0.2)
            began = time.monotonic()
            bench.podman.call("run", "--rm", *PEER_NOOP)
            peers.append((time.monotonic() - began) * 1e3)
    figures = bench.figures
    figures.show("Workrs, submit to finished as a client sees it", laps["all"])
    for name in ("queued", "bring up", "run and finish"):
        figures.show(f"  of it {name}", laps[name])
    middle = median(laps["all"])
    figures.goal(f"no-op job, submit to finished: at most 300 ms, measured {middle:.0f} ms", middle <= 300)
    if peers:
        figures.show("podman run --rm, no queue, nothing durable", peers)
        figures.ratio("no-op job / podman run", laps["all"], peers)
    node.remove()


PEER_NOOP = ["--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096", "workrs-bench", "true"]


def measure_queue(bench: Bench) -> None:
    print(f"\n{QUEUED} queued jobs that do nothing")
    node = bench.node()
    figures = bench.figures
    ids: list[str] = []
    failures: list[str] = []

    def submit(count: int) -> None:
        api = Api(node.address)
        try:
            for _ in range(count):
                ids.append(api.submit(command=["true"], name="queued")["id"])
        except (RuntimeError, OSError) as error:
            failures.append(f"submit: {error}")

    base = finished_jobs(node.api())
    began = time.monotonic()
    in_parallel([lambda: submit(QUEUED // SUBMITTERS) for _ in range(SUBMITTERS)])
    took = time.monotonic() - began
    figures.show(f"submits a second, {SUBMITTERS} clients, each acknowledged durable", [len(ids) / took], "/s")
    over = threading.Event()
    latencies: dict[str, list[float]] = {"GET /api/v1/jobs/{id}": [], "GET /api/v1/nodes": []}

    def ask(kind: str, offset: int) -> None:
        api = Api(node.address)
        turn = offset
        try:
            while not over.is_set():
                turn += 37
                path = "/api/v1/nodes" if kind.endswith("nodes") else f"/api/v1/jobs/{ids[turn % len(ids)]}"
                asked = time.monotonic()
                api.call("GET", path)
                latencies[kind].append((time.monotonic() - asked) * 1e3)
                time.sleep(THINK_S)
        except (RuntimeError, OSError) as error:
            failures.append(f"{kind}: {error}")

    def watch() -> None:
        try:
            api, seen = node.api(), -1
            deadline = time.monotonic() + QUEUE_WINDOW_S
            at_first, begun = finished_jobs(api), time.monotonic()
            while time.monotonic() < deadline and seen - base < QUEUED:
                time.sleep(0.5)
                seen = finished_jobs(api)
            rate.append((seen - at_first) / (time.monotonic() - begun))
            finished.append(seen - base)
        finally:
            over.set()

    rate: list[float] = []
    finished: list[float] = []
    in_parallel([watch, *(lambda kind=kind, n=n: ask(kind, n) for kind in latencies for n in (0, 11))])
    for failure in failures:
        figures.fail(failure)
    figures.show("jobs finished a second", rate, "/s")
    print(f"  ({finished[0]:.0f} of {QUEUED} had finished when the measurement ended)")
    for kind, values in latencies.items():
        figures.show(f"{kind}, 2 clients of 4", values)
        p99 = percentile(values, 0.99)
        figures.show("  its 99th percentile", [p99])
        figures.goal(f"{kind} with {QUEUED} jobs: p99 under 50 ms, measured {p99:.1f} ms", p99 < 50)
    figures.show("node's peak memory (VmHWM)", [node.peak_memory_mib()], "MiB")
    node.remove()


def finished_jobs(api: Api) -> int:
    for line in api.call("GET", "/metrics").splitlines():
        if line.startswith("workrs_finished_total"):
            return int(float(line.split()[-1]))
    raise RuntimeError("the node's metrics do not tell how many jobs finished")


def in_parallel(works: list) -> None:
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def run(bench: Bench, part: str) -> None:
    if part == "checkpoint":
        rounds = bench.rounds
        measure_checkpoints(bench, Size(SMALL_MB, "4s", rounds, max(3, rounds - 2), 0.5, 1.0))
    elif part == "noop":
        measure_noop(bench)
    elif part == "queue":
        measure_queue(bench)
    else:
        measure_checkpoints(bench, Size(LARGE_MB, "8s", rounds=3, restores=3))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("workrs")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json")
    args = parser.parse_args()
    parts = args.only.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        print(f"error: no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}", file=sys.stderr)
        return EXIT_USAGE
    began = time.monotonic()
    machine = host.describe(args.workrs)
    print("\n".join(machine), flush=True)
    bench = Bench(os.path.abspath(args.workrs), args.rounds)
    bench.prepare_podman()
    print(docker_line())
    for part in parts:
        try:
            run(bench, part)
        except (RuntimeError, OSError) as error:
            bench.figures.fail(f"{part}: {error}")
        sys.stdout.flush()
    bench.figures.sum_up()
    if args.json:
        bench.figures.write(args.json, machine)
    bench.clean_up.run()
    print(f"\ntook {time.monotonic() - began:.0f} s")
    return EXIT_FAILED if bench.figures.failures else 0


def docker_line() -> str:
    if not shutil.which("dockerd"):
        return "Docker: skipped, dockerd is not installed"
    return "Docker: skipped, this version compares with podman only"


if __name__ == "__main__":
    sys.exit(main())
