"""Figures: what was measured, how it is summed up, printed and kept."""

import csv
import json
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

MIB = 1 << 20
# What was not measured, in print.
ABSENT = "–"
# One value, one for each repetition, or none.
Measured = list[float] | float | None


@dataclass
class Row:
    """One job under one tool; a list has a value for each repetition."""

    job: str
    tool: str
    # Why there are no figures, or not all, or what else is to be known.
    note: str = ""
    size_mib: float | None = None
    standstill_ms: list[float] = field(default_factory=list)
    gap_ms: list[float] = field(default_factory=list)
    first_total_ms: float | None = None
    first_stored_mib: float | None = None
    total_ms: list[float] = field(default_factory=list)
    stored_mib: list[float] = field(default_factory=list)
    restore_ms: list[float] = field(default_factory=list)
    peak_checkpoint_mib: float | None = None
    peak_restore_mib: float | None = None
    # The most of both with the tool's helpers (runc, CRIU); sampled, and only of Workrs.
    peak_with_helpers_mib: float | None = None
    peak_counts: str = ""

    def summary(self) -> dict:
        """Medians instead of lists."""
        fields = vars(self).items()
        return {name: rounded(value) if isinstance(value, list | float) else value for name, value in fields}

    def cells(self, show: Callable[[Measured], str]) -> list[str]:
        """In the table's order, after job and tool."""
        later = show(self.stored_mib)
        if self.stored_mib and self.size_mib:
            later += f" = {100 * median(self.stored_mib) / self.size_mib:.1f} %"
        return [
            show(self.standstill_ms),
            show(self.gap_ms),
            show(self.first_total_ms),
            show(self.total_ms),
            show(self.size_mib),
            show(self.first_stored_mib),
            later,
            show(self.restore_ms),
            show(self.peak_checkpoint_mib),
            show(self.peak_restore_mib),
            show(self.peak_with_helpers_mib),
            self.note,
        ]


HEAD = [
    "standstill, ms",
    "… as the job saw it, ms",
    "first checkpoint, ms",
    "later one, ms",
    "size, MiB",
    "first upload, MiB",
    "later upload, MiB = of the size",
    "restore, ms",
    "peak memory, checkpoint, MiB",
    "… restore, MiB",
    "… with helpers, MiB",
    "note",
]


@dataclass
class Sweep:
    """Figures of the same kind at several sizes: a column for each size."""

    title: str
    columns: list[str] = field(default_factory=list)
    rows: dict[str, dict[str, float]] = field(default_factory=dict)

    def note(self, column: str, name: str, value: float, unit: str = "") -> None:
        """Prints and keeps a figure."""
        if column not in self.columns:
            self.columns.append(column)
        row = f"{name}, {unit}" if unit else name
        self.rows.setdefault(row, {})[column] = value
        print(f"  {column}: {name:<{max(1, 54 - len(column))}} {number(value):>8} {unit}".rstrip(), flush=True)

    def lines(self) -> list[str]:
        cells = [[row, *(typical(of_row.get(column)) for column in self.columns)] for row, of_row in self.rows.items()]
        head = [self.title, *self.columns]
        return [f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *cells]]


