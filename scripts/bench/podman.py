"""The peer: podman with runc and CRIU, with storage of its own, on a minimal root made of the host's Python."""

import os
import resource
import shutil
import subprocess
import sysconfig
import time

import host
import node

IMAGE = "workrs-bench"
# Of Python's own library, what no measured job imports.
LEFT_OUT = {"__pycache__", "test", "idlelib", "tkinter", "ensurepip", "lib2to3", "pydoc_data", "dist-packages"}
LOCKS = "/dev/shm/libpod_lock"


class Podman:
    """Runs the measured job in containers; every call's wall time counts."""

    def __init__(self, clean_up: host.CleanUp) -> None:
        self.folder = clean_up.scratch("podman")
        had_locks = os.path.exists(LOCKS)
        clean_up.add(lambda: self._remove(had_locks))
        self._command = ["podman", "--root", f"{self.folder}/storage", "--runroot", f"{self.folder}/run"]
        self._command += ["--tmpdir", f"{self.folder}/tmp", "--runtime", "runc", "--cgroup-manager", "cgroupfs"]
        self._command += ["--events-backend", "none", "--log-level", "error"]
        self._archive = f"{self.folder}/checkpoint.tar"

    def call(self, *arguments: str) -> str:
        done = subprocess.run([*self._command, *arguments], capture_output=True, text=True, check=False, timeout=120)
        if done.returncode != 0:
            raise RuntimeError(f"podman {' '.join(arguments[:2])}: {(done.stderr or done.stdout).strip()[:300]}")
        return done.stdout.strip()

    def make_image(self) -> None:
        root = f"{self.folder}/root"
        make_root(root)
        archive = f"{self.folder}/root.tar"
        subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
        self.call("import", "--quiet", archive, IMAGE)
        os.remove(archive)

    def start(self, name: str, script: str, *arguments: str) -> None:
        # Its own defaults are above what an unprivileged node may raise, and then the container does not start.
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        limits = ["--ulimit", f"nofile={files}:{files}", "--ulimit", "nproc=4096:4096"]
        limits += ["--memory", "1g", "--cpus", "1"]
        call = ["run", "--detach", "--network", "none", "--name", name, *limits]
        call += ["--volume", f"{script}:/job.py:ro", IMAGE, "python3", "/job.py", *arguments]
        self.call(*call)

    def wait_ready(self, name: str) -> None:
        deadline = time.monotonic() + 30
        while "ready" not in self.call("logs", name):
            if time.monotonic() > deadline:
                raise RuntimeError("podman's job does not get ready")
            time.sleep(0.1)

    def checkpoint(self, name: str) -> float:
        """Milliseconds of the command."""
        began = time.monotonic()
        self.call("container", "checkpoint", name, "--export", self._archive, "--leave-running")
        return (time.monotonic() - began) * 1e3

    def exported_bytes(self) -> int:
        return os.path.getsize(self._archive)

    def restore(self, name: str) -> float:
        """Ends the container and brings it back from the exported checkpoint; milliseconds of the command."""
        self.remove(name)
        began = time.monotonic()
        self.call("container", "restore", "--import", self._archive)
        took = (time.monotonic() - began) * 1e3
        if self.call("inspect", "--format", "{{.State.Running}}", name) != "true":
            raise RuntimeError("podman's restored container does not run")
        return took

    def remove(self, name: str) -> None:
        self.call("rm", "--force", "--time", "0", name)

    def _remove(self, had_locks: bool) -> None:
        self.call("rm", "--all", "--force", "--time", "0")
        self.call("rmi", "--all", "--force")
        subprocess.run(["umount", f"{self.folder}/storage/overlay"], capture_output=True, check=False)
        node.remove_cgroups("libpod_parent")
        if not had_locks and os.path.exists(LOCKS):
            os.remove(LOCKS)


def make_root(root: str) -> None:
    """Copies the host's Python and the libraries that it needs."""
    for name in ("usr/bin", "usr/lib", "usr/lib64", "usr/sbin", "tmp", "proc", "dev", "sys", "etc", "run"):
        os.makedirs(f"{root}/{name}")
    for name in ("bin", "lib", "lib64", "sbin"):
        os.symlink(f"usr/{name}", f"{root}/{name}")
    programs = {"python3": os.path.realpath("/usr/bin/python3"), "true": "/usr/bin/true"}
    for name, program in programs.items():
        shutil.copy(program, f"{root}/usr/bin/{name}")
    libraries = subprocess.run(["ldd", *programs.values()], capture_output=True, text=True, check=True).stdout
    for word in set(libraries.split()):
        if word.startswith("/") and not word.endswith(":"):
            os.makedirs(os.path.dirname(root + word), exist_ok=True)
            shutil.copy(word, root + word)
    library = sysconfig.get_path("stdlib")
    skip = lambda _folder, names: [name for name in names if name in LEFT_OUT or name.startswith("config-")]
    shutil.copytree(library, root + library, symlinks=True, ignore=skip, ignore_dangling_symlinks=True)
