#!/usr/bin/env -S python3 -B
"""Runs a group on this machine: three etcd members, an S3 server (Garage) and three nodes, until Ctrl-C.

usage: scripts/cluster.py [--fresh] [--folder DIR] WORKRS      (the built program; `make cluster` gives it)

  --fresh       begin with an empty group
  --folder DIR  where everything of the group lies (default /var/tmp/workrs-cluster)

What dies meanwhile, for instance by kill -9, is started again after some seconds. Ctrl-C stops the nodes in order, then
the rest. Without --fresh the next start finds the jobs as they were.
"""

import argparse
import contextlib
import fcntl
import json
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from common import PARENT, Failed, check_host, clean_environment, patiently, perform, tell_end_of

MEMBERS = NODES = 3
BUCKET, REGION = "workrs", "garage"
LEASE_SECONDS = 5
POOL = "1G"
NODE_OPTIONS = ["--lease", f"{LEASE_SECONDS}s", "--disk-pool", POOL, "--cpus", "2", "--memory", "1G"]
# Below the ports that the kernel lends to outgoing connections: a node that died must find its port free.
PORTS = range(20000, 32000)
# How long a node may save its jobs; it gives up by itself before.
STOP_SECONDS = 100
RESTART_SECONDS = 10


class Program:
    """A process of the group. It dies with this script, however that ends; it does not see the terminal's Ctrl-C."""

    def __init__(self, name, folder):
        self.name, self.log, self.process = name, folder / f"{name}.log", None

    def launch(self, command, environment):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *map(str, command)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def until(self, is_up):
        for _ in patiently(f"{self.name} to come up"):
            if is_up():
                return
            if not self.is_running():
                raise Failed(f"{self.name} did not come up; it exited with {self.process.returncode}, see {self.log}")

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        if self.is_running():
            self.process.kill()
            self.process.wait()

    def terminate(self):
        """Asks it to end. One that stands still could not hear that."""
        if self.is_running():
            self.signal(signal.SIGCONT)
            self.process.terminate()

    def stop(self, patience):
        """Gives whether it ended by itself."""
        self.terminate()
        try:
            return self.process is None or self.process.wait(timeout=patience) is not None
        except subprocess.TimeoutExpired:
            self.kill()
            return False


class EtcdMember(Program):
    """One of the three that keep the state."""

    def __init__(self, name, folder, ports):
        super().__init__(name, folder)
        self.data, self.client, self.peer = folder / name, *(f"http://127.0.0.1:{port}" for port in ports)

    def start(self, members):
        options = {
            "name": self.name,
            "data-dir": self.data,
            "listen-client-urls": self.client,
            "advertise-client-urls": self.client,
            "listen-peer-urls": self.peer,
            "initial-advertise-peer-urls": self.peer,
            "initial-cluster": ",".join(f"{member.name}={member.peer}" for member in members),
            "log-level": "warn",
        }
        self.launch(["etcd", *(f"--{name}={value}" for name, value in options.items())], clean_environment())

    def is_healthy(self):
        """Whether it is part of a group with a leader."""
        with contextlib.suppress(OSError, ValueError):
            return fetch_json(f"{self.client}/health")["health"] == "true"
        return False

    def is_leader(self):
        with contextlib.suppress(OSError, ValueError):
            status = fetch_json(f"{self.client}/v3/maintenance/status", b"{}")
            return status["leader"] == status["header"]["member_id"]
        return False


class S3Server(Program):
    """Garage as a single server, with one bucket and one key, which it makes at its first start."""

    def __init__(self, folder, port, rpc_port, keys):
        super().__init__("s3", folder)
        self.endpoint, self.keys, self.configuration = f"http://127.0.0.1:{port}", keys, folder / "garage.toml"
        self.configuration.touch(mode=0o600)  # Garage refuses secrets that others may read
        self.configuration.write_text(f"""\
metadata_dir = "{folder}/s3/meta"
data_dir = "{folder}/s3/data"
db_engine = "lmdb"
metadata_fsync = true
data_fsync = true
replication_factor = 1
rpc_bind_addr = "127.0.0.1:{rpc_port}"
rpc_public_addr = "127.0.0.1:{rpc_port}"
rpc_secret = "{keys['rpc']}"

[s3_api]
api_bind_addr = "127.0.0.1:{port}"
s3_region = "{REGION}"
""")

    def start(self):
        command = ["garage", "-c", self.configuration, "server", "--single-node", "--default-bucket"]
        keys = {
            "GARAGE_DEFAULT_BUCKET": BUCKET,
            "GARAGE_DEFAULT_ACCESS_KEY": self.keys["access"],
            "GARAGE_DEFAULT_SECRET_KEY": self.keys["secret"],
            "RUST_LOG": "garage=warn",
        }
        self.launch(command, clean_environment() | keys)

    def answers(self):
        try:
            return bool(fetch(self.endpoint))
        except urllib.error.HTTPError:
            return True  # it refuses those who have no key
        except OSError:
            return False


class Node(Program):
    """A node, on the same data folder and port each time."""

    options = NODE_OPTIONS

    def __init__(self, name, folder, port, program):
        super().__init__(name, folder)
        self.program, self.data, self.address = program, folder / name, f"127.0.0.1:{port}"
        self.url = f"http://{self.address}"

    def start(self, stores, keys):
        credentials = {
            "AWS_ACCESS_KEY_ID": keys["access"],
            "AWS_SECRET_ACCESS_KEY": keys["secret"],
            "AWS_REGION": REGION,
        }
        options = ["--name", self.name, "--data-dir", self.data, "--listen", self.address, *stores, *self.options]
        self.begin = self.log.stat().st_size if self.log.exists() else 0
        self.launch([self.program, "up", *options], clean_environment() | credentials)

    def is_up(self):
        text = self.log.read_bytes()[self.begin :].decode(errors="replace")
        return re.search(r"^node .* is up: ", text, re.MULTILINE) is not None


class Group:
    """All of them. `prefix` begins the nodes' names, which must differ from those of other nodes on this machine."""

    def __init__(self, program, folder, prefix, cleanup):
        facts = self.facts(folder / "group.json")
        ports = iter(facts["ports"])
        self.keys = facts["keys"]
        self.etcd = [
            EtcdMember(f"etcd-{number}", folder, (next(ports), next(ports))) for number in range(1, MEMBERS + 1)
        ]
        self.s3 = S3Server(folder, next(ports), next(ports), self.keys)
        self.nodes = [Node(f"{prefix}-{number}", folder, next(ports), program) for number in range(1, NODES + 1)]
        self.programs = [*self.etcd, self.s3, *self.nodes]
        cleanup.callback(self.stop)

    @staticmethod
    def facts(file):
        """The ports and keys, which stay the same over all starts."""
        if not file.exists():
            keys = {
                "access": f"GK{secrets.token_hex(12)}",
                "secret": secrets.token_hex(32),
                "rpc": secrets.token_hex(32),
            }
            file.touch(mode=0o600)
            file.write_text(json.dumps({"ports": free_ports(2 * MEMBERS + 2 + NODES), "keys": keys}))
        return json.loads(file.read_text())

    def stores(self):
        members = ",".join(member.client.removeprefix("http://") for member in self.etcd)
        return ["--state", f"etcd://{members}/workrs", "--blobs", f"s3://{BUCKET}?endpoint={self.s3.endpoint}"]

    def start(self):
        for member in self.etcd:
            member.start(self.etcd)
        self.s3.start()
        for member in self.etcd:
            member.until(member.is_healthy)
        self.s3.until(self.s3.answers)
        for node in self.nodes:
            self.start_node(node)
        for node in self.nodes:
            node.until(node.is_up)

    def start_node(self, node):
        node.start(self.stores(), self.keys)

    def start_again(self, program):
        """Starts one that has died."""
        if program in self.nodes:
            self.start_node(program)
        elif program in self.etcd:
            program.start(self.etcd)
        else:
            program.start()

    def stop(self):
        """The nodes first, together: one that went on would take the jobs of the others."""
        for node in self.nodes:
            node.terminate()
        for node in self.nodes:
            node.stop(STOP_SECONDS)
        self.s3.stop(10)
        for member in self.etcd:
            member.kill()  # loses nothing, while members that end in order wait for each other

    def leader(self):
        return next((member for member in self.etcd if member.is_running() and member.is_leader()), None)

    def endpoints(self):
        """What a client takes as WORKRS_SERVER: any node will do, and it turns to the next if one does not answer."""
        return ",".join(node.url for node in self.nodes)


