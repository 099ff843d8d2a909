#!/usr/bin/env -S python3 -B
"""Shows that a job outlives its node: a node runs a job, is killed with SIGKILL, comes back, and the job goes on.

usage: scripts/demo.py WORKRS      (the path of the built program; `make demo` gives it)

Everything happens in a temporary folder and on a free port of loopback. Exits with 0 only if the job was resumed from
a checkpoint and its result and log are, byte for byte, those of a run that nobody disturbed. Cleans up in any case.
"""

import json
import re
import subprocess
import sys
import time

from common import (
    DEADLINE_SECONDS, JOB, Failed, check_host, choose_limit, clean_environment, name_of, patiently, perform, size,
    tell_end_of, temporary_folder,
)  # fmt: skip

POOL = "1G"
NODE_OPTIONS = ["--name", "demo", "--disk-pool", POOL]
JOB_OPTIONS = ["--disk", "256M", "--checkpoint", "every=2s"]
JOB_SECONDS = 20
CHECKPOINTS_BEFORE_THE_KILL = 3


class Node:
    """A node process, started on the same data folder and port each time."""

    def __init__(self, program, folder):
        self.program, self.data, self.log = program, folder / "node", folder / "node.log"
        self.address, self.process = "127.0.0.1:0", None

    def start(self, screen):
        options = ["--listen", self.address, "--data-dir", str(self.data), *NODE_OPTIONS]
        screen.command(" ".join(["workrs", "up", *options]))
        begin = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.program, "up", *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean_environment(), start_new_session=True,
            )  # fmt: skip
        for _ in patiently("the node to come up"):
            text = self.log.read_bytes()[begin:].decode(errors="replace")
            if found := re.search(r"^node .* is up: http://([\d.:]+), .*$", text, re.MULTILINE):
                self.address = found[1]
                screen.note(found[0])
                return
            if self.process.poll() is not None:
                raise Failed("the node did not come up")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()

    def ask(self, *arguments):
        """Runs a command of the client."""
        command = [self.program, *arguments]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=self.environment(), check=False
        )
        if done.returncode != 0:
            raise Failed(f"workrs {' '.join(arguments)}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout

    def environment(self):
        return clean_environment() | {"WORKRS_SERVER": f"http://{self.address}"}


class Follower:
    """`workrs run`, which hands the job over and follows it. It prints into a file, which is shown here."""

    def __init__(self, node, folder, limit, screen):
        self.screen, self.printed, self.shown = screen, folder / "run", 0
        self.checkpoints = {}
        arguments = ["run", *JOB_OPTIONS, "--fetch-to", str(folder / "result"), str(JOB), str(limit)]
        screen.command(f"workrs run {' '.join(JOB_OPTIONS)} {JOB.name} {limit}")
        with self.printed.open("wb") as printed:
            self.process = subprocess.Popen(
                [node.program, *arguments],
                stdin=subprocess.DEVNULL, stdout=printed, stderr=printed, env=node.environment(), start_new_session=True,
            )  # fmt: skip
        for _ in patiently("the job to be accepted"):
            if found := re.search(r"job (\S+) is accepted", self.printed.read_text()):
                self.job = found[1]
                return
            self.show()
            if self.process.poll() is not None:
                raise Failed("the job was not accepted")

    def show(self):
        """Shows the whole lines that are new: the job's, and in colour what Workrs says about it."""
        new = self.printed.read_bytes()[self.shown :]
        new = new[: new.rfind(b"\n") + 1]
        self.shown += len(new)
        for line in new.decode().splitlines():
            self.screen.event(line, "cyan" if line.startswith("[workrs]") else None)

    def look(self, node):
        """The job as it is now. Its record keeps only the newest checkpoints; here all that were seen are kept."""
        job = json.loads(node.ask("show", "--json", self.job))
        fresh = {name_of(checkpoint): checkpoint for checkpoint in job["checkpoints"]}
        fresh = {name: checkpoint for name, checkpoint in fresh.items() if name not in self.checkpoints}
        self.checkpoints |= fresh
        return job, fresh

    def steps(self, length=None):
        """How many steps the job has printed, in the first `length` bytes of its log."""
        lines = self.printed.read_bytes().splitlines(keepends=True)
        return b"".join(line for line in lines if not line.startswith(b"[workrs]"))[:length].count(b"\n")


def until_killing_time(node, follower, screen):
    """Follows the job until it has checkpoints and, after the newest, has finished at least one more step."""
    for _ in patiently("the job's checkpoints"):
        job, fresh = follower.look(node)
        follower.show()
        for name, checkpoint in fresh.items():
            stood, stored = checkpoint["standstill_ms"], size(checkpoint["uploaded_bytes"])
            screen.event(f"checkpoint {name}: the job stood still for {stood} ms, {stored} stored", "green")
        if job["state"] == "finished":
            raise Failed(f"the job ended before its node could be killed: it {job['outcome_text']}")
        if len(job["attempts"]) > 1:
            raise Failed(f"the node gave the job back: {'; '.join(job['attempts'][0]['notes'])}")
        if job["resumable"].get("yes") is False:
            raise Failed(f"the job cannot be checkpointed: {job['resumable'].get('reason')}")
        if len(follower.checkpoints) >= CHECKPOINTS_BEFORE_THE_KILL:
            newest = job["checkpoints"][-1]
            if follower.steps() > follower.steps(newest["log_bytes"]):
                return


def until_finished(follower):
    for _ in patiently("the job to finish"):
        ended = follower.process.poll()
        follower.show()
        if ended == 0:
            return
        if ended is not None:
            raise Failed(f"workrs run exited with {ended}")


def check(node, follower, folder):
    """Checks what the demo claims, and gives the facts to tell."""
    job, _ = follower.look(node)
    first, *more = job["attempts"]
    if len(more) != 1 or first["start"] != "clean":
        raise Failed(f"the job was started {len(job['attempts'])} times, expected 2")
    if more[0]["start"] == "clean":
        raise Failed("the job began anew: " + "; ".join(more[0]["notes"]))
    used = follower.checkpoints.get(more[0]["start"])
    if used is None:
        raise Failed(f"the job was resumed from checkpoint {more[0]['start']}, which nobody saw")
    expected = folder / "reference"
    if node.ask("logs", follower.job) != (expected / "log").read_bytes():
        raise Failed("the job's log differs from that of the undisturbed run")
    if (folder / "result" / "primes.txt").read_bytes() != (expected / "primes.txt").read_bytes():
        raise Failed("the job's result differs from that of the undisturbed run")
    resumed_at = follower.steps(used["log_bytes"])
    if resumed_at == 0:
        raise Failed("the job was resumed before its first step was done")
    return job, used, resumed_at


def demo(program, screen, folder, cleanup):
    screen.title("Workrs: a job outlives its node")
    check_host(program, folder / "node", POOL)
    limit = choose_limit(folder, JOB_SECONDS)
    (folder / "reference").mkdir()
    with (folder / "reference" / "log").open("wb") as log:
        reference = subprocess.Popen(
            [sys.executable, JOB, str(limit)], cwd=folder / "reference", stdin=subprocess.DEVNULL, stdout=log
        )
    cleanup.callback(reference.wait)
    cleanup.callback(reference.kill)

    screen.chapter("1. A node starts, with a data folder of its own")
    node = Node(program, folder)
    cleanup.callback(node.stop)
    node.start(screen)

    screen.chapter(f"2. A job is handed over: count and hash all primes below {limit:,}")
    follower = Follower(node, folder, limit, screen)
    cleanup.callback(follower.process.wait)
    cleanup.callback(follower.process.kill)
    until_killing_time(node, follower, screen)

    screen.chapter("3. The node dies without a warning, and the job with it")
    screen.command(f"kill -9 {node.process.pid}")
    node.kill()
    time.sleep(1)  # long enough to see the client notice
    follower.show()
    killed_at = follower.steps()

    screen.chapter("4. The node comes back, and the job goes on where its newest checkpoint was taken")
    node.start(screen)
    follower.look(node)
    until_finished(follower)
    if reference.poll() is None:
        screen.event("waiting for an undisturbed run of the same program, which began together with the job", "dim")
    if reference.wait(timeout=DEADLINE_SECONDS) != 0:
        raise Failed("the undisturbed run failed")

    job, used, resumed_at = check(node, follower, folder)
    away = (job["attempts"][1]["started_at"] - job["attempts"][0]["ended_at"]) / 1000
    totals = job["totals"]
    screen.chapter("5. What came of it")
    screen.fact("checkpoints", f"{totals['checkpoints']}; the job stood still for "
                f"{totals['standstill_ms'] // totals['checkpoints']} ms each on average")  # fmt: skip
    screen.fact("killed", f"after step {killed_at}")
    screen.fact("resumed", f"from checkpoint {name_of(used)}, after step {resumed_at}, "
                f"{away:.1f} s after the node was back")  # fmt: skip
    screen.fact("computed twice", f"{killed_at - resumed_at} of {killed_at} steps; without checkpoints all {killed_at}")
    for line in (folder / "result" / "primes.txt").read_text().splitlines():
        screen.fact("result" if line.startswith("primes") else "", line)
    equal = "an undisturbed run outside of Workrs: result and log are equal, byte for byte"
    screen.fact("compared with", equal, "green")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__.split("\n\n")[1])
    began = time.monotonic()

    def act(program, screen, cleanup):
        folder = temporary_folder("workrs-demo-", cleanup)
        try:
            demo(program, screen, folder, cleanup)
        except (Failed, OSError, subprocess.SubprocessError):
            tell_end_of(folder / "node.log")
            raise
        cleanup.close()
        screen.note("")
        screen.note(f"The demo took {time.monotonic() - began:.0f} s; nothing of it is left behind.", "dim")

    perform("demo", sys.argv[1], act)


if __name__ == "__main__":
    main()
