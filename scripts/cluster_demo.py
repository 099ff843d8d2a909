#!/usr/bin/env -S python3 -B
"""Shows that no job of a group is lost, whatever dies: nodes, etcd members, the S3 server.

usage: scripts/cluster_demo.py WORKRS      (the built program; `make cluster-demo` gives it)

Hands several jobs over, then kills and stops one thing after another, and tells what becomes of the jobs. Exits with 0
only if every job ended once, was never started from zero again, and its log and result are, byte for byte, those of a
run that nobody disturbed. Everything happens in a temporary folder, and nothing of it is left behind.
"""

import contextlib
import io
import json
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import cluster
from common import (
    JOB, Failed, check_host, choose_limit, clean_environment, name_of, patiently, perform, tell_end_of,
    temporary_folder,
)  # fmt: skip

JOBS = 4
JOB_OPTIONS = ["--cpus", "1", "--memory", "128M", "--disk", "128M", "--checkpoint", "every=2s"]
JOB_SECONDS = 20
# How long nodes are without S3: some checkpoints that cannot be stored.
S3_AWAY_SECONDS = 6
RESULT = "primes.txt"


class Job:
    """A job that was handed over, and all that was seen of it. Its record keeps the newest attempts only."""

    def __init__(self, name, limit):
        self.id, self.limit = name, limit
        self.attempts, self.checkpoints, self.view = {}, {}, None

    def node(self):
        """Where it runs, if it does."""
        return self.view["node"] if self.view and self.view["state"] == "running" else None

    def is_finished(self):
        return self.view is not None and self.view["state"] == "finished"

    def is_safe(self):
        """Whether it would not begin from zero."""
        return bool(self.view and self.view["checkpoints"])

    def runs_since(self, epoch):
        """Whether an attempt after that epoch has started."""
        newer = [attempt for attempt in self.attempts.values() if attempt["epoch"] > epoch]
        return any(attempt.get("started_at") for attempt in newer)

    def see(self, view):
        """Takes what is new, and gives the attempts and checkpoints that are."""
        self.view = view
        started = {attempt["epoch"]: attempt for attempt in view["attempts"] if attempt.get("started_at")}
        fresh = [attempt for epoch, attempt in sorted(started.items()) if epoch not in self.attempts]
        self.attempts |= started
        stored = {name_of(checkpoint): checkpoint for checkpoint in view["checkpoints"]}
        new = [checkpoint for name, checkpoint in stored.items() if name not in self.checkpoints]
        self.checkpoints |= stored
        return fresh, new


class Reference:
    """Undisturbed runs outside of Workrs, one after the other, so that the jobs have a core at least."""

    def __init__(self, folder):
        self.folder, self.waiting, self.process = folder, [], None
        folder.mkdir()

    def add(self, job):
        self.waiting.append(job)

    def go_on(self):
        """Starts the next one when the one before has ended. Gives whether all have."""
        if self.process is not None and self.process.poll() is None:
            return False
        if self.process is not None and self.process.returncode != 0:
            raise Failed("an undisturbed run failed")
        if not self.waiting:
            return True
        job = self.waiting.pop(0)
        place = self.folder / job.id
        place.mkdir()
        with (place / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, JOB, str(job.limit)], cwd=place, stdin=subprocess.DEVNULL, stdout=log
            )
        return False

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def read(self, job, name):
        return (self.folder / job.id / name).read_bytes()


