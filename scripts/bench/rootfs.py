"""The root file system that the peers share: the host's Python, and the measured jobs in /bench."""

import glob
import os
import shutil
import sysconfig

import host
import process

HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPT = os.path.join(HERE, "job.py")
# Of Python's own library, what no measured job imports.
LEFT_OUT = {"__pycache__", "test", "tests", "idlelib", "tkinter", "ensurepip", "lib2to3", "pydoc_data", "dist-packages"}
NUMPY = "/usr/lib/python3/dist-packages/numpy"


class Root:
    """A folder with it, and a tar archive of that folder."""

    def __init__(self, clean_up: host.CleanUp) -> None:
        scratch = clean_up.scratch("root")
        self.program = compile_job(scratch)
        self.folder = f"{scratch}/root"
        self.archive = f"{scratch}/root.tar"
        make_folders(self.folder)
        copy_programs(self.folder)
        os.mkdir(f"{self.folder}/bench")
        shutil.copy(SCRIPT, f"{self.folder}/bench/job.py")
        shutil.copy(self.program, f"{self.folder}/bench/job")
        process.run(["tar", "-C", self.folder, "-cf", self.archive, "."])


def compile_job(folder: str) -> str:
    program = f"{folder}/job"
    process.run(["gcc", "-O2", "-static", "-o", program, os.path.join(HERE, "job.c")])
    return program


def make_folders(root: str) -> None:
    for name in ("usr/bin", "usr/lib", "usr/lib64", "usr/sbin", "tmp", "proc", "dev", "sys", "etc", "run", "job"):
        os.makedirs(f"{root}/{name}")
    for name in ("bin", "lib", "lib64", "sbin"):
        os.symlink(f"usr/{name}", f"{root}/{name}")


def copy_programs(root: str) -> None:
    """Python with its library and numpy, `true`, and the shared libraries that they need."""
    programs = {"python3": os.path.realpath("/usr/bin/python3"), "true": "/usr/bin/true"}
    for name, program in programs.items():
        shutil.copy(program, f"{root}/usr/bin/{name}")
    library = sysconfig.get_path("stdlib")
    copy_tree(library, root)
    binaries = [*programs.values(), *glob.glob(f"{library}/lib-dynload/*.so")]
    if has_numpy():
        copy_tree(NUMPY, root)
        binaries += glob.glob(f"{NUMPY}/**/*.so", recursive=True)
    for path in set(process.run(["ldd", *binaries]).output.split()):
        if path.startswith("/") and not path.endswith(":"):
            os.makedirs(os.path.dirname(root + path), exist_ok=True)
            shutil.copy(path, root + path)


def has_numpy() -> bool:
    return os.path.isdir(NUMPY)


def copy_tree(folder: str, root: str) -> None:
    skip = lambda _folder, names: [name for name in names if name in LEFT_OUT or name.startswith("config-")]
    shutil.copytree(folder, root + folder, symlinks=True, ignore=skip, ignore_dangling_symlinks=True)
