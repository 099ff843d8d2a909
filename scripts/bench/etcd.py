"""An etcd cluster of three members on this machine, and what it has to do."""

import os
import sys
import urllib.request
from dataclasses import dataclass, fields
from pathlib import Path

from host import CleanUp

sys.path.append(str(Path(__file__).resolve().parent.parent))
import cluster  # noqa: E402
from common import Failed  # noqa: E402

# A hundred thousand jobs with five minutes of history take more than etcd's default of 2 GB.
QUOTA_BYTES = 8 << 30


class Member(cluster.EtcdMember):
    def launch(self, command, environment) -> None:
        super().launch([*command, f"--quota-backend-bytes={QUOTA_BYTES}"], environment)


@dataclass(frozen=True)
class Load:
    """What the members have had to do since they started, together; or between two moments."""

    # What came from clients: calls, and on streams (renewals, watches) each message.
    requests: float
    received_bytes: float
    sent_bytes: float
    cpu_s: float
    # Those two of one member, as they are the same on all.
    revisions: float
    database_bytes: float

    @property
    def bytes(self) -> float:
        return self.received_bytes + self.sent_bytes

    def since(self, before: "Load") -> "Load":
        return Load(*(getattr(self, field.name) - getattr(before, field.name) for field in fields(Load)))


class Etcd:
    """Three members, with fsync, in a folder of their own."""

    def __init__(self, clean_up: CleanUp) -> None:
        folder = Path(clean_up.scratch("etcd"))
        ports = iter(cluster.free_ports(6))
        self.members = [Member(f"etcd-{number}", folder, (next(ports), next(ports))) for number in (1, 2, 3)]
        clean_up.add(self.stop)
        try:
            for member in self.members:
                member.start(self.members)
            for member in self.members:
                member.until(member.is_healthy)
        except Failed as error:
            raise RuntimeError(str(error)) from error

    def state(self, prefix: str) -> str:
        """The URL of a store that nobody has used yet."""
        return f"etcd://{','.join(member.client.removeprefix('http://') for member in self.members)}/{prefix}"

    def load(self) -> Load:
        each = [metrics(member.client) for member in self.members]

        def total(name: str) -> float:
            return sum(of_one.get(name, 0.0) for of_one in each)

        return Load(
            total("grpc_server_msg_received_total"),
            total("etcd_network_client_grpc_received_bytes_total"),
            total("etcd_network_client_grpc_sent_bytes_total"),
            total("process_cpu_seconds_total"),
            each[0].get("etcd_debugging_mvcc_current_revision", 0.0),
            each[0].get("etcd_mvcc_db_total_size_in_bytes", 0.0),
        )

    def memory_mib(self) -> float:
        return sum(metrics(member.client)["process_resident_memory_bytes"] for member in self.members) / (1 << 20)

    def stop(self) -> None:
        for member in self.members:
            member.kill()


def metrics(url: str) -> dict[str, float]:
    """What a member tells of itself, summed up over labels."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            found[name] = found.get(name, 0.0) + float(value)
    return found


def missing() -> str | None:
    found = [folder for folder in os.get_exec_path() if os.access(os.path.join(folder, "etcd"), os.X_OK)]
    return None if found else "etcd is not installed (scripts/setup.sh)"