class Show:
    """The group, its jobs, and what is told about them."""

    def __init__(self, group, reference, limit, program, screen):
        self.group, self.reference, self.limit, self.program, self.screen = group, reference, limit, program, screen
        self.jobs, self.faults, self.nodes = [], 0, list(group.nodes)
        # When the fault that is shown now struck, and what it was.
        self.since, self.fault = time.time(), "it was handed over"

    def hand_over(self):
        """A job with a limit of its own, so that no result can stand for another's."""
        job = Job(f"primes-{len(self.jobs) + 1}", self.limit + len(self.jobs) * 100_000)
        arguments = ["submit", *JOB_OPTIONS, "--id", job.id, str(JOB), str(job.limit)]
        self.screen.command(" ".join(["workrs", *arguments[:-2], JOB.name, arguments[-1]]))
        environment = clean_environment() | {"WORKRS_SERVER": self.group.endpoints()}
        done = subprocess.run([self.program, *arguments], capture_output=True, env=environment, check=False)
        if done.returncode != 0:
            raise Failed(f"the job was not accepted: {done.stderr.decode(errors='replace').strip()}")
        self.jobs.append(job)
        self.reference.add(job)

    def ask(self, path):
        """What any node answers; the next one is asked if one is dead or stands still. None if all are or fail."""
        for node in list(self.nodes):
            with contextlib.suppress(OSError):
                return cluster.fetch(f"{node.url}/api/v1/{path}")
            self.nodes.remove(node)  # the last to be asked from now on
            self.nodes.append(node)
        return None

    def look(self):
        """Looks at every job, and tells what is new."""
        self.reference.go_on()
        for job in self.jobs:
            if job.is_finished():
                continue
            answer = self.ask(f"jobs/{job.id}")
            if answer is not None:
                before = job.node()
                self.tell(job, before, *job.see(json.loads(answer)))

    def tell(self, job, before, attempts, checkpoints):
        for attempt in attempts:
            after = attempt["started_at"] / 1000 - self.since
            if attempt["start"] == "clean":
                self.screen.event(f"{job.id} runs on {attempt['node']}")
                continue
            last = max((one for one in job.attempts.values() if one["epoch"] < attempt["epoch"]),
                       key=lambda one: one["epoch"], default=None)  # fmt: skip
            source = last["node"] if last else before
            used = job.checkpoints.get(attempt["start"])
            work = f", {used['run_ms'] / 1000:.1f} s of work" if used else ""
            self.screen.event(
                f"{job.id}: {source} -> {attempt['node']}, from checkpoint {attempt['start']}{work}; "
                f"it goes on {after:.1f} s after {self.fault}", "cyan",
            )  # fmt: skip
        for checkpoint in checkpoints:
            self.screen.event(f"{job.id}: checkpoint {name_of(checkpoint)} is stored", "dim")
        if job.is_finished():
            self.screen.event(f"{job.id} {job.view['outcome_text']}", "green")

    def until(self, condition, what):
        for _ in patiently(what):
            self.look()
            if found := condition():
                return found
        raise AssertionError("patiently gives up by itself")

    def strikes(self, what):
        """A fault strikes now."""
        self.since, self.fault = time.time(), what
        self.faults += 1

    def unfinished(self):
        return [job for job in self.jobs if not job.is_finished()]

    def busy_node(self):
        """A node that runs jobs, all of which have a checkpoint. There are always some jobs to disturb."""

        def find():
            if len(self.unfinished()) < 2:
                self.hand_over()
            here = {node: [job for job in self.jobs if job.node() == node.name] for node in self.group.nodes}
            fit = [node for node, jobs in here.items() if jobs and all(job.is_safe() for job in jobs)]
            return max(fit, key=lambda node: len(here[node]), default=None)

        node = self.until(find, "a node that runs jobs with checkpoints")
        return node, {job: job.view["epoch"] for job in self.jobs if job.node() == node.name}

    def until_moved(self, epochs):
        self.until(
            lambda: all(job.is_finished() or job.runs_since(epoch) for job, epoch in epochs.items()),
            "the jobs to go on elsewhere",
        )

    def until_checkpoint(self):
        """Waits for a checkpoint that began after the fault, which proves that state and blobs work again."""

        def is_there():
            if not self.unfinished():
                self.hand_over()
            stored = [one for job in self.jobs for one in job.checkpoints.values()]
            return any(one["at"] / 1000 > self.since for one in stored)

        self.until(is_there, "a new checkpoint")
        self.screen.event(f"a checkpoint that began since is stored, {time.time() - self.since:.1f} s after {self.fault}")


