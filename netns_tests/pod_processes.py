"""Processes in the cgroups and namespaces of pods, as a kubelet and a container runtime would have started them."""

import contextlib
import itertools
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Self

from agent.kernel import cgroups
from netns_tests.cgroup import entering
from netns_tests.namespace import Namespace
from netns_tests.world import eventually

__all__ = ["SLEEP", "Pods", "address", "hierarchies"]

SLEEP = ("sleep", "600")
_NAME = re.compile(r"weir-pods-(\d+)-\d+")
_numbers = itertools.count()


def address(*texts: str, interface: str = "eth0") -> str:
    """Return a line of shell that makes an interface with addresses, as a network plugin does."""
    own = f"ip link add {interface} type veth peer name peer{next(_numbers)} && ip link set {interface} up"
    return " && ".join([own, *(f"ip address add {each} dev {interface}" for each in texts)])


class Pods:
    """A folder in a hierarchy of cgroups, and the processes below it. Use it in a `with` block."""

    def __init__(self, hierarchy: Path) -> None:
        """Nothing is made before the block is entered."""
        self.base = hierarchy / f"weir-pods-{os.getpid()}-{next(_numbers)}"
        self._started: list[subprocess.Popen[str]] = []

    def start(
        self,
        path: str,
        *program: str,
        script: str = ":",
        into: Namespace | None = None,
        options: Sequence[str] = ("--net",),
        prefix: Sequence[str] = (),
    ) -> int:
        """Start a program in a cgroup below, and return its process number once `script` has been carried out.

        In a namespace of its own, or as `options` of unshare(1) say; `into` is one that has a name. `prefix` stands
        before the whole command, and the number is its process's.
        """
        directory = self.base / path
        directory.mkdir(parents=True, exist_ok=True)
        enter = ["nsenter", f"--net={into.path}"] if into else []
        apart = ["unshare", *options] if options and not into else []
        # It ends with this process, however that ends; setpriv(1) comes last, for a new user namespace undoes it.
        bound = ["setpriv", "--pdeathsig", "KILL"]
        run = ["sh", "-c", f'{script} && echo ready && exec "$@"', "sh", *(program or SLEEP)]
        argv = [*prefix, *entering(directory), *enter, *apart, *bound, *run]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self._started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", f"{shlex.join(argv)} failed"
        command = Path(f"/proc/{process.pid}/cmdline")
        eventually(lambda: not command.read_bytes().startswith(b"sh\0-c\0" + script.encode()), f"{argv} is {program}")
        return process.pid

    def end(self, pid: int) -> None:
        """Kill one process, and wait until it has ended."""
        process = next(each for each in self._started if each.pid == pid)
        process.kill()
        process.wait()

    def __enter__(self) -> Self:
        _sweep(self.base.parent)
        self.base.mkdir()
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._started:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        eventually(lambda: _removed(self.base), f"{self.base} is empty and gone")


def hierarchies() -> list[Path]:
    """Return what this machine has: the unified hierarchy, and of the older ones that of pids."""
    found = [Path("/sys/fs/cgroup/pids")] if Path("/sys/fs/cgroup/pids/cgroup.procs").exists() else []
    with contextlib.suppress(Exception):
        found.append(cgroups.root())
    return found


def _removed(top: Path) -> bool:
    """Remove a folder of cgroups, of which a dying process may still be in one; kill what is left inside."""
    for directory, _, _ in os.walk(top, topdown=False):
        try:
            for pid in Path(directory, "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            Path(directory).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return not top.exists()


def _sweep(hierarchy: Path) -> None:
    """Remove what a killed run left; its processes have ended with it."""
    for each in hierarchy.glob("weir-pods-*"):
        found = _NAME.fullmatch(each.name)
        if found and not Path("/proc", found[1]).exists():
            eventually(partial(_removed, each), f"{each} is empty and gone")
