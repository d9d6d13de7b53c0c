"""The processes of pods: one pass over /proc in which each process is read once. No thread and no program is looked at.

A process may die at any moment, and its number become another's: what is kept of one is read through its directory,
which stays its own (ESRCH once it has gone).
"""

import os
from collections import defaultdict
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from agent.kernel.netns import Identity
from agent.sources.kubernetes.sandboxes.layout import Place, place_of, pods_on
from agent.sources.kubernetes.sandboxes.runtimes import foreign_program
from agent.sources.kubernetes.sandboxes.sandbox import Why
from agent.words import printable

_MOST_BYTES = 1 << 16  # of a file there; a cgroup's path has at most 4096
_STARTED = 19  # field of /proc/PID/stat after the last ")", proc_pid_stat(5); in ticks since boot


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process of a pod, with its name as it can be printed.

    `netns` is None where it can't be told, and `denied` says why where it is kept from us.
    """

    pid: int
    started: int
    name: str
    container: str
    netns: Identity | None
    foreign: Why | None = None
    denied: str = ""


@dataclass(slots=True)
class Seen:
    """What a pass came to: the processes asked for by the pod's uid (plain), and how much it could see at all.

    `processes` counts all, `of_pods` those of any pod, `denied` those that could not be looked at; `error` says why
    there was no pass.
    """

    found: dict[str, list[Process]] = field(default_factory=lambda: defaultdict(list))
    processes: int = 0
    of_pods: int = 0
    denied: int = 0
    error: str = ""


def processes_of(wanted: Collection[str], proc: Path) -> Seen:
    """Return the processes of pods, by uids as `layout.plain` has them. Never raises."""
    seen = Seen()
    try:
        root = os.open(proc, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        seen.error = f"{proc}: {error.strerror}"
        return seen
    try:
        node = _node(root)
        places: dict[bytes, Place | None] = {}  # most processes share a cgroup with others
        for name in os.listdir(root):
            if name.isdecimal():
                seen.processes += 1
                _take(seen, root, name, wanted, node, places)
    except OSError as error:
        seen.error = f"{proc}: {error.strerror}"
    finally:
        os.close(root)
    return seen


def _node(root: int) -> frozenset[str]:
    """Return the pods that the node itself runs in (kind in a pod): they are on every path, and nobody's here."""
    with suppress(OSError):
        return pods_on(_content("1/cgroup", root))
    return frozenset()


def _take(
    seen: Seen,
    root: int,
    name: str,
    wanted: Collection[str],
    node: Collection[str],
    places: dict[bytes, Place | None],
) -> None:
    try:
        cgroups = _content(f"{name}/cgroup", root)
        if cgroups not in places:
            places[cgroups] = place_of(cgroups, wanted=wanted, node=node)
        place = places[cgroups]
        if place is None:
            return
        seen.of_pods += 1
        if place.pod not in wanted:
            return
        directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
        try:
            if _content("cgroup", directory) == cgroups:
                seen.found[place.pod].append(_process(int(name), place, directory))
        finally:
            os.close(directory)
    except PermissionError:
        seen.denied += 1
    except (OSError, ValueError):
        pass  # it has ended meanwhile


def _process(pid: int, place: Place, directory: int) -> Process:
    stat = _content("stat", directory).decode(errors="backslashreplace")
    name = stat[stat.index("(") + 1 : stat.rindex(")")]
    names = {name}
    with suppress(OSError):
        names.add(os.path.basename(os.readlink("exe", dir_fd=directory)).removesuffix(" (deleted)"))
    with suppress(OSError):
        names.add(os.path.basename(_content("cmdline", directory).split(b"\0")[0].decode(errors="replace")))
    netns, denied = None, ""
    try:
        found = os.stat("ns/net", dir_fd=directory)
        netns = Identity(found.st_dev, found.st_ino)
    except PermissionError as error:
        denied = f"/proc/{pid}/ns/net: {error.strerror}"
    except OSError:
        pass  # a zombie has none
    return Process(
        pid=pid,
        started=int(stat[stat.rindex(")") + 1 :].split()[_STARTED]),
        name=printable(name),
        container=place.container,
        netns=netns,
        foreign=foreign_program(frozenset(names)),
        denied=denied,
    )


def _content(path: str, directory: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.read(descriptor, _MOST_BYTES)
    finally:
        os.close(descriptor)