def lose_a_node(show):
    show.screen.chapter("A node dies without a warning")
    node, epochs = show.busy_node()
    show.screen.command(f"kill -9 {node.process.pid}      # {node.name}, runs {', '.join(job.id for job in epochs)}")
    show.strikes(f"{node.name} was killed")
    node.kill()
    show.until_moved(epochs)
    show.group.start_node(node)
    node.until(node.is_up)
    show.screen.event(f"{node.name} is back")


def lose_an_etcd_member(show, leads):
    show.screen.chapter("The leader of etcd dies" if leads else "A member of etcd dies")
    show.busy_node()
    leader = show.until(show.group.leader, "etcd to have a leader")
    member = leader if leads else next(one for one in show.group.etcd if one is not leader)
    show.screen.command(f"kill -9 {member.process.pid}      # {member.name}{', the leader' if leads else ''}")
    show.strikes(f"{member.name} was killed")
    member.kill()
    if leads:
        show.until(show.group.leader, "etcd to choose a new leader")
        show.screen.event(f"{show.group.leader().name} leads now, {time.time() - show.since:.1f} s after {show.fault}")
    show.until_checkpoint()
    show.group.start_again(member)
    member.until(member.is_healthy)
    show.screen.event(f"{member.name} is back")


def lose_sight_of_a_node(show):
    show.screen.chapter(f"A node stands still for longer than its lease of {cluster.LEASE_SECONDS} s, its jobs do not")
    node, epochs = show.busy_node()
    show.screen.command(f"kill -STOP {node.process.pid}      # {node.name}, runs {', '.join(job.id for job in epochs)}")
    show.strikes(f"{node.name} was stopped")
    node.signal(signal.SIGSTOP)
    show.until_moved(epochs)
    left = [job.id for job, epoch in epochs.items() if processes_of(node, job, epoch)]
    if left:
        show.screen.event(f"{node.name} knows nothing of it; copies of {', '.join(left)} run there still")
    show.screen.command(f"kill -CONT {node.process.pid}")
    node.signal(signal.SIGCONT)
    show.until(
        lambda: not any(processes_of(node, job, epoch) for job, epoch in epochs.items()),
        f"{node.name} to end its copies",
    )
    show.screen.event(f"{node.name} is back in touch and has ended its copies; nothing that they did counts")


def lose_s3(show):
    show.screen.chapter("The S3 server is away for some seconds")
    show.busy_node()
    show.screen.command(f"kill {show.group.s3.process.pid}      # Garage")
    show.strikes("S3 went away")
    show.group.s3.stop(10)
    while time.time() < show.since + S3_AWAY_SECONDS:
        show.look()
        time.sleep(0.1)
    show.group.s3.start()
    show.group.s3.until(show.group.s3.answers)
    show.screen.event("S3 is back; the jobs ran on meanwhile")
    show.strikes("S3 was back")
    show.faults -= 1
    show.until_checkpoint()


def processes_of(node, job, epoch):
    """The processes of an attempt at a job that are on this machine in the name of a node."""
    mark = f"/workrs/{node.name}/{job.id}-{epoch}"
    found = []
    for file in Path("/proc").glob("[0-9]*/cgroup"):
        with contextlib.suppress(OSError):
            if re.search(re.escape(mark) + r"(/|$)", file.read_text(), re.MULTILINE):
                found.append(file.parent.name)
    return found