def hold(prefix, cleanup):
    """Sees to it that no other group has nodes of these names: they would end each other's jobs."""
    lock = cleanup.enter_context(open(f"/run/lock/workrs-{prefix}.lock", "w", encoding="ascii"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Failed(f"a group with nodes of the names {prefix}-1 … runs here already") from None


def fetch(url, body=None):
    with urllib.request.urlopen(url, data=body, timeout=3) as answer:  # noqa: S310
        return answer.read()


def fetch_json(url, body=None):
    return json.loads(fetch(url, body))


def free_ports(count):
    ports = []
    while len(ports) < count:
        port = random.choice(PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            if port not in ports:
                ports.append(port)
    return ports


def look_after(group, screen):
    """Tells what dies, and starts it again, until the script is told to end."""
    died = {}
    while True:
        time.sleep(0.5)
        for program in group.programs:
            if program.is_running():
                died.pop(program, None)
            elif program not in died:
                died[program] = time.monotonic()
                code = program.process.returncode
                screen.event(f"{program.name} died ({code}); it is started again in {RESTART_SECONDS} s", "red")
            elif time.monotonic() - died[program] > RESTART_SECONDS:
                group.start_again(program)
                screen.event(f"{program.name} is started again, process {program.process.pid}", "green")


def serve(program, folder, screen, cleanup):
    folder.mkdir(mode=0o711, exist_ok=True)  # jobs, which run under ids of their own, must be able to pass
    check_host(program, folder / "node-1", POOL)
    group = Group(program, folder, "node", cleanup)
    screen.title(f"A group of {NODES} nodes on this machine; everything of it lies in {folder}")
    group.start()
    for one in group.programs:
        place = getattr(one, "url", None) or getattr(one, "client", None) or one.endpoint
        screen.fact(one.name, f"{place}, process {one.process.pid}")
    screen.note("")
    screen.note("In another shell:")
    screen.command(f"export WORKRS_SERVER={group.endpoints()}")
    screen.command(f"{os.path.relpath(program)} run --checkpoint every=2s examples/primes.py")
    screen.command(f"kill -9 {group.nodes[0].process.pid}")
    screen.note("")
    screen.note("Ctrl-C stops the group.")
    try:
        look_after(group, screen)
    except KeyboardInterrupt:
        screen.note("")
        screen.note("stopping: the nodes save their jobs first")
    cleanup.close()
    screen.note("stopped; `make cluster` goes on with it, `make cluster CLUSTER_OPTIONS=--fresh` begins anew")


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("\n\n", 1)[1], add_help=False)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path(PARENT) / "workrs-cluster")
    parser.add_argument("program")
    chosen = parser.parse_args()

    def act(program, screen, cleanup):
        hold("node", cleanup)
        if chosen.fresh and (chosen.folder / "group.json").exists():  # nothing but a group is removed
            shutil.rmtree(chosen.folder)
        try:
            serve(program, chosen.folder.resolve(), screen, cleanup)
        except (Failed, OSError, subprocess.SubprocessError):
            for log in sorted(chosen.folder.glob("*.log")):
                tell_end_of(log)
            raise

    perform("cluster", chosen.program, act)


if __name__ == "__main__":
    main()
