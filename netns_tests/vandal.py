"""Programs of the system under other names: the kernel tells by which name a process goes."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from netns_tests.daemon import Daemon
from netns_tests.namespace import Namespace

__all__ = ["Vandal", "drifts"]


class Vandal:
    """Runs programs in a namespace, each as a process of a name of its own."""

    def __init__(self, folder: Path, name: str = "vandal") -> None:
        """`name` is the process's, which is at most 15 bytes."""
        self.name = name
        self._folder = folder

    def __call__(self, namespace: Namespace, program: str, *arguments: str) -> int:
        """Run a program to its end, which is to be a good one; return the number of its process."""
        found = shutil.which(program)
        assert found is not None
        place = self._folder / program
        place.mkdir(exist_ok=True)
        named = place / self.name
        if not named.is_symlink():
            named.symlink_to(found)
        process = namespace.spawn([os.fspath(named), *arguments], stderr=subprocess.PIPE)
        _, said = process.communicate()
        assert process.returncode == 0, said
        return process.pid


def drifts(daemon: Daemon, name: str = "t0") -> list[dict[str, Any]]:
    """Return the newest drifts of a target in the daemon's status, the last of them last."""
    return list(daemon.target(name).get("drifts", ()))
