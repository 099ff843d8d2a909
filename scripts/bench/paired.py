"""A 53 MB job: Workrs and its peers in turn, so that a busy moment strikes all; this is what goals are judged by."""

import time
from contextlib import ExitStack

from bench import Bench
from figures import MIB
from matrix import CHANGED
from tools import Checkpoint, Tool, Work
from workrs import WorkrsJob

# With what Python itself takes, the job holds about 53 MB.
MEGABYTES = 43
# Leaves room for podman's command between two checkpoints.
EVERY_S = 4
WORK = Work("bytes", MEGABYTES, CHANGED / EVERY_S)
STANDSTILL_GOAL = 1 / 3
UPLOAD_GOAL = 0.02
PODMAN_RESTORE_GOAL = 1.0
RUNC_RESTORE_GOAL = 1.5


def measure(bench: Bench) -> None:
    print(f"\nA Python job of {MEGABYTES + 10} MB, of which {CHANGED * 100:g} % change between checkpoints")
    with ExitStack() as stack:
        podman = bench.job("podman", EVERY_S) if bench.podman else None
        runc = bench.job("runc", EVERY_S)
        ours = bench.workrs_job(EVERY_S)
        for job in filter(None, (podman, runc, ours)):  # ours last, as its clock starts with it
            stack.callback(job.remove)
            job.start(WORK)
            job.longest_gap()  # those from before are of no interest
        ours.reset_peak()
        first = ours.checkpoint()
        taken, peers = checkpoint_rounds(ours, podman, bench.rounds)
        show_checkpoints(bench, first, taken, peers)
        bench.figures.show("node's peak memory (VmHWM), checkpointing", [ours.peak_mib()], "MiB")
        bench.figures.show("  that peak with runc and CRIU, sampled", [ours.helpers_peak_mib], "MiB")
        runc.checkpoint()
        measure_restores(bench, ours, podman, runc)


def checkpoint_rounds(ours: WorkrsJob, podman: Tool | None, rounds: int) -> tuple[list[Checkpoint], list[Checkpoint]]:
    taken, peers = [], []
    for _ in range(3 * rounds):
        if len(taken) == rounds:
            break
        checkpoint = ours.checkpoint()
        if podman:
            begin_ms = time.time() * 1e3
            peer = podman.checkpoint()
            end_ms = time.time() * 1e3
            ours.longest_gap()  # one made by podman's work is not of interest
            in_each_others_way = ours.checkpointed_between(begin_ms, end_ms)
            podman.longest_gap()
            if in_each_others_way:
                continue
            peers.append(peer)
        taken.append(checkpoint)
    return taken, peers


def show_checkpoints(bench: Bench, first: Checkpoint, taken: list[Checkpoint], peers: list[Checkpoint]) -> None:
    figures = bench.figures
    standstill = [checkpoint.standstill_ms for checkpoint in taken]
    figures.show("Workrs standstill per checkpoint", standstill)
    figures.show("Workrs standstill as the job itself saw it", gaps(taken))
    figures.show("Workrs from freeze to durable commit", [checkpoint.total_ms for checkpoint in taken])
    figures.show("  the same of the first checkpoint, which uploads all", [first.total_ms])
    figures.show("Workrs checkpoint, size", [checkpoint.size_bytes / MIB for checkpoint in taken], "MiB")
    figures.show("  uploaded for the first", [first.stored_bytes / MIB], "MiB")
    figures.show("  uploaded for a later one", [checkpoint.stored_bytes / MIB for checkpoint in taken], "MiB")
    uploaded = [checkpoint.stored_bytes for checkpoint in taken]
    sizes = [checkpoint.size_bytes for checkpoint in taken]
    figures.ratio("53 MB: a later upload / the size", uploaded, sizes, UPLOAD_GOAL)
    commands = [peer.total_ms for peer in peers]
    if peers:
        figures.show("podman container checkpoint --export --leave-running", commands)
        figures.show("podman standstill as the job itself saw it", gaps(peers))
        figures.show("podman's exported archive", [peer.stored_bytes / MIB for peer in peers], "MiB")
    figures.ratio("53 MB: standstill / podman's command", standstill, commands, STANDSTILL_GOAL)
    seen = [(mine.gap_ms, peer.gap_ms) for mine, peer in zip(taken, peers) if mine.gap_ms and peer.gap_ms]
    both = "53 MB: standstill / podman's, both as the job saw it"
    figures.ratio(both, [mine for mine, _ in seen], [peer for _, peer in seen])


def gaps(checkpoints: list[Checkpoint]) -> list[float]:
    return [checkpoint.gap_ms for checkpoint in checkpoints if checkpoint.gap_ms is not None]


def measure_restores(bench: Bench, ours: WorkrsJob, podman: Tool | None, runc: Tool) -> None:
    figures = bench.figures
    restored, from_podman, from_runc, peaks = [], [], [], []
    for _ in range(max(3, bench.rounds - 2) if bench.rounds > 1 else 1):
        ours.checkpoint()
        restored.append(ours.restore())
        peaks.append(ours.peak_mib())
        from_runc.append(runc.restore().took_ms)
        if podman:
            from_podman.append(podman.restore().took_ms)
    took = [restore.took_ms for restore in restored]
    figures.show("Workrs restore, claim to running", took)
    figures.show("runc restore, from the local disk", from_runc)
    figures.ratio("53 MB: restore / runc restore", took, from_runc, RUNC_RESTORE_GOAL)
    if podman:
        figures.show("podman container restore --import", from_podman)
    figures.ratio("53 MB: restore / podman's command", took, from_podman, PODMAN_RESTORE_GOAL)
    for lap, name in {"up": "API up (no peer does this)", "all": "job running"}.items():
        figures.show(f"Workrs, node started anew to {name}", [restore.laps[lap] for restore in restored])
    figures.show("node's peak memory (VmHWM), restoring", peaks, "MiB")
