"""Images: how long it takes from a registry to a root to run on, and from a claim to a job that runs on it."""

import os
import time
from urllib.parse import quote

import registry
from bench import Bench
from figures import median
from node import Api, Node
from registry import Registry

# Without the base, which has Python.
LAYERS = 5
LAYER_BYTES = 57 << 20
STARTS = 20
PULL_GOAL = 1.0
START_GOAL_MS = 150
NODE_POOL = "3G"


def measure(bench: Bench) -> None:
    if reason := registry.missing():
        raise RuntimeError(reason)
    folder = bench.clean_up.scratch("layers")
    layers = registry.make_layers(folder, bench.root.archive, LAYERS, LAYER_BYTES)
    server = Registry(bench.clean_up)
    reference = server.push("bench/large", "1", layers)
    for layer in layers:
        os.remove(layer.compressed)
    unpacked, stored = sum(layer.bytes for layer in layers), sum(layer.stored_bytes for layer in layers)
    print(f"\nAn image of {unpacked / 1e6:.0f} MB in {len(layers)} layers, {stored / 1e6:.0f} MB compressed")
    measure_pulls(bench, reference)
    measure_starts(bench, reference)


def measure_pulls(bench: Bench, reference: str) -> None:
    """Each round begins with nothing of the image there; the tools take turns at the registry."""
    ours: dict[str, list[float]] = {"pull": [], "unpack": [], "both": []}
    peers: dict[str, list[float]] = {"docker": [], "podman": []}
    for _ in range(max(3, bench.rounds // 2) if bench.rounds > 1 else 1):
        pulled, unpacked = pull_into_fresh_group(bench, reference)
        for name, took_ms in (("pull", pulled), ("unpack", unpacked), ("both", pulled + unpacked)):
            ours[name].append(took_ms)
        if bench.docker:
            peers["docker"].append(bench.docker.call("pull", "--quiet", reference).took_ms)
            bench.docker.call("rmi", reference)
        if bench.podman:
            peers["podman"].append(bench.podman.call("pull", "--quiet", "--tls-verify=false", reference).took_ms)
            bench.podman.call("rmi", reference)
    figures = bench.figures
    figures.show("Workrs, image pull into the group's blobs", ours["pull"])
    figures.show("Workrs, unpack on a node, and start a first job", ours["unpack"])
    for name, took_ms in peers.items():
        if took_ms:
            figures.show(f"{name} pull", took_ms)
        figures.ratio(f"image: pull, unpack and start / {name} pull", ours["both"], took_ms, PULL_GOAL)


def pull_into_fresh_group(bench: Bench, reference: str) -> tuple[float, float]:
    """Milliseconds of the pull, and from a job's claim to its start."""
    node = Node(bench.workrs, bench.clean_up, NODE_POOL)
    try:
        node.start()
        api = node.api()
        began = time.monotonic()
        api.call("POST", f"/api/v1/images?reference={quote(reference, safe='')}")
        pulled_ms = (time.monotonic() - began) * 1e3
        return pulled_ms, start(api, reference)
    finally:
        node.remove()


def start(api: Api, reference: str) -> float:
    job = api.job(api.submit(command=["true"], image=reference)["id"], wait="120s")
    if job["outcome"] != "succeeded":
        raise RuntimeError(f"the job in the image: {job['outcome_text']}")
    attempt = job["attempts"][-1]
    return attempt["started_at"] - attempt["claimed_at"]


def measure_starts(bench: Bench, reference: str) -> None:
    api = bench.node().api()
    api.call("POST", f"/api/v1/images?reference={quote(reference, safe='')}")
    start(api, reference)
    took_ms = []
    for _ in range(STARTS):
        time.sleep(0.2)  # the one before is being tidied up
        took_ms.append(start(api, reference))
    bench.figures.show("Workrs, claim to start of a job in an image that is there", took_ms)
    middle = median(took_ms)
    goal = f"image: claim to start, cached: below {START_GOAL_MS} ms, measured {middle:.0f} ms"
    bench.figures.goal(goal, middle < START_GOAL_MS)
