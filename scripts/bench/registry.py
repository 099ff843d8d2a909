"""An image registry on loopback, and an image of some size in it."""

import gzip
import hashlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass

import host
import process

START_DEADLINE_S = 30
# Tools ask for HTTPS unless the registry is on loopback, by this address.
HOST = "127.0.0.1"
COMPRESSION = 6
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Layer:
    """An archive and its compressed form."""

    compressed: str
    digest: str
    diff_id: str
    stored_bytes: int
    bytes: int


class Registry:
    """Debian's docker-registry in a folder of its own."""

    def __init__(self, clean_up: host.CleanUp) -> None:
        self.folder = clean_up.scratch("registry")
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.address = f"{HOST}:{probe.getsockname()[1]}"
        config = f"{self.folder}/config.yml"
        with open(config, "w", encoding="utf-8") as out:
            out.write(
                f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '{self.address}'}}\n"
                f"storage: {{filesystem: {{rootdirectory: {self.folder}/data}}}}\n"
            )
        log = f"{self.folder}/log"
        with open(log, "wb") as out:
            command = ["docker-registry", "serve", config]
            daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        clean_up.add(lambda: process.end(daemon))
        deadline = time.monotonic() + START_DEADLINE_S
        while not self._answers():
            if daemon.poll() is not None or time.monotonic() > deadline:
                with open(log, encoding="utf-8", errors="replace") as lines:
                    raise RuntimeError(f"docker-registry does not start; its log ends: {lines.read()[-400:]}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            return self._request("GET", "/v2/")[0] == 200
        except OSError:
            return False

    def push(self, name: str, tag: str, layers: list[Layer]) -> str:
        """Puts an image together and gives the reference by which it is pulled."""
        diff_ids = [layer.diff_id for layer in layers]
        config = {
            "architecture": ARCHITECTURES.get(os.uname().machine, os.uname().machine),
            "os": "linux",
            "config": {"Env": ["PATH=/usr/bin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
        content = json.dumps(config).encode()
        for layer in layers:
            with open(layer.compressed, "rb") as archive:
                self._upload(name, layer.digest, archive, layer.stored_bytes)
        self._upload(name, digest(content), content, len(content))
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": digest(content), "size": len(content)},
            "layers": [
                {"mediaType": LAYER_TYPE, "digest": layer.digest, "size": layer.stored_bytes} for layer in layers
            ],
        }
        self._expect(201, "PUT", f"/v2/{name}/manifests/{tag}", json.dumps(manifest).encode(), MANIFEST_TYPE)
        return f"{self.address}/{name}:{tag}"

    def _upload(self, name: str, blob: str, content, length: int) -> None:
        location = self._expect(202, "POST", f"/v2/{name}/blobs/uploads/")["location"]
        path = location.partition(self.address)[2] or location
        mark = "&" if "?" in path else "?"
        self._expect(201, "PUT", f"{path}{mark}digest={blob}", content, "application/octet-stream", length)

    def _expect(self, status: int, *request) -> dict[str, str]:
        got, headers, body = self._request(*request)
        if got != status:
            raise RuntimeError(f"the registry answers {got} to {request[0]} {request[1]}: {body[:200]!r}")
        return headers

    def _request(self, method: str, path: str, content=None, kind: str | None = None, length: int | None = None):
        connection = http.client.HTTPConnection(self.address, timeout=60)
        headers = {"content-type": kind} if kind else {}
        if length is not None:
            headers["content-length"] = str(length)
        connection.request(method, path, content, headers)
        response = connection.getresponse()
        answer = response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
        connection.close()
        return answer


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def make_layers(folder: str, base: str, layers: int, layer_bytes: int) -> list[Layer]:
    """`base`, an archive, and above it `layers` others with files of this host's /usr, of about `layer_bytes` each."""
    made = [compress(base, f"{folder}/0.tar.gz")]
    lists: list[list[str]] = [[]]
    filled = 0
    for path in usr_files():
        if filled >= layer_bytes:
            lists.append([])
            filled = 0
        if len(lists) > layers:
            break
        lists[-1].append(path)
        filled += os.path.getsize(path)
    for number, paths in enumerate(lists[:layers], 1):
        names = f"{folder}/{number}.list"
        with open(names, "w", encoding="utf-8") as out:
            out.writelines(f"{path.lstrip('/')}\0" for path in paths)
        archive = f"{folder}/{number}.tar"
        process.run(["tar", "-C", "/", "--null", "--no-recursion", "-cf", archive, "-T", names])
        made.append(compress(archive, f"{archive}.gz"))
        os.remove(archive)
    return made


def usr_files():
    """Regular files of /usr, small and large ones as they come."""
    for at, folders, names in os.walk("/usr/lib"):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(at, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield path


def compress(archive: str, target: str) -> Layer:
    plain, stored = hashlib.sha256(), hashlib.sha256()
    with open(archive, "rb") as source, open(target, "wb") as out:
        with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=COMPRESSION, mtime=0) as packed:
            while chunk := source.read(1 << 20):
                plain.update(chunk)
                packed.write(chunk)
    with open(target, "rb") as packed:
        while chunk := packed.read(1 << 20):
            stored.update(chunk)
    sizes = os.path.getsize(target), os.path.getsize(archive)
    return Layer(target, f"sha256:{stored.hexdigest()}", f"sha256:{plain.hexdigest()}", *sizes)


def missing() -> str | None:
    return None if shutil.which("docker-registry") else "docker-registry is not installed (scripts/setup.sh --bench)"
