"""A node of Workrs under measurement, and its API as a client sees it."""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import time

import host
import process

START_DEADLINE_S = 120
JOB_DEADLINE_S = 120


class Api:
    """One connection, kept open, as clients have it."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=60)

    def call(self, method: str, path: str, body=None):
        headers = {"content-type": "application/json"} if body is not None else {}
        payload = None if body is None else json.dumps(body)
        self._connection.request(method, path, payload, headers)
        response = self._connection.getresponse()
        content = response.read()
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status} {content.decode(errors='replace')[:300]}")
        return json.loads(content) if "json" in response.getheader("content-type", "") else content.decode()

    def submit(self, **job) -> dict:
        return self.call("POST", "/api/v1/jobs", job)

    def submit_script(self, path: str, **spec) -> dict:
        """Hands over a script or a program."""
        boundary = b"workrs-bench-boundary"
        with open(path, "rb") as file:
            script = file.read()
        parts = [
            (b'name="spec"', json.dumps(spec).encode()),
            (b'name="script"; filename="%s"' % os.path.basename(path).encode(), script),
        ]
        part = b"--%s\r\ncontent-disposition: form-data; %s\r\n\r\n%s\r\n"
        body = b"".join(part % (boundary, head, content) for head, content in parts) + b"--%s--\r\n" % boundary
        headers = {"content-type": f"multipart/form-data; boundary={boundary.decode()}"}
        self._connection.request("POST", "/api/v1/jobs", body, headers)
        response = self._connection.getresponse()
        content = response.read()
        if response.status >= 300:
            raise RuntimeError(f"submit: {response.status} {content.decode(errors='replace')[:300]}")
        return json.loads(content)

    def job(self, job_id: str, wait: str | None = None) -> dict:
        return self.call("GET", f"/api/v1/jobs/{job_id}" + (f"?wait={wait}" if wait else ""))

    def log(self, job_id: str) -> str:
        return self.call("GET", f"/api/v1/jobs/{job_id}/logs")

    def wait_until(self, job_id: str, what, text: str, deadline_s: float = JOB_DEADLINE_S) -> dict:
        """The job, once `what(job)` holds."""
        deadline = time.monotonic() + deadline_s
        while True:
            job = self.job(job_id)
            if what(job):
                return job
            if job["state"] == "finished":
                raise RuntimeError(f"the job ended before {text}: {job['outcome_text']}; {job['attempts']}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"no {text} within {deadline_s} s: {job['attempts']} {job['resumable']}")
            time.sleep(0.02)


class Node:
    """A node in a data folder of its own, on a port of its own."""

    def __init__(self, workrs: str, clean_up: host.CleanUp, disk_pool: str, *options: str) -> None:
        self.folder = clean_up.scratch("node")
        self.name = f"bench-{os.getpid()}-{os.path.basename(self.folder)[-8:]}"
        self._workrs = workrs
        self._options = ["--disk-pool", disk_pool, *options]
        self._process: subprocess.Popen | None = None
        self.log_path = os.path.join(self.folder, "node.log")
        self.address = ""
        clean_up.add(self.remove)

    def start(self) -> float:
        """Starts it; gives the seconds until it answered."""
        began = time.monotonic()
        seen = os.path.getsize(self.log_path) if os.path.exists(self.log_path) else 0
        with open(self.log_path, "ab") as log:
            command = [self._workrs, "up", "--listen", "127.0.0.1:0", "--name", self.name]
            command += ["--data-dir", os.path.join(self.folder, "data"), *self._options]
            environment = {**os.environ, "WORKRS_LOG": os.environ.get("WORKRS_LOG", "warn"), "NO_COLOR": "1"}
            for option in ("WORKRS_TOKEN", "WORKRS_CONFIG", "WORKRS_STATE", "WORKRS_BLOBS"):
                environment.pop(option, None)
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        while time.monotonic() - began < START_DEADLINE_S:
            with open(self.log_path, encoding="utf-8", errors="replace") as log:
                log.seek(seen)
                up = re.search(r"is up: http://([^,\s]+)", log.read())
            if up:
                self.address = up.group(1)
                return time.monotonic() - began
            if self._process.poll() is not None:
                break
            time.sleep(0.005)
        raise RuntimeError(f"the node does not start; its log ends: {self.log_tail()}")

    def api(self) -> Api:
        return Api(self.address)

    @property
    def pid(self) -> int:
        assert self._process, "the node is down"
        return self._process.pid

    def peak_memory_mib(self) -> float:
        return process.peak_mib([self.pid])

    def kill(self) -> None:
        """As a power cut would, but for the kernel."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        if self._process:
            self._process.wait()
        self._process = None

    def exists(self) -> bool:
        return os.path.exists(self.folder)

    def log_tail(self) -> str:
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read()[-1500:]

    def remove(self) -> None:
        """Ends the node and waits until its guard has ended the jobs and let go of the disks."""
        self.kill()
        data = os.path.join(self.folder, "data")
        deadline = time.monotonic() + 30
        while in_use(data) and time.monotonic() < deadline:
            time.sleep(0.05)
        host.remove_cgroups(f"workrs/{self.name}")
        # At once, not at the end: the pool of job disks is preallocated.
        if self.exists():
            shutil.rmtree(self.folder)


def in_use(folder: str) -> bool:
    """Whether a process was started for the folder, or a loop device lies on a file in it."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as command:
                if folder.encode() in command.read():
                    return True
        except OSError:
            pass  # it has ended
    for device in os.listdir("/sys/block"):
        try:
            with open(f"/sys/block/{device}/loop/backing_file", encoding="utf-8") as backing:
                if folder in backing.read():
                    return True
        except OSError:
            pass  # no loop device, or free
    return False
