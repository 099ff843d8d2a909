"""What is measured with each tool alike: a job is started, checkpointed and restored."""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

READY_DEADLINE_S = 180
ALIVE_DEADLINE_S = 20
# The job prints how long it stood still some moments after it runs again.
PRINTED_S = 0.2


@dataclass(frozen=True)
class Work:
    """The measured job: a kind of data and its amount, of which it changes a share each second."""

    kind: str
    megabytes: int
    share: float

    @property
    def arguments(self) -> list[str]:
        amount = [str(self.megabytes), f"{self.share:g}"]
        return amount if self.kind == "c" else [self.kind, *amount]

    def command(self) -> list[str]:
        """In the root that the peers share."""
        return [*(["/bench/job"] if self.kind == "c" else ["python3", "/bench/job.py"]), *self.arguments]

    @property
    def memory_mib(self) -> int:
        """The limit; room for what Python takes beside its data, and for the page cache of a dump."""
        return 1024 if self.kind == "disk" else 2 * self.megabytes + 512

    @property
    def disk_mib(self) -> int:
        return self.megabytes * 5 // 4 + 256 if self.kind == "disk" else 512


@dataclass(frozen=True)
class Checkpoint:
    """What one cost."""

    total_ms: float
    # What was uploaded, exported or written for it.
    stored_bytes: int
    # What it consists of, where the tool tells that.
    size_bytes: int | None = None
    # As the tool tells it, where it does.
    standstill_ms: float | None = None
    # The longest standstill that the job itself saw meanwhile.
    gap_ms: float | None = None


@dataclass(frozen=True)
class Restore:
    """What one cost; more laps by name."""

    took_ms: float
    laps: dict[str, float] = field(default_factory=dict)


class Tool(ABC):
    """One job under one tool. Every method raises RuntimeError if the tool fails."""

    name: str
    # What its peak memory counts.
    counts: str
    # What the table has to say of it.
    note = ""
    # Whether it takes a checkpoint when told to, or by its own clock.
    takes_orders = True
    # The most memory of the tool and the commands that it runs, where that is sampled.
    helpers_peak_mib: float | None = None

    def __init__(self) -> None:
        self._read = 0

    @abstractmethod
    def start(self, work: Work) -> None:
        """Starts the job; returns when it holds its data."""

    @abstractmethod
    def checkpoint(self) -> Checkpoint:
        """Takes one, or waits for the next; the job runs on."""

    @abstractmethod
    def restore(self) -> Restore:
        """Ends the job and brings it back from its newest checkpoint; returns when it works on."""

    @abstractmethod
    def log(self) -> str:
        """What the job has printed, as far as the tool has it."""

    @abstractmethod
    def remove(self) -> None:
        """Ends the job and forgets it, whatever state it is in."""

    @abstractmethod
    def reset_peak(self) -> None:
        """From here on peak memory counts."""

    @abstractmethod
    def peak_mib(self) -> float:
        """The most memory that the tool held since the last reset; the job's own does not count."""

    def wait_ready(self) -> None:
        self._wait(lambda log: "ready" in log, READY_DEADLINE_S, "hold its data")

    def wait_alive(self, log_before: str = "") -> None:
        """Waits until the job has told twice that it is alive, beyond what it had printed."""
        told = log_before.count("alive")
        self._wait(lambda log: log.count("alive") >= told + 2, ALIVE_DEADLINE_S, "work on after the restore")

    def _wait(self, what, deadline_s: float, text: str) -> None:
        deadline = time.monotonic() + deadline_s
        while not what(log := self.log()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the job does not {text}; it printed last: {log[-300:].strip() or 'nothing'}")
            time.sleep(0.05)

    def longest_gap(self) -> float | None:
        """The longest standstill that the job noticed since the last call, in ms."""
        time.sleep(PRINTED_S)
        text = self.log()
        fresh, self._read = text[self._read :], len(text)
        gaps = [float(line.split()[2]) for line in fresh.splitlines() if line.startswith("stood still")]
        return max(gaps, default=None)
