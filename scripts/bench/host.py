"""What this machine is, in words, and the clean-up of what the benchmarks leave on it."""

import atexit
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile


def describe(workrs: str) -> list[str]:
    """The machine and the versions, a line each."""
    versions = [
        f"workrs {first_line([workrs, '--version']).removeprefix('workrs ')}",
        first_line(["runc", "--version"]),
        f"CRIU {first_line(['criu', '--version']).removeprefix('Version: ')}",
        f"Python {platform.python_version()}",
    ]
    for peer in ("podman", "dockerd"):
        if shutil.which(peer):
            versions.append(first_line([peer, "--version"]).replace("version ", "").partition(",")[0])
    memory_kib = int(field("/proc/meminfo", "MemTotal").split()[0])
    return [
        f"processor  {field('/proc/cpuinfo', 'model name')}, {os.cpu_count()} cores, {platform.machine()}",
        f"memory     {memory_kib / (1 << 20):.1f} GiB",
        f"system     {os_name()}, Linux {platform.release()}, {cgroups()}",
        f"disk       {file_system(scratch_root())} at {scratch_root()}",
        f"versions   {', '.join(versions)}",
        f"load       {os.getloadavg()[0]:.1f} at the start",
    ]


def first_line(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).splitlines()[0].strip()


def field(path: str, name: str) -> str:
    """The first value of `name` in a file of `name: value` lines."""
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return "unknown"


def os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "an unknown system"


def cgroups() -> str:
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        return "cgroup v1" if any(" - cgroup " in line for line in mounts) else "cgroup v2"


def file_system(path: str) -> str:
    done = subprocess.run(["stat", "--file-system", "--format=%T", path], capture_output=True, text=True, check=False)
    return done.stdout.strip().replace("ext2/ext3", "ext4")


def scratch_root() -> str:
    """A folder on a disk: what lies on a tmpfs is no measure of a checkpoint."""
    return os.environ.get("WORKRS_BENCH_DIR", "/var/tmp")


def remove_cgroups(path: str) -> None:
    root = "/sys/fs/cgroup"
    for tree in [root, *(os.path.join(root, name) for name in os.listdir(root))]:
        for folder, _, _ in os.walk(os.path.join(tree, path), topdown=False):
            try:
                os.rmdir(folder)
            except OSError:
                pass  # a process is still ending in it, or it is no cgroup; empty ones cost nothing


def folder_bytes(folder: str) -> int:
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(folder) for name in names)


class CleanUp:
    """Undoes, in reverse order, what was noted, however the process ends short of SIGKILL."""

    def __init__(self) -> None:
        self._steps: list = []
        atexit.register(self.run)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, _frame: sys.exit(128 + number))

    def add(self, step) -> None:
        self._steps.append(step)

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        while self._steps:
            step = self._steps.pop()
            try:
                step()
            except Exception as error:  # the other steps still have to be done
                print(f"warning: cannot clean up: {error}", file=sys.stderr)

    def scratch(self, name: str, root: str | None = None) -> str:
        folder = tempfile.mkdtemp(prefix=f"workrs-bench-{name}-", dir=root or scratch_root())
        os.chmod(folder, 0o711)  # jobs reach their disks through it
        self.add(lambda: shutil.rmtree(folder) if os.path.exists(folder) else None)
        return folder
