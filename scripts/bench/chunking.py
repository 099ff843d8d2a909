"""How fast one core chunks, hashes and compresses, by an example program of the store."""

import os
import re

import process
from bench import Bench

GOAL_MB_S = 400
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
EXAMPLE = "crates/workrs-store/examples/chunking.rs"
CARGO = ["--quiet", "--release", "--locked", "--package", "workrs-store", "--example", "chunking"]
# The line of its output that counts. Storing does more: it hands the pack on and reads it back, which has lines of its own.
WHOLE = "look for zeros, hash and compress"
BUILD_TIMEOUT_S = 1800


def measure(bench: Bench) -> None:
    print("\nChunk, hash and compress, on one core, data that cannot be compressed")
    goal = f"chunk, hash and compress incompressible data on one core: at least {GOAL_MB_S} MB/s"
    try:
        speeds = parse(run_example())
        if WHOLE not in speeds:
            raise RuntimeError(f"the example tells of {', '.join(speeds) or 'nothing'}, not of {WHOLE!r}")
    except (RuntimeError, OSError) as error:
        bench.figures.fail(f"chunking: {error}")
        bench.figures.goal(goal, None)
        return
    for name, values in speeds.items():
        bench.figures.show(name, values, "MB/s")
    bench.figures.goal(f"{goal}, measured {speeds[WHOLE][0]:.0f}", speeds[WHOLE][0] >= GOAL_MB_S)


def run_example() -> str:
    if not os.path.exists(os.path.join(ROOT, EXAMPLE)):
        raise RuntimeError(f"this checkout has no {EXAMPLE}")
    process.run(["cargo", "build", *CARGO], BUILD_TIMEOUT_S, "cargo build --example chunking", cwd=ROOT)
    core = str(min(os.sched_getaffinity(0)))
    command = ["taskset", "--cpu-list", core, "cargo", "run", *CARGO, "--", "--speed"]
    return process.run(command, called="the example chunking", cwd=ROOT).output


def parse(output: str) -> dict[str, list[float]]:
    """MB/s by what was done."""
    speeds: dict[str, list[float]] = {}
    for name, speed in re.findall(r"^(.*?) +(\d+) MB/s", output, re.MULTILINE):
        speeds.setdefault(name.strip(), []).append(float(speed))
    return speeds
