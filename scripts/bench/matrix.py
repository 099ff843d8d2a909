"""The table: kinds of data by amounts of memory, each under Workrs and its peers."""

import os
import time
from dataclasses import dataclass

import host
import rootfs
from bench import Bench
from figures import MIB, Row
from tools import Checkpoint, Tool, Work

# Of its elements a job changes so much from one checkpoint of Workrs to the next.
CHANGED = 0.01
MEMORY_KINDS = ["list", "array", "dict", "sqlite", "c"]
TITLES = {
    "bytes": "Python, random bytes",
    "list": "Python, list of floats",
    "array": "Python, numpy array",
    "dict": "Python, dictionary",
    "sqlite": "SQLite",
    "c": "C program",
    "disk": "file on the job disk",
}
DISK_CELL = "disk-1000"
FULL = [*(f"{kind}-{size}" for size in (50, 500, 2000) for kind in MEMORY_KINDS), "bytes-500", DISK_CELL]
DEFAULT = [*(f"{kind}-50" for kind in MEMORY_KINDS), "list-500", "c-500", "c-2000", DISK_CELL]
# Peers take a checkpoint when told to; the job gets this long in between.
PEER_PAUSE_S = 1.0
LARGE_MB = 1000


@dataclass(frozen=True)
class Cell:
    """A kind of data and its amount."""

    kind: str
    megabytes: int

    @staticmethod
    def parse(name: str) -> "Cell | None":
        kind, _, size = name.partition("-")
        return Cell(kind, int(size)) if kind in TITLES and size.isdigit() and int(size) > 0 else None

    @property
    def every_s(self) -> float:
        """Long enough to make the data before the first checkpoint, and to store one before the next."""
        return max(2, self.megabytes / 100)

    @property
    def work(self) -> Work:
        return Work(self.kind, self.megabytes, CHANGED / self.every_s)

    @property
    def title(self) -> str:
        """As the table names it."""
        return f"{TITLES[self.kind]}, {self.megabytes:,} MB"

    def lack(self) -> str | None:
        """What this machine has too little of."""
        wanted_mib = self.work.memory_mib + 1024
        free_mib = int(host.field("/proc/meminfo", "MemAvailable").split()[0]) // 1024
        if free_mib < wanted_mib:
            return f"{wanted_mib} MiB of free memory are wanted, there are {free_mib}"
        # CRIU's images and the packs of two checkpoints and of one under way; a peer has less.
        wanted_mib = 5 * self.megabytes + 1024
        space = os.statvfs(host.scratch_root())
        free_mib = space.f_bavail * space.f_frsize // MIB
        if free_mib < wanted_mib:
            return f"{wanted_mib} MiB of space are wanted in {host.scratch_root()}, there are {free_mib}"
        if self.kind == "array" and not rootfs.has_numpy():
            return "numpy is not installed (scripts/setup.sh --bench)"
        return None


def measure(bench: Bench, cell: Cell) -> None:
    print(f"\n{cell.title}, of which {CHANGED * 100:g} % change between checkpoints", flush=True)
    for tool in bench.tools:
        began = time.monotonic()
        row = Row(cell.title, {"workrs": "Workrs", "workrs-docker": "Workrs on Docker", "docker": "Docker"}.get(tool, tool))
        try:
            measure_under(bench, cell, tool, row)
        except (RuntimeError, OSError) as error:
            row.note = f"{'not measured' if row.first_total_ms is None else 'broke off'}: {one_line(str(error))}"
            if tool not in bench.lacking:  # that has been told already
                bench.figures.failures.append(f"{cell.title}, {row.tool}: {one_line(str(error))}")
        bench.figures.add_row(row)
        print(f"           took {time.monotonic() - began:.0f} s", flush=True)


def measure_under(bench: Bench, cell: Cell, tool: str, row: Row) -> None:
    """Fills the row as far as it comes."""
    if lack := cell.lack():
        raise RuntimeError(lack)
    large = cell.megabytes >= LARGE_MB
    later, restores = min(2 if large else 3, bench.rounds), min(2 if large else 3, bench.rounds)
    job = bench.job(tool, cell.every_s)
    row.peak_counts, row.note = job.counts, job.note
    try:
        job.start(cell.work)
        job.longest_gap()  # those from before are of no interest
        job.reset_peak()
        take_checkpoints(job, row, later)
        row.peak_checkpoint_mib = job.peak_mib()
        for _ in range(restores):
            job.reset_peak()
            row.restore_ms.append(job.restore().took_ms)
            row.peak_restore_mib = max(row.peak_restore_mib or 0, job.peak_mib())
        row.peak_with_helpers_mib = job.helpers_peak_mib
    finally:
        job.remove()


def take_checkpoints(job: Tool, row: Row, later: int) -> None:
    for turn in range(1 + later):
        taken = job.checkpoint()
        note(row, taken)
        if turn == 0:
            row.first_total_ms, row.first_stored_mib = taken.total_ms, taken.stored_bytes / MIB
        else:
            row.total_ms.append(taken.total_ms)
            row.stored_mib.append(taken.stored_bytes / MIB)
        if job.takes_orders:
            time.sleep(PEER_PAUSE_S)


def note(row: Row, taken: Checkpoint) -> None:
    row.size_mib = taken.size_bytes / MIB if taken.size_bytes else None
    row.standstill_ms += [] if taken.standstill_ms is None else [taken.standstill_ms]
    row.gap_ms += [] if taken.gap_ms is None else [taken.gap_ms]


def one_line(words: str) -> str:
    return " ".join(words.replace("|", "/").split())
