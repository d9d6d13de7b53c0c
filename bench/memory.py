"""``memory``: what each namespace more adds to the agent."""

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.places import Supply
from bench.report import Goal, Report, Unit, again
from bench.sampling import Variant, interleaved
from netns_tests.daemon import Daemon, targets
from netns_tests.namespace import Namespace

ROUNDS = 2
NAMESPACES = 500
WEIR, HANDLE = "weir daemon", "open Handles alone"
_PROXY = (*((socket.SOCK_STREAM, port) for port in (15001, 15006, 15053)), (socket.SOCK_DGRAM, 15053))
_PATIENCE, _REST = 60.0, 1.0  # seconds
_STILL = 65536  # bytes


def run(rounds: int, namespaces: int = NAMESPACES) -> Report:
    """Take the samples: each of another daemon, with some namespaces and then with as many more."""
    needed = 3 * 2 * namespaces
    with Supply.opened() as supply:
        variants = [
            _daemon(WEIR, supply, namespaces),
            _daemon(again(WEIR), supply, namespaces),
            _handles(supply, namespaces),
        ]
        found = interleaved(variants, rounds, before=lambda: supply.ensure(needed, needed), warm_up=0)
    each = {name: found[f"{name}: each more"].p50 / 1024 for name in (WEIR, HANDLE)}
    with_all = f"{WEIR}: with {2 * namespaces}"
    return Report(
        bench="memory",
        about=f"resident memory (RSS) with {namespaces} namespaces, then with {namespaces} more",
        subject=with_all,
        unit=Unit.KILOBYTES,
        results=tuple(found.values()),
        goals=(Goal(what="each namespace more adds to the daemon", found=each[WEIR], wanted=10, unit="KB"),),
        twins=((with_all, f"{again(WEIR)}: with {2 * namespaces}"),),
        parts=frozenset(found) - {with_all},
        notes=(f"an open Handle that wrote its table adds {each[HANDLE]:.1f} KB, by itself",),
    )


def resident(smaps: str) -> Mapping[str, float]:
    """Return bytes of RSS and PSS from the text of /proc/PID/smaps_rollup."""
    lines = (line.split() for line in smaps.splitlines())
    return {each[0].rstrip(":").upper(): int(each[1]) * 1024.0 for each in lines if each[0] in ("Rss:", "Pss:")}


def grown(name: str, count: int, before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return results of two looks, between which `count` namespaces came."""
    return {
        f"{name}: with {count}": before["RSS"],
        f"{name}: with {2 * count}": after["RSS"],
        f"{name}: each more": (after["RSS"] - before["RSS"]) / count,
        f"{name}: each more, PSS": (after["PSS"] - before["PSS"]) / count,
    }


def _daemon(name: str, supply: Supply, count: int) -> Variant:
    def sample() -> Mapping[str, float]:
        namespaces = supply.take(2 * count)
        some, text = namespaces[:count], targets(namespaces, "")
        with (
            ExitStack() as proxies,
            tempfile.TemporaryDirectory(prefix="weir-bench-") as directory,
            Daemon(Path(directory), targets(some, ""), "--resync", "3600") as daemon,
        ):
            for namespace in namespaces:
                namespace.run(_listen, proxies)
            daemon.start()
            before = _with(daemon, some)
            daemon.rewrite(text)
            return grown(name, count, before, _with(daemon, namespaces))

    return sample


def _listen(proxies: ExitStack) -> None:
    """Listen in the calling thread's namespace as a proxy does, for both families, and for DNS as well."""
    for kind, port in _PROXY:
        listener = proxies.enter_context(socket.socket(socket.AF_INET6, kind))
        listener.bind(("::", port))
        if kind is socket.SOCK_STREAM:
            listener.listen()


def _with(daemon: Daemon, namespaces: Sequence[Namespace]) -> Mapping[str, float]:
    """Return what a daemon takes once it has captured these and is at rest."""
    wanted = {each.name for each in namespaces}

    def captured() -> bool:
        known = daemon.client.status()["targets"]
        assert isinstance(known, list)
        return wanted <= {each["netns"] for each in known if each["captured"]}

    daemon.eventually(captured, f"{len(wanted)} namespaces are captured", _PATIENCE)
    smaps = Path(f"/proc/{daemon.pid}/smaps_rollup")
    before = resident(smaps.read_text())
    while True:
        time.sleep(_REST)
        now = resident(smaps.read_text())
        if abs(now["RSS"] - before["RSS"]) < _STILL:
            return now
        before = now


def _handles(supply: Supply, count: int) -> Variant:
    def sample() -> Mapping[str, float]:
        names = "\n".join(each.name for each in supply.take(2 * count))
        argv = [sys.executable, "-m", "bench.held"]
        said = subprocess.run(argv, input=names, capture_output=True, text=True, check=True).stdout
        before, after = said.strip().split("\n\n")
        return grown(HANDLE, count, resident(before), resident(after))

    return sample
