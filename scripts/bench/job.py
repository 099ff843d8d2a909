"""The measured job: holds some data, changes a little of it all the time, and tells when it stood still.

usage: job.py KIND MEGABYTES SHARE
  SHARE  of its elements it changes each second, in place and in order, from the first to the last and again
It prints 'ready' once it holds the data, 'alive N' each second, 'stood still MS' after each gap. job.c does the same.
"""

import os
import random
import sqlite3
import sys
import time
from collections.abc import Callable

PAUSE_S = 0.01
# Longer than what a busy machine's scheduler makes of the pause.
STOOD_STILL_MS = 20
# What a standstill adds to the work that is due, at most.
LONGEST_DUE_S = 0.1
PAGE = 4096
ROW_BYTES = 1000
# The database file of the kind `sqlite`.
FILE_ROWS = 10_000
MIB = 1 << 20

# How many elements there are, and what changes those of a range.
Data = tuple[int, Callable[[int, int], None]]


def make_bytes(megabytes: int) -> Data:
    """Random bytes, which no compression makes smaller; an element is a page."""
    memory = bytearray(megabytes * MIB)
    for at in range(0, len(memory), MIB):
        memory[at : at + MIB] = os.urandom(MIB)

    def change(first: int, last: int) -> None:
        memory[first * PAGE : last * PAGE] = os.urandom((last - first) * PAGE)

    return len(memory) // PAGE, change


def make_list(megabytes: int) -> Data:
    """A list of floats: 24 bytes an object and 8 for its place in the list."""
    draw = random.random
    values = [draw() for _ in range(megabytes * MIB // 32)]

    def change(first: int, last: int) -> None:
        values[first:last] = [draw() for _ in range(last - first)]

    return len(values), change


def make_array(megabytes: int) -> Data:
    """A numpy array of float64."""
    import numpy  # of all kinds only this one needs it

    generator = numpy.random.default_rng()
    values = generator.random(megabytes * MIB // 8)

    def change(first: int, last: int) -> None:
        values[first:last] = generator.random(last - first)

    return len(values), change


def make_dict(megabytes: int) -> Data:
    """A dictionary of floats by number."""
    draw = random.random
    values: dict[int, float] = {}

    def add() -> None:
        size = len(values)
        values.update((key, draw()) for key in range(size, size + 10_000))

    grow(megabytes, add)

    def change(first: int, last: int) -> None:
        for key in range(first, last):
            values[key] = draw()

    return len(values), change


def make_sqlite(megabytes: int) -> Data:
    """A database in memory, and one in a file on the job's disk that changes at the same pace, commit by commit.

    The file's commits do not wait for the disk: such waits would be taken for standstills.
    """
    memory = sqlite3.connect(":memory:", isolation_level=None)
    memory.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, value BLOB)")
    rows = 0

    def add() -> None:
        nonlocal rows
        insert_rows(memory, rows, 1000)
        rows += 1000

    grow(megabytes, add)
    file = sqlite3.connect("job.db", isolation_level=None)
    file.execute("PRAGMA synchronous=OFF")
    file.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, value BLOB)")
    insert_rows(file, 0, FILE_ROWS)

    def change(first: int, last: int) -> None:
        update = f"UPDATE t SET value = randomblob({ROW_BYTES}) WHERE id >= ? AND id < ?"
        memory.execute(update, (first, last))
        file.execute(update, (first % FILE_ROWS, first % FILE_ROWS + last - first))

    return rows, change


def insert_rows(database: sqlite3.Connection, first: int, count: int) -> None:
    rows = ((number, os.urandom(ROW_BYTES)) for number in range(first, first + count))
    database.execute("BEGIN")
    database.executemany("INSERT INTO t VALUES (?, ?)", rows)
    database.execute("COMMIT")


def make_disk(megabytes: int) -> Data:
    """A file of random bytes on the job's disk, next to no memory; an element is a page."""
    file = os.open("data", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    for _ in range(megabytes):
        os.write(file, os.urandom(MIB))
    os.fsync(file)

    def change(first: int, last: int) -> None:
        os.pwrite(file, os.urandom((last - first) * PAGE), first * PAGE)

    return megabytes * MIB // PAGE, change


def grow(megabytes: int, add: Callable[[], None]) -> None:
    """Adds until the process holds so much more memory."""
    goal = resident_bytes() + megabytes * MIB
    while resident_bytes() < goal:
        add()


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * PAGE


def change_on(elements: int, change: Callable[[int, int], None], share: float) -> None:
    """Changes the elements at the given pace, for ever."""
    at, due, told = 0, 0.0, 0
    began = before = time.monotonic()
    while True:
        time.sleep(PAUSE_S)
        now = time.monotonic()
        gap_s, before = now - before, now
        if gap_s * 1e3 > STOOD_STILL_MS:
            print(f"stood still {gap_s * 1e3:.1f}", flush=True)
        if now - began > told:
            told = int(now - began) + 1
            print(f"alive {told}", flush=True)
        due += min(gap_s, LONGEST_DUE_S) * share * elements
        count = min(int(due), elements - at)
        due -= int(due)
        if count:
            change(at, at + count)
            at = (at + count) % elements


MAKE = {
    "bytes": make_bytes,
    "list": make_list,
    "array": make_array,
    "dict": make_dict,
    "sqlite": make_sqlite,
    "disk": make_disk,
}


def main(kind: str, megabytes: int, share: float) -> None:
    elements, change = MAKE[kind](megabytes)
    print("ready", flush=True)
    change_on(elements, change, share)


main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
