"""Figures: what was measured, how it is summed up and printed."""

import json
import statistics
from dataclasses import dataclass, field


@dataclass
class Figures:
    """All that was measured in a run."""

    values: dict[str, list[float]] = field(default_factory=dict)
    goals: list[tuple[str, bool]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, name: str, values: list[float]) -> None:
        self.values.setdefault(name, []).extend(values)

    def show(self, name: str, values: list[float], unit: str = "ms") -> None:
        """Prints median and, if there are several values, extremes; keeps all."""
        self.add(name, values)
        if values:
            extremes = f"({number(min(values))}–{number(max(values))}, n={len(values)})" if len(values) > 1 else ""
            print(f"  {name:<56} {number(median(values)):>8} {unit:<5} {extremes}".rstrip())
        else:
            print(f"  {name:<56} {'–':>8}")

    def ratio(self, text: str, ours: list[float], peers: list[float], goal: float | None = None) -> None:
        """Prints the median of the rounds' ratios; with a goal, whether it is met."""
        pairs = [mine / theirs for mine, theirs in zip(ours, peers) if theirs > 0]
        if not pairs:
            return
        middle = median(pairs)
        print(f"  {text:<56} {middle:>8.2f} {'×':<5} ({min(pairs):.2f}–{max(pairs):.2f}, by round)")
        self.add(text, pairs)
        if goal is not None:
            self.goal(f"{text}: at most {goal:g}, measured {middle:.2f}", middle <= goal)

    def goal(self, text: str, met: bool) -> None:
        self.goals.append((text, met))

    def fail(self, text: str) -> None:
        self.failures.append(text)
        print(f"  could not be measured: {text}")

    def sum_up(self) -> None:
        print("\nGoals")
        for text, met in self.goals:
            print(f"  {'met   ' if met else 'MISSED'}  {text}")
        for text in self.failures:
            print(f"  not measured  {text}")

    def write(self, path: str, machine: list[str]) -> None:
        with open(path, "w", encoding="utf-8") as out:
            json.dump({"machine": machine, "values": self.values, "goals": self.goals}, out, indent=1)


def median(values: list[float]) -> float:
    return statistics.median(values)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}"
