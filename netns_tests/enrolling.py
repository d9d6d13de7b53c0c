"""Weir at work in a pod of the test world: enrol it, release it, see what its kernel holds."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

from agent.kernel.conntrack import Conntrack, Flow
from agent.kernel.handle import Handle
from agent.kernel.netns import Netns
from agent.reconcile import read_back, reconcile
from agent.state import Records
from agent.targets import Absent, Captured, Outcome, State, Target
from netns_tests.clients import exchange
from netns_tests.namespace import Namespace
from netns_tests.patience import slow
from netns_tests.servers import EchoServer
from netns_tests.stream import Stream
from netns_tests.world import Host, World, eventually
from rulesets.capture import Capture

__all__ = [
    "APP",
    "BOTH_WAYS",
    "FAMILIES",
    "Weir",
    "alive",
    "capture",
    "every_way",
    "kernel_state",
    "slow",
    "start_conntrack",
    "ways",
]

T = TypeVar("T")
APP = 8080
FAMILIES: tuple[int, int] = (socket.AF_INET, socket.AF_INET6)
BOTH_WAYS = [(family, outbound) for family in FAMILIES for outbound in (True, False)]
# What makes conntrack active in a namespace, and nothing else.
_TRACKS = "table inet tracks {\nchain output { type filter hook output priority 0; ct state invalid counter; }\n}"
_UNSTEADY = ("nf_conntrack_count", "ip_local_port_range", "netns_ids", "ip_vs", "fib_notify")


def capture(**values: object) -> Capture:
    """Return a capture from values as a file has them."""
    return Capture.parse(values)


class Weir:
    """One target. Every call is made by a thread of its own, as the daemon's workers do; use it in a `with` block."""

    def __init__(self, pod: Namespace, directory: Path) -> None:
        """Take the pod and the run directory; a second one on the same pod is a Weir that was started anew."""
        self.pod = pod
        self.records = Records(directory)
        self._worker = ThreadPoolExecutor(1)
        self.handle = self.call(Handle, Netns(pod.name))

    def call(self, fn: Callable[..., T], *args: object) -> T:
        """Call something in the worker."""
        return self._worker.submit(fn, *args).result()

    def capture(self, wanted: Capture | None = None, /, **values: object) -> Outcome:
        """Reconcile with the wish to be captured."""
        return self._reconcile(Captured(capture=capture(**values) if wanted is None else wanted))

    def remove(self, drain: float = 0.0) -> Outcome:
        """Reconcile once with the wish that nothing be there."""
        return self._reconcile(Absent(drain=drain))

    def remove_until_done(self, drain: float, seconds: float = 10.0) -> Outcome:
        """Reconcile until nothing is left."""
        outcomes: list[Outcome] = []

        def gone() -> bool:
            outcomes.append(self.remove(drain))
            return outcomes[-1].state in (State.REMOVED, State.UNCHANGED)

        eventually(gone, "nothing is left", seconds)
        return outcomes[-1]

    def _reconcile(self, wish: Captured | Absent) -> Outcome:
        target = Target(name=self.pod.name, netns=self.pod.name, wish=wish)
        return self.call(lambda: read_back(reconcile(target, self.handle, self.records), self.handle))

    def flows(self) -> tuple[Flow, ...]:
        """Return the pod's conntrack entries."""

        def listed() -> tuple[Flow, ...]:
            with Conntrack() as conntrack:
                return conntrack.flows()

        return self.pod.run(listed)

    def forget_flows(self, *ports: int) -> int:
        """Delete the conntrack entries of streams to these ports; return how many there were."""

        def forget() -> int:
            with Conntrack() as conntrack:
                flows = [flow for flow in conntrack.flows() if flow.original.destination_port in ports]
                return sum(conntrack.delete(flow) for flow in flows)

        return self.pod.run(forget)

    def close(self) -> None:
        """Let go of the pod, as a Weir that ends or is killed does; twice is once."""
        self.handle.close()
        self._worker.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def every_way(
    stack: contextlib.ExitStack, world: World, pod: Host, *, interval: float | None = 0.01, port: int = 0
) -> list[Stream]:
    """Open a stream of each family out of the pod, to the outside, and into it, from another pod."""
    other = world.pods[1]
    return [
        stack.enter_context(
            Stream(pod, world.outside, (world.outside.address(family), port), interval=interval)
            if outbound
            else Stream(other, pod, (pod.address(family), port), interval=interval)
        )
        for family, outbound in BOTH_WAYS
    ]


def alive(streams: list[Stream]) -> list[str]:
    """Return how each stream fares."""
    return [stream.outcome() for stream in streams]


def ways(world: World, pod: Host, timeout: float = 5.0) -> list[str]:
    """Say of a new connection each way what becomes of it: captured, direct, refused, reset or hanging."""
    found = []
    with EchoServer(world.outside) as server, EchoServer(pod, APP):
        for family, outbound in BOTH_WAYS:
            client = pod if outbound else world.pods[1]
            target = (world.outside.address(family), server.port) if outbound else (pod.address(family), APP)
            try:
                found.append("direct" if exchange(client, target, timeout=timeout).direct else "captured")
            except ConnectionRefusedError:
                found.append("refused")
            except ConnectionResetError:
                found.append("reset")
            except TimeoutError:
                found.append("hanging")
    return found


def start_conntrack(pod: Namespace) -> None:
    """Have connection tracking know a pod's streams before Weir comes."""
    pod.nft(_TRACKS)


def kernel_state(pod: Namespace) -> str:
    """Return all rules, routes and settings of a pod, as text to be compared byte by byte."""

    def settings() -> Iterator[str]:
        for folder, _, names in os.walk("/proc/sys/net"):
            for name in names:
                path = Path(folder, name)
                if not any(each in str(path) for each in _UNSTEADY):
                    with contextlib.suppress(OSError):
                        yield f"{path} = {path.read_text()}"

    parts = [pod.command("nft", "-s", "list", "ruleset")]
    for family in ("-4", "-6"):
        parts += [pod.command("ip", family, "rule"), pod.command("ip", family, "route", "show", "table", "all")]
    return "\n".join([*parts, *pod.run(lambda: sorted(settings()))])
