"""The measured job on a node of Workrs."""

import time
from http.client import HTTPException

from node import Api, Node
from process import HelperWatch, peak_mib, reset_peak
from tools import Checkpoint, Restore, Tool, Work


class WorkrsJob(Tool):
    """One job of a node, which checkpoints it at an interval."""

    name = "Workrs"
    counts = "the node's process"
    takes_orders = False

    def __init__(self, node: Node, script: str, every_s: float, program: str) -> None:
        super().__init__()
        self.node = node
        self.id = ""
        self.every_s = every_s
        self.api: Api
        self._script, self._program = script, program
        self._seen = (0, 0)
        self._first = True
        self.helpers_peak_mib: float = 0.0

    def start(self, work: Work) -> None:
        self.api = self.node.api()
        spec = {
            "args": work.arguments,
            "checkpoint": f"every={self.every_s:g}s",
            "memory": f"{work.memory_mib}M",
            "disk": f"{work.disk_mib}M",
            "cpus": 1,
        }
        path = self._program if work.kind == "c" else self._script
        self.id = self.api.submit_script(path, name="bench", **spec)["id"]
        self.wait_ready()
        self._seen = newest(self.api.job(self.id))

    def log(self) -> str:
        job = self.api.job(self.id)
        if job["state"] == "finished":
            raise RuntimeError(f"the job ended: {job['outcome_text']}; it printed last: {self._log()[-300:].strip()}")
        return self._log()

    def _log(self) -> str:
        return self.api.log(self.id)

    def checkpoint(self) -> Checkpoint:
        """The next that is committed from now on; at first, the first since the job held its data.

        That one also counts what was uploaded before, while the job made its data.
        """
        with HelperWatch(self.node.pid) as watch:
            taken = self._next_checkpoint()
        self.helpers_peak_mib = max(self.helpers_peak_mib, watch.peak_mib)
        uploaded = taken["uploaded_bytes"]
        if self._first:
            up_to_it = [other for other in self.api.job(self.id)["checkpoints"] if number(other) <= number(taken)]
            uploaded = sum(other["uploaded_bytes"] for other in up_to_it)
            self._first = False
        return Checkpoint(taken["total_ms"], uploaded, taken["size_bytes"], taken["standstill_ms"], self.longest_gap())

    def _next_checkpoint(self) -> dict:
        if not self._first:
            self._seen = newest(self.api.job(self.id))
        job = self.api.wait_until(self.id, lambda job: newest(job) > self._seen, "checkpoint")
        return min((taken for taken in job["checkpoints"] if number(taken) > self._seen), key=number)

    def checkpointed_between(self, begin_ms: float, end_ms: float) -> bool:
        checkpoints = self.api.job(self.id)["checkpoints"]
        return any(begin_ms < c["at"] + c["total_ms"] and c["at"] < end_ms for c in checkpoints)

    def restore(self) -> Restore:
        """Kills the node and starts it anew. The restore is what the record says, from the claim to the job's start."""
        before = self.api.job(self.id)["epoch"]
        self.node.kill()
        began_ms = time.time() * 1e3
        up_s = self.node.start()
        self.api = self.node.api()
        with HelperWatch(self.node.pid) as watch:
            started = lambda job: job["epoch"] > before and job["attempts"][-1].get("started_at")
            attempt = self.api.wait_until(self.id, started, "restart")["attempts"][-1]
        self.helpers_peak_mib = max(self.helpers_peak_mib, watch.peak_mib)
        if attempt["start"] == "clean":
            raise RuntimeError(f"the job was not restored but started anew: {attempt}")
        self.wait_alive(self.log())
        laps = {"up": up_s * 1e3, "all": attempt["started_at"] - began_ms}
        return Restore(attempt["started_at"] - attempt["claimed_at"], laps)

    def reset_peak(self) -> None:
        reset_peak([self.node.pid])

    def peak_mib(self) -> float:
        return peak_mib([self.node.pid])

    def remove(self) -> None:
        """Should that fail, the node goes, too: nothing of the job is to run on beside what is measured next."""
        try:
            if self.id:
                self.api.call("POST", f"/api/v1/jobs/{self.id}/cancel")
                if self.api.job(self.id, wait="30s")["state"] != "finished":
                    raise RuntimeError("the job does not end within 30 s of its cancel")
        except (RuntimeError, OSError, HTTPException):
            self.node.remove()
            raise


def newest(job: dict) -> tuple[int, int]:
    return max((number(checkpoint) for checkpoint in job["checkpoints"]), default=(0, 0))


def number(checkpoint: dict) -> tuple[int, int]:
    return checkpoint["epoch"], checkpoint["seq"]
