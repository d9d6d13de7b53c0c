"""Kernels from Debian's packages, fetched with apt and unpacked into a cache; what the machine has is left alone.

The mirror is the machine's own. An apt state folder for each suite keeps the machine's lists and sources untouched.
"""

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["KERNELS", "Kernel", "NotFetched", "Unpacked", "cache", "dependency", "mirror", "unpacked"]

LATEST = "linux-image-amd64"  # an empty package that depends on the suite's newest kernel
BUSYBOX = "busybox-static"


class NotFetched(Exception):
    """A kernel could not be fetched or unpacked; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A kernel to test on: the series that it belongs to, and the suite of Debian that has it."""

    series: str
    suite: str


KERNELS = (
    Kernel(series="5.10", suite="bullseye"),
    Kernel(series="6.1", suite="bookworm"),
    Kernel(series="6.12", suite="trixie"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """A kernel on disk: its version as `uname -r` says it, its image, its modules with their index, a static shell."""

    version: str
    image: Path
    modules: Path
    busybox: Path


def cache() -> Path:
    """Return the folder that kernels are kept in."""
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "weir" / "kernels"


def unpacked(kernel: Kernel, folder: Path) -> Unpacked:
    """Return a kernel from a cache folder, after fetching and unpacking it there when it isn't. Raises `NotFetched`."""
    if platform.machine() != "x86_64":
        raise NotFetched(f"Debian's kernels for x86-64 run this machine's own programs, and it is {platform.machine()}")
    # The recipe is this file: once it changes, what an earlier one made is made anew.
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    made = folder / f"{kernel.series}-{recipe}"
    with _locked(folder):
        if not made.is_dir():
            _make(kernel, folder, made)
    (image,) = made.glob("boot/vmlinuz-*")
    version = image.name.removeprefix("vmlinuz-")
    (modules,) = [
        path for path in (made / "lib/modules" / version, made / "usr/lib/modules" / version) if path.is_dir()
    ]
    (busybox,) = [path for path in (made / "bin/busybox", made / "usr/bin/busybox") if path.is_file()]
    return Unpacked(version=version, image=image, modules=modules, busybox=busybox)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other runs from the cache meanwhile. The lock goes with its process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(kernel: Kernel, folder: Path, made: Path) -> None:
    print(f"kernels: fetching Linux {kernel.series} of Debian {kernel.suite}", flush=True)
    half = folder / f"{kernel.series}.half"  # also what a killed run may have left
    shutil.rmtree(half, ignore_errors=True)
    packages, root = half / "packages", half / "root"
    apt = _Apt.prepared(half / "apt", kernel.suite)
    packages.mkdir(parents=True)
    image = dependency(apt.output("apt-cache", "show", "--no-all-versions", LATEST))
    apt.output("apt-get", "download", image, BUSYBOX, cwd=packages)
    print(f"kernels: unpacking {image}", flush=True)
    for package in packages.glob("*.deb"):
        _output("dpkg-deb", "--extract", str(package), str(root))
    _output("depmod", "--basedir", str(root if (root / "lib").is_dir() else root / "usr"), _version(root))
    for older in folder.glob(f"{kernel.series}-*"):
        shutil.rmtree(older)
    root.rename(made)
    shutil.rmtree(half)


def _version(root: Path) -> str:
    (image,) = root.glob("boot/vmlinuz-*")
    return image.name.removeprefix("vmlinuz-")


@dataclass(frozen=True, slots=True)
class _Apt:
    """apt with sources, lists and downloads of its own."""

    options: tuple[str, ...]

    @classmethod
    def prepared(cls, folder: Path, suite: str) -> "_Apt":
        """Write its one source, and read its lists."""
        for each in ("state/lists/partial", "cache/archives/partial"):
            (folder / each).mkdir(parents=True)
        (folder / "state/status").touch()  # nothing is installed
        targets = ("$(ORIGIN)", "$(LABEL)", "$(COMPONENT)", "$(REPO_URI)")
        known = _output("apt-get", "indextargets", "--format", " ".join(targets), "Created-By: Packages")
        (folder / "sources.list").write_text(f"deb {mirror(known)} {suite} main\n")
        settings = {
            "Dir::Etc::SourceList": folder / "sources.list",
            "Dir::Etc::SourceParts": "-",
            "Dir::State": folder / "state",
            "Dir::State::Status": folder / "state/status",
            "Dir::Cache": folder / "cache",
            # Where others than root may not look, apt's own user can't write: it would say so and go on as root.
            "APT::Sandbox::User": "root",
            "Acquire::Retries": "3",
        }
        apt = cls(tuple(f"--option={name}={value}" for name, value in settings.items()))
        apt.output("apt-get", "--quiet", "update")
        return apt

    def output(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        """Return what one of apt's programs prints."""
        return _output(program, *self.options, *arguments, cwd=cwd)


def mirror(targets: str) -> str:
    """Return where packages of Debian come from, of lines of origin, label, component and address.

    Raises `NotFetched` when none is Debian's: its security updates are another archive, and have no older suites.
    """
    for line in targets.splitlines():
        *known, address = line.split()
        if known == ["Debian", "Debian", "main"]:
            return address
    raise NotFetched(
        "no mirror of Debian among this machine's apt sources: on Debian, run `apt-get update`, then again"
    )


def dependency(described: str) -> str:
    """Return the kernel that the description of an empty package depends on. Raises `NotFetched` when none."""
    found = re.search(r"^Depends: (linux-image-\S+)", described, re.MULTILINE)
    if found is None:
        raise NotFetched(f"no kernel is named by {LATEST}: {described!r}")
    return found[1]


def _output(*command: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NotFetched(f"{command[0]}: no such program; kernels are taken from Debian's packages, by apt") from None
    if done.returncode:
        raise NotFetched(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout
