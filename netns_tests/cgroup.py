"""A cgroup of the tests' own, as a service manager makes one for each life of a service."""

import itertools
import os
from pathlib import Path
from typing import Self

from agent.kernel import cgroups
from netns_tests.world import eventually

__all__ = ["Cgroup", "entering"]

_numbers = itertools.count()


def entering(directory: Path) -> list[str]:
    """Return what stands before a command that is to run in a cgroup."""
    return ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(directory)]


class Cgroup:
    """Two directories, as `system.slice/proxy.service`. Use it in a `with` block, and end its processes inside."""

    def __init__(self) -> None:
        """Nothing is made before the block is entered."""
        self.path = f"weir-test-{os.getpid()}-{next(_numbers)}.slice/a\\x2dproxy.service"
        self.directory = cgroups.root() / self.path

    @property
    def number(self) -> int:
        """What the kernel calls it."""
        return self.directory.stat().st_ino

    def make(self) -> None:
        """Make it, as a service that starts."""
        self.directory.mkdir(parents=True)

    def remove(self) -> None:
        """Remove it, as a service that has ended: not before its last process is gone."""
        eventually(self._removed, f"{self.directory} is empty and gone")

    def _removed(self) -> bool:
        try:
            self.directory.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def __enter__(self) -> Self:
        self.make()
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()
        if self.directory.parent.exists():
            self.directory.parent.rmdir()
