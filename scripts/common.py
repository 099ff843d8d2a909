"""What the shows of this folder (demo.py, cluster.py, cluster_demo.py) have in common."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

JOB = Path(__file__).resolve().parent.parent / "examples" / "primes.py"
# What is kept for a while should lie on the file system of /usr, so that a node can freeze its /usr by hard links.
PARENT = "/var/tmp"
USERS_OWN = ("WORKRS_", "AWS_", "ETCD_", "ETCDCTL_", "GARAGE_")
# Far more than anything here takes on a slow and busy machine.
DEADLINE_SECONDS = 300


class Failed(Exception):
    """What went wrong, for the user."""


class Screen:
    """Prints the story, in colours where they are wanted."""

    def __init__(self):
        wanted = sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
        self.coloured = wanted or bool(os.environ.get("CLICOLOR_FORCE"))
        self.began = time.monotonic()

    def paint(self, colour, text):
        codes = {"bold": 1, "dim": 2, "red": 31, "green": 32, "blue": 34, "cyan": 36}
        return f"\x1b[{codes[colour]}m{text}\x1b[0m" if self.coloured else text

    def title(self, text):
        print(self.paint("bold", text), flush=True)

    def chapter(self, text):
        print(f"\n{self.paint('bold', text)}", flush=True)

    def command(self, text):
        print(f"  {self.paint('blue', '$')} {self.paint('bold', text)}", flush=True)

    def note(self, text, colour=None):
        print(f"  {self.paint(colour, text) if colour else text}", flush=True)

    def event(self, text, colour=None):
        seconds = self.paint("dim", f"{time.monotonic() - self.began:6.1f} s ")
        print(f"{seconds} {self.paint(colour, text) if colour else text}", flush=True)

    def fact(self, name, text, colour=None):
        print(f"  {name:18}{self.paint(colour, text) if colour else text}", flush=True)


def name_of(checkpoint):
    return f"{checkpoint['epoch']}-{checkpoint['seq']}"


def clean_environment():
    """The environment without the user's own settings of Workrs and of its stores, which are about others."""
    return {key: value for key, value in os.environ.items() if not key.startswith(USERS_OWN)}


def patiently(what):
    """Comes back every now and then until the caller has what it waits for; not for ever."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        yield
        time.sleep(0.1)
    raise Failed(f"waited {DEADLINE_SECONDS} s for {what}")


def size(count):
    """Bytes for people."""
    return f"{count / (1 << 20):.1f} MiB"


def choose_limit(folder, seconds):
    """A limit with which the job takes about that long on this machine, more if others keep it busy."""
    probe, times = 10_000_000, []
    for _ in range(3):
        began = time.monotonic()
        subprocess.run([sys.executable, JOB, str(probe)], cwd=folder, stdout=subprocess.DEVNULL, check=True)
        times.append(time.monotonic() - began)
    millions = probe / 1e6 * seconds / min(times)
    return max(10, round(millions / 10) * 10) * 1_000_000


def check_host(program, data, pool):
    """Refuses a host that cannot run and checkpoint jobs, with the reasons that `workrs doctor` gives."""
    command = [program, "doctor", "--data-dir", str(data), "--disk-pool", pool]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), check=False)
    if done.returncode != 0:
        print(done.stdout + done.stderr, file=sys.stderr)
        raise Failed("this machine cannot run and checkpoint jobs; `workrs doctor` says above what is missing")


def tell_end_of(log):
    """The newest lines of a program's log, after a failure."""
    if log.exists():
        lines = log.read_text(errors="replace").splitlines()[-30:]
        print(f"\nthe end of {log.name}:", *lines, sep="\n  ", file=sys.stderr)


def temporary_folder(prefix, cleanup):
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=PARENT))
    folder.chmod(0o711)  # jobs, which run under ids of their own, must be able to pass
    cleanup.callback(shutil.rmtree, folder)
    return folder


def become_root(what):
    """A node needs root for namespaces, mounts and CRIU."""
    if shutil.which("sudo") is None:
        raise Failed(f"a node needs root, and there is no sudo; run `make {what}` as root")
    print("A node needs root (for namespaces, mounts and CRIU): going on by sudo.", flush=True)
    kept = [f"{name}={os.environ[name]}" for name in ("NO_COLOR", "CLICOLOR_FORCE", "TERM") if name in os.environ]
    script = str(Path(sys.argv[0]).resolve())
    os.execvp("sudo", ["sudo", "env", *kept, sys.executable, "-B", script, *sys.argv[1:]])


def perform(what, program, act):
    """Runs `act(program, screen, cleanup)` as root, cleans up in any case, and exits. `what` is its target in make."""
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _: sys.exit(128 + number))
    try:
        if shutil.which(program) is None:
            raise Failed(f"{program} is not a program; run `make build`")
        if os.geteuid() != 0:
            become_root(what)
        with contextlib.ExitStack() as cleanup:
            act(str(Path(shutil.which(program)).resolve()), Screen(), cleanup)
    except KeyboardInterrupt:
        sys.exit(130)
    except (Failed, OSError, subprocess.SubprocessError) as error:
        sys.exit(f"{what} failed: {error}")