@dataclass
class Figures:
    """All that was measured in a run."""

    values: dict[str, list[float]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    sweeps: list[Sweep] = field(default_factory=list)
    # True or False where it was measured.
    goals: list[tuple[str, bool | None]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def show(self, name: str, values: list[float], unit: str = "ms") -> None:
        """Prints median and, if there are several values, extremes; keeps all. A name's indent is for print only."""
        self.values.setdefault(name.strip(), []).extend(values)
        self.units[name.strip()] = unit
        if values:
            extremes = f"({number(min(values))}–{number(max(values))}, n={len(values)})" if len(values) > 1 else ""
            print(f"  {name:<56} {number(median(values)):>8} {unit:<5} {extremes}".rstrip(), flush=True)
        else:
            print(f"  {name:<56} {ABSENT:>8}", flush=True)

    def sweep(self, title: str) -> Sweep:
        """A table of its own, to be filled."""
        self.sweeps.append(Sweep(title))
        return self.sweeps[-1]

    def ratio(self, name: str, ours: list[float], peers: list[float], goal: float | None = None) -> None:
        """Prints the median of the rounds' ratios; with a goal, whether it is reached."""
        pairs = [mine / theirs for mine, theirs in zip(ours, peers) if theirs > 0]
        if not pairs:
            if goal is not None:
                self.goal(f"{name}: at most {goal:.3g}", None)
            return
        middle = median(pairs)
        print(f"  {name:<56} {middle:>8.3f} {'×':<5} ({min(pairs):.3f}–{max(pairs):.3f}, by round)", flush=True)
        self.values[name], self.units[name] = pairs, "×"
        if goal is not None:
            self.goal(f"{name}: at most {goal:.3g}, measured {middle:.3f}", middle <= goal)

    def goal(self, name: str, reached: bool | None) -> None:
        """With None: it was not measured."""
        self.goals.append((name, reached))

    def fail(self, reason: str) -> None:
        self.failures.append(reason)
        print(f"  not measured: {reason}", flush=True)

    def add_row(self, row: Row) -> None:
        self.rows.append(row)
        print(f"  {row.tool}")
        for name, cell in zip(HEAD, row.cells(with_extremes)):
            if cell not in ("", ABSENT):
                print(f"    {name:<34} {cell}", flush=True)

    def table(self) -> list[str]:
        head = ["job", "tool", *HEAD]
        rows = [[row.job, row.tool, *row.cells(typical)] for row in self.rows]
        return [f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows]]

    def tables(self) -> list[list[str]]:
        return [*([self.table()] if self.rows else []), *(sweep.lines() for sweep in self.sweeps if sweep.rows)]

    def goal_lines(self) -> list[str]:
        verdicts = {True: "reached", False: "missed", None: "not measured"}
        return [f"goal: {name}: {verdicts[reached]}" for name, reached in self.goals]

    def sum_up(self) -> None:
        for table in self.tables():
            print("\n" + "\n".join(table))
        print("\n" + "\n".join(self.goal_lines()))
        for reason in self.failures:
            print(f"not measured: {reason}")

    def write(self, folder: str, machine: list[str]) -> None:
        """results.md for people, results.csv with the table's medians, results.json with every single value."""
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/results.md", "w", encoding="utf-8") as out:
            parts = [["```", *machine, "```"], *self.tables(), self.value_table()]
            parts.append([f"- {line}" for line in self.goal_lines()])
            parts.append([f"- not measured: {reason}" for reason in self.failures])
            out.write("\n\n".join("\n".join(part) for part in parts if part) + "\n")
        with open(f"{folder}/results.csv", "w", encoding="utf-8", newline="") as out:
            rows = csv.DictWriter(out, list(vars(Row("", ""))))
            rows.writeheader()
            rows.writerows(row.summary() for row in self.rows)
        with open(f"{folder}/results.json", "w", encoding="utf-8") as out:
            goals = [{"goal": name, "reached": reached} for name, reached in self.goals]
            rows = [vars(row) for row in self.rows]
            content = {"machine": machine, "rows": rows, "values": self.values, "units": self.units}
            content |= {"sweeps": [vars(sweep) for sweep in self.sweeps], "goals": goals, "failures": self.failures}
            json.dump(content, out, indent=1, ensure_ascii=False)

    def value_table(self) -> list[str]:
        lines = [f"| {name} | {with_extremes(values)} | {self.units[name]} |" for name, values in self.values.items()]
        return ["| figure | median (extremes) | unit |", "|---|---|---|", *lines] if lines else []


def median(values: list[float]) -> float:
    return statistics.median(values)


def rounded(value: Measured) -> float | None:
    """The median, or the single value, as a file for machines shows it."""
    if value is None or value == []:
        return None
    return round(median(value) if isinstance(value, list) else value, 3)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def number(value: float) -> str:
    """With as many digits as mean something."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 2 else 2 if abs(value) >= 0.1 else 3
    return f"{value:,.{digits}f}"


def typical(value: Measured) -> str:
    """The median, or the single value."""
    if value is None or value == []:
        return ABSENT
    return number(median(value) if isinstance(value, list) else value)


def with_extremes(value: Measured) -> str:
    if isinstance(value, list) and len(value) > 1:
        return f"{typical(value)} ({number(min(value))}–{number(max(value))})"
    return typical(value)
