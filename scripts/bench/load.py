"""Jobs that do nothing: one at a time, and a thousand of them queued."""

import threading
import time

from bench import Bench
from figures import median, percentile
from node import Api

NOOPS = 20
QUEUED = 1000
SUBMITTERS = 8
# The queue is watched for this long; what still waits then is left behind.
QUEUE_WINDOW_S = 45
# A client asks, waits for the answer, then this long.
THINK_S = 0.01


def measure_noop(bench: Bench) -> None:
    print("\nA job that does nothing, on an idle node")
    node = bench.node()
    api = node.api()
    laps: dict[str, list[float]] = {"all": [], "queued": [], "bring up": [], "run and finish": []}
    peers = []
    if bench.podman:
        bench.podman.run_true()
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
            peers.append(bench.podman.run_true())
    figures = bench.figures
    figures.show("Workrs, submit to finished as a client sees it", laps["all"])
    for name in ("queued", "bring up", "run and finish"):
        figures.show(f"  of it {name}", laps[name])
    middle = median(laps["all"])
    figures.goal(f"no-op job, submit to finished: at most 300 ms, measured {middle:.0f}", middle <= 300)
    if peers:
        figures.show("podman run --rm, no queue, nothing durable", peers)
        figures.ratio("no-op job / podman run", laps["all"], peers)


def measure_queue(bench: Bench) -> None:
    print(f"\n{QUEUED} queued jobs that do nothing")
    node = bench.fresh_node()
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
        figures.show(f"  99th percentile of {kind}", [p99])
        figures.goal(f"{kind} with {QUEUED} jobs queued: p99 under 50 ms, measured {p99:.1f}", p99 < 50)
    figures.show(f"node's peak memory (VmHWM), {QUEUED} jobs queued", [node.peak_memory_mib()], "MiB")
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