def check(show):
    """Compares what every node tells about every job with the undisturbed runs. Gives how often jobs were resumed."""
    listed = {job["id"] for job in json.loads(show.ask("jobs?limit=100"))["jobs"]}
    if listed != {job.id for job in show.jobs}:
        raise Failed(f"the group lists the jobs {sorted(listed)}")
    resumed = 0
    for job in show.jobs:
        if job.view["outcome"] != "succeeded":
            raise Failed(f"{job.id} {job.view['outcome_text']}")
        first, *more = [attempt for _, attempt in sorted(job.attempts.items())]
        if first["start"] != "clean" or any(attempt["start"] == "clean" for attempt in more):
            raise Failed(f"{job.id} was started from zero again")
        resumed += len(more)
        for node in show.group.nodes:
            if cluster.fetch(f"{node.url}/api/v1/jobs/{job.id}/logs") != show.reference.read(job, "log"):
                raise Failed(f"the log of {job.id}, asked of {node.name}, differs from that of the undisturbed run")
            if result_of(node, job) != show.reference.read(job, RESULT):
                raise Failed(f"the result of {job.id}, asked of {node.name}, differs from that of the undisturbed run")
    return resumed


def result_of(node, job):
    archive = cluster.fetch(f"{node.url}/api/v1/jobs/{job.id}/outputs?archive=tar")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        names = [name for name in files.getnames() if Path(name).name == RESULT]
        if len(names) != 1:
            raise Failed(f"{job.id} has the outputs {files.getnames()}")
        return files.extractfile(names[0]).read()


def perform_faults(show):
    show.screen.chapter(f"{JOBS} jobs are handed over: each counts and hashes primes, and saves nothing by itself")
    for _ in range(JOBS):
        show.hand_over()
    lose_a_node(show)
    lose_an_etcd_member(show, leads=False)
    lose_sight_of_a_node(show)
    lose_an_etcd_member(show, leads=True)
    lose_s3(show)
    lose_a_node(show)
    show.screen.chapter("The jobs come to their end")
    show.until(lambda: not show.unfinished(), "the jobs to finish")
    if not show.reference.go_on():
        show.screen.event("waiting for undisturbed runs of the same programs", "dim")
        show.until(show.reference.go_on, "the undisturbed runs")


def demo(program, screen, folder, cleanup):
    screen.title("Workrs: a group of which any part may die")
    check_host(program, folder / "demo-1", cluster.POOL)
    limit = choose_limit(folder, JOB_SECONDS)
    reference = Reference(folder / "reference")
    cleanup.callback(reference.stop)
    group = cluster.Group(program, folder, "demo", cleanup)
    screen.chapter(f"{cluster.MEMBERS} members of etcd, an S3 server and {cluster.NODES} nodes start")
    group.start()
    for one in group.programs:
        screen.note(f"{one.name} is process {one.process.pid}")
    show = Show(group, reference, limit, program, screen)
    perform_faults(show)
    resumed = check(show)
    screen.chapter("What came of it")
    screen.fact("jobs", f"{len(show.jobs)}, all succeeded")
    screen.fact("faults", f"{show.faults}: nodes, etcd, its leader, a node out of touch, S3")
    screen.fact("resumed", f"{resumed} times, each time from a checkpoint; none was started from zero")
    equal = "undisturbed runs outside of Workrs: all logs and results, from every node, are equal, byte for byte"
    screen.fact("compared with", equal, "green")
    screen.fact("so", "no job was lost, and each has one result", "green")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__.split("\n\n")[1])
    began = time.monotonic()

    def act(program, screen, cleanup):
        cluster.hold("demo", cleanup)
        folder = temporary_folder("workrs-cluster-demo-", cleanup)
        try:
            demo(program, screen, folder, cleanup)
        except (Failed, OSError, subprocess.SubprocessError):
            for log in sorted(folder.glob("*.log")):
                tell_end_of(log)
            raise
        cleanup.close()
        screen.note("")
        screen.note(f"The demo took {time.monotonic() - began:.0f} s; nothing of it is left behind.", "dim")

    perform("cluster-demo", sys.argv[1], act)


if __name__ == "__main__":
    main()
