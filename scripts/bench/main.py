"""Measures Workrs on this machine beside its peers; docs/benchmarks.md says what and how.

usage: main.py WORKRS [--full] [--only NAMES] [--tools NAMES] [--rounds N] [--kills N] [--group-bench FILE] [--out DIR]
"""

import argparse
import os
import sys
import time
from collections.abc import Callable

import chunking
import fleet
import host
import images
import load
import matrix
import page
import paired
import recovery
from bench import TOOLS, Bench
from matrix import Cell

PARTS: dict[str, Callable[[Bench], None]] = {
    "checkpoint": paired.measure,
    "noop": load.measure_noop,
    "queue": load.measure_queue,
    "images": images.measure,
    "chunking": chunking.measure,
    "recovery": recovery.measure,
    "throughput": fleet.measure_throughput,
    "scale": fleet.measure_scale,
    "page": page.measure,
}
# Parts that need no peers and no node of their own kind.
ALONE = {"chunking", "recovery", "throughput", "scale", "page"}
EXIT_FAILED = 1
EXIT_USAGE = 64


def chosen(only: str | None, full: bool) -> list[str]:
    """The names of what is to be measured; ValueError tells of an unknown one."""
    cells = matrix.FULL if full else matrix.DEFAULT
    if only is None:
        return [*PARTS, *cells]
    names: list[str] = []
    for name in only.split(","):
        if name in PARTS or Cell.parse(name):
            names.append(name)
        elif name == "matrix":
            names += cells
        elif name in matrix.TITLES:
            names += [cell for cell in matrix.FULL if cell.startswith(f"{name}-")]
        else:
            known = [*PARTS, "matrix", *matrix.TITLES, *matrix.FULL]
            raise ValueError(f"no such part: {name!r}; there are {', '.join(known)}, and KIND-MEGABYTES of any size")
    return names


def measure(bench: Bench, name: str) -> None:
    try:
        if name in PARTS:
            PARTS[name](bench)
        else:
            matrix.measure(bench, Cell.parse(name))
    except (RuntimeError, OSError) as error:
        bench.figures.fail(f"{name}: {error}")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("workrs")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only")
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--kills", type=int)
    parser.add_argument("--group-bench")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    try:
        names = chosen(args.only, args.full)
        tools = [name for name in TOOLS if name in args.tools.split(",")]
        if unknown := set(args.tools.split(",")) - set(TOOLS):
            raise ValueError(f"no such tool: {', '.join(unknown)}; there are {', '.join(TOOLS)}")
        if args.rounds < 1:
            raise ValueError("--rounds is at least 1")
        if args.kills is not None and args.kills < 1:
            raise ValueError("--kills is at least 1")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    began = time.monotonic()
    machine = host.describe(args.workrs)
    print("\n".join(machine), flush=True)
    bench = Bench(os.path.abspath(args.workrs), args.rounds, tools, args.full, args.group_bench, args.kills)
    try:
        if not ALONE.issuperset(names):
            bench.prepare()
        for name in names:
            measure(bench, name)
    finally:  # an interrupted run tells what it has
        bench.clean_up.run()
        minutes = (time.monotonic() - began) / 60
        machine.append(f"took       {minutes:.0f} min, load {os.getloadavg()[0]:.1f} at the end")
        bench.figures.sum_up()
        bench.figures.write(args.out, machine)
        print(f"\n{machine[-1]}; results.md, .csv and .json are in {args.out}")
    return EXIT_FAILED if bench.figures.failures else 0


if __name__ == "__main__":
    sys.exit(main())
