"""The table is replaced hundreds of times under live traffic: nothing escapes, nothing fails, no counter falls."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from agent.kernel.handle import Handle
from agent.kernel.netns import Netns
from agent.targets import State
from netns_tests.enrolling import APP, BOTH_WAYS, Weir, capture
from netns_tests.proxy import Proxy
from netns_tests.proxy_process import ProxyProcess
from netns_tests.traffic import EchoServer, Hammer, Hammered
from netns_tests.world import Host, World, eventually
from rulesets import pod as pods
from rulesets.capture import Capture
from rulesets.diff import diff
from rulesets.model import Ruleset
from rulesets.netlink import OWNED
from rulesets.pod import POD_TABLE

CLIENTS_EACH = 2  # in four ways: 8
APPLIED = 1000
# They differ in everything that a change can touch: rules, a whole set, its elements, counters; and in chains.
ONE = capture(exclude_outbound_ports=[9, "100-200"], exclude_inbound_networks=["192.0.2.0/24"])
OTHER = capture(exclude_outbound_ports=[9, "150-300"], exclude_outbound_networks=["198.51.100.0/24"], dns=False)


@dataclass(frozen=True)
class Traffic:
    """New connections out of the pod and into it, over both families, as fast as they go."""

    hammers: list[Hammer]

    def count(self) -> int:
        return min(map(len, self.hammers))

    def more(self, number: int) -> None:
        goal = self.count() + number
        eventually(lambda: self.count() >= goal, f"{number} more connections each way", 20)

    def results(self) -> list[Hammered]:
        return [hammer.result() for hammer in self.hammers]


@contextlib.contextmanager
def traffic(world: World, pod: Host) -> Iterator[Traffic]:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EchoServer(world.outside))
        stack.enter_context(EchoServer(pod, APP))
        hammers = []
        for family, outbound in BOTH_WAYS:
            client = pod if outbound else world.pods[1]
            target = (world.outside.address(family), server.port) if outbound else (pod.address(family), APP)
            hammers.append(stack.enter_context(Hammer(client, target, clients=CLIENTS_EACH)))
        running = Traffic(hammers)
        running.more(20)
        # The proxy dials from ports of the pod, as its clients do. With more connections than there are ports it gets
        # one that conntrack still has as a client's, redirected, and its SYN goes astray: two minutes otherwise.
        pod.sysctl("net/netfilter/nf_conntrack_tcp_timeout_time_wait", 1)
        yield running


def nothing_escaped(results: list[Hammered], at_least: int) -> None:
    for (family, outbound), result in zip(BOTH_WAYS, results, strict=True):
        assert result.captured == len(result.attempts) >= at_least, f"{family} outbound={outbound}: {result}"


class Counters:
    """What the named counters were when last read. None may ever fall."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def check(self, ruleset: Ruleset | None) -> None:
        assert ruleset is not None
        now = {each.name: each.packets for each in ruleset.counters}
        fallen = {name: (self._last[name], value) for name, value in now.items() if value < self._last.get(name, 0)}
        assert not fallen
        self._last = now


@pytest.mark.timeout(240)
@pytest.mark.parametrize("flags", [None, OWNED], ids=["unowned", "owned"])
def test_nothing_escapes_while_the_table_is_applied_1000_times(
    world: World, pod: Host, weir: Weir, flags: tuple[str, ...] | None
) -> None:
    rulesets = [pods.build(ONE), pods.build(OTHER)]
    # Counters of one of the two alone come and go with it; those of both must go on.
    with ProxyProcess(pod), contextlib.closing(Handle(Netns(pod.name), flags=flags)) as handle:
        assert weir.capture(ONE).state is State.APPLIED
        with traffic(world, pod) as running:
            # Unowned until now: it is made the handle's under traffic too.
            counters, generation = Counters(), handle.generation()
            for number in range(APPLIED):
                old, new = rulesets[number % 2], rulesets[1 - number % 2]
                handle.apply(diff(old, new))
                if number % 20 == 19:
                    counters.check(handle.read(POD_TABLE))
            assert handle.generation() == generation + APPLIED, "each was one transaction, and nobody else wrote"
            running.more(50)
            results = running.results()
    nothing_escaped(results, 300)


def test_nothing_escapes_while_the_wish_changes(world: World, pod: Host, weir: Weir) -> None:
    with ProxyProcess(pod):
        assert weir.capture(ONE).state is State.APPLIED
        with traffic(world, pod) as running:
            counters = Counters()
            for wanted in itertools.islice(itertools.cycle((OTHER, ONE)), 60):
                outcome = weir.capture(wanted)
                assert (outcome.state, outcome.kept) == (State.APPLIED, 0), outcome.reason
                counters.check(weir.call(weir.handle.read, "weir-pod"))
            running.more(50)
            results = running.results()
    nothing_escaped(results, 100)


def test_nothing_escapes_while_somebody_tampers_with_the_table(world: World, pod: Host, weir: Weir) -> None:
    # What Weir can't change in place, it makes anew in one transaction; the counters go on from where they were.
    with ProxyProcess(pod):
        weir.capture(ONE)
        with traffic(world, pod) as running:
            for _ in range(20):
                before = weir.call(weir.handle.read, "weir-pod")
                pod.nft("""add map inet weir-pod foreign { type ipv4_addr : verdict; }
                    add chain inet weir-pod foreign
                    add rule inet weir-pod foreign ip saddr vmap @foreign
                    add rule inet weir-pod nat-out udp dport 9 counter accept""")
                assert weir.capture(ONE).state is State.APPLIED
                after = Counters()
                after.check(before)
                after.check(weir.call(weir.handle.read, "weir-pod"))
            running.more(50)
            results = running.results()
    nothing_escaped(results, 100)


def test_a_pod_is_enrolled_and_released_under_traffic(world: World, pod: Host, weir: Weir) -> None:
    with ProxyProcess(pod), traffic(world, pod) as running:
        captured: list[tuple[float, float]] = []
        for _ in range(8):
            assert weir.capture().state is State.APPLIED
            began = time.monotonic()
            running.more(20)
            captured.append((began, time.monotonic()))
            weir.remove_until_done(drain=30, seconds=30)
            running.more(20)
        results = running.results()
    for result in results:
        assert not result.failed, result
        assert result.captured > 100
        assert result.direct > 100
        meanwhile = [each for each in result.attempts if any(start < each.time < end for start, end in captured)]
        assert {each.result for each in meanwhile} == {"captured"}


def test_two_transactions_would_have_leaked(world: World, pod: Host, weir: Weir) -> None:
    # The negative control: the traffic of the tests above does see a gap of a moment.
    table = pods.build(Capture())

    def leaks(replace: Callable[[], object]) -> bool:
        with traffic(world, pod) as running:
            for _ in range(100):
                replace()
            results = running.results()
        return any(result.direct or result.failed for result in results)

    def delete_then_add() -> None:
        weir.call(weir.handle.apply, diff(table, None))
        weir.call(weir.handle.apply, diff(None, table))

    with Proxy(pod):
        weir.capture()
        eventually(lambda: leaks(delete_then_add), "a connection escapes", 60)
