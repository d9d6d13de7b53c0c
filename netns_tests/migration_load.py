"""What a change of rules must not hurt: new connections each way at full speed, and DNS from fixed ports."""

import contextlib
import socket
import time
from typing import Self

from netns_tests import dns
from netns_tests.captured import Address, Captured
from netns_tests.enrolling import BOTH_WAYS, FAMILIES
from netns_tests.migration_dns import Askers, LateDnsServer
from netns_tests.migration_verdict import Verdict, Way, judge
from netns_tests.patience import slow
from netns_tests.proxy import DNS_ANSWER
from netns_tests.proxy_process import ProxyProcess
from netns_tests.servers import DNS_SERVER_ANSWER
from netns_tests.tap import Tap
from netns_tests.traffic import EchoServer, Hammer
from netns_tests.world import Host, World, eventually

__all__ = ["Round"]

CLIENTS_EACH = 2  # in four ways: 8
DNS_PORTS = (5301, 5302, 5303, 5304)  # outside of what the kernel chooses from
DNS_DELAY = 0.02  # seconds
# A lost connection or query never ends; one that a busy machine keeps waiting does, after whatever time.
SECONDS_TO_ANSWER = slow(20.0)
SECONDS_OF_SILENCE = slow(1.0)


class Round:
    """New connections out of a pod and into it over both families, and queries: use it in a `with` block.

    Each round has servers of its own on other ports, so that none meets a port that one before has used up. While it
    lasts nobody else connects to or from the pod.
    """

    def __init__(
        self,
        world: World,
        pod: Host,
        proxy: ProxyProcess,
        *,
        queries: bool = True,
        forwarded: bool = False,
        timeout: float = SECONDS_TO_ANSWER,
    ) -> None:
        """Take a pod that is captured, and its proxy; `forwarded`: it passes queries on to the outside."""
        self._world, self._pod, self._proxy, self._queries = world, pod, proxy, queries
        self._outside, self._inside = EchoServer(world.outside), EchoServer(pod)
        self._wire, self._loopback = Tap(pod, "eth0", only_from=()), Tap(pod, "lo", only_from=())
        self._dns = LateDnsServer(world.outside, DNS_DELAY)
        self._timeout = timeout
        servers = [(world.outside.address(family), 53) for family in FAMILIES]
        self._askers = Askers(pod, servers, DNS_PORTS, timeout, (DNS_SERVER_ANSWER if forwarded else DNS_ANSWER)[dns.A])
        self._hammers: list[tuple[str, Address, bool, Hammer]] = []
        self._moments: list[tuple[float, str]] = []
        self._verdict: Verdict | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for server in (self._outside, self._inside):
                stack.enter_context(server)
            for tap in (self._wire, self._loopback):
                stack.enter_context(tap)
            self._proxy.captured.clear()
            self.note("the beginning")
            if self._queries:
                stack.enter_context(self._dns)
                stack.enter_context(self._askers)
            for family, outbound in BOTH_WAYS:
                client = self._pod if outbound else self._world.pods[1]
                server = self._outside if outbound else self._inside
                host = self._world.outside if outbound else self._pod
                target = (host.address(family), server.port)
                hammer = stack.enter_context(Hammer(client, target, clients=CLIENTS_EACH, timeout=self._timeout))
                name = f"{'outbound' if outbound else 'inbound'} IPv{4 if family == socket.AF_INET else 6}"
                self._hammers.append((name, target, outbound, hammer))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def note(self, what: str) -> None:
        """Say what begins at this moment: a verdict names what had begun before something went wrong."""
        self._moments.append((time.monotonic(), what))

    def more(self, number: int = 20) -> None:
        """Wait until so many more connections each way and queries have begun and ended."""
        hammers = [hammer for _, _, _, hammer in self._hammers]
        goals = [len(hammer) + CLIENTS_EACH + number for hammer in hammers]
        queries = len(self._askers.asked) + len(DNS_PORTS) * len(FAMILIES) + number if self._queries else 0

        def done() -> bool:
            connected = all(len(hammer) >= goal for hammer, goal in zip(hammers, goals, strict=True))
            return connected and len(self._askers.asked) >= queries

        eventually(done, f"{number} more connections each way, and queries", slow(20))

    def verdict(self) -> Verdict:
        """Begin no more, wait for what is under way, and return what became of everything since the round began."""
        if self._verdict is None:
            self._verdict = self._judged()
        return self._verdict

    def _judged(self) -> Verdict:
        results = [hammer.result() for _, _, _, hammer in self._hammers]
        asked = self._askers.finish() if self._queries else ()
        expected = sum(each.captured for each in results) + len(asked)
        self._wait_for_the_log(expected)
        logged = self._since()
        # Each is listed before its system call returns, so that these are whole.
        wire, loopback = self._wire, self._loopback
        ways = [
            Way(
                name=name,
                outbound=outbound,
                hammered=result,
                logged=[each for each in logged if each.original == target],
                arrived=[] if outbound else wire.connections(target=target),
                dialled=(wire if outbound else loopback).connections(target=target),
            )
            for (name, target, outbound, _), result in zip(self._hammers, results, strict=True)
        ]
        queries = [each for each in logged if each.direction == "dns"]
        strays = [each for each in logged if each.direction == "stray"]
        seen = self._dns.peers if self._queries else []
        return judge(ways, asked, queries, strays, seen, self._when)

    def _wait_for_the_log(self, expected: int) -> None:
        """Wait until the proxy has said as much as is expected, or nothing more for a while: that is for the judge."""
        last, since = -1, 0.0
        while (found := len(self._since())) < expected and time.monotonic() - since < SECONDS_OF_SILENCE:
            if found != last:
                last, since = found, time.monotonic()
            time.sleep(0.05)  # polling with a deadline

    def _since(self) -> list[Captured]:
        began = self._moments[0][0]
        return [each for each in self._proxy.captured if each.time >= began]

    def _when(self, moment: float) -> str:
        begun = [(at, what) for at, what in self._moments if at <= moment] or self._moments[:1]
        at, what = begun[-1]
        return f"{(moment - at) * 1000:.0f} ms after: {what}"
