"""Releasing a pod under captured streams: they go on to their end, or end with an error; then nothing is left."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.targets import Outcome, State
from agent.words import counted
from netns_tests.enrolling import Weir, alive, every_way, kernel_state, slow, start_conntrack, ways
from netns_tests.proxy import Proxy
from netns_tests.traffic import Stream
from netns_tests.world import Host, World, eventually

USER = 4711
FOREVER = 3600.0
CAPTURED, DIRECT, OUTBOUND_ONLY = ["captured"] * 4, ["direct"] * 4, ["captured", "direct"] * 2
# Everything that a capture may name another way.
OTHERWISE = {
    "proxy_mark": "0x111/0xfff",
    "connection_mark": "0x539/0xfff",
    "hbone_port": 16008,
    "route_table": 4711,
    "rule_priority": 1234,
}


def end_with_an_error(streams: list[Stream], release: Callable[[], object]) -> None:
    """Within a second of a release, whoever is at an end of a stream knows."""
    began = time.monotonic()
    release()
    for stream in streams:
        came = stream.outcome(max(0.01, slow(1) - (time.monotonic() - began)))
        assert "alive" not in came, came
        assert "hang" not in came, came
        assert "EOF" not in came, came


def nothing_is_left(weir: Weir, before: str) -> None:
    assert kernel_state(weir.pod) == before
    assert weir.records.read(weir.handle.netns.identity, weir.handle.cookie) is None
    again = weir.remove()
    assert (again.state, again.reason) == (State.UNCHANGED, "nothing of Weir is there")


def draining(outcome: Outcome, at_least: int) -> None:
    assert outcome.state is State.DRAINING, outcome.reason
    assert outcome.draining >= at_least
    assert counted(outcome.draining, "captured stream") in outcome.reason
    assert outcome.again is not None


@pytest.mark.parametrize("values", [{}, OTHERWISE, {"proxy_user": USER}], ids=["default", "otherwise", "by user"])
def test_captured_streams_go_on_to_their_end(world: World, pod: Host, weir: Weir, values: dict[str, object]) -> None:
    before = kernel_state(pod)
    user = USER if "proxy_user" in values else None
    mark = None if user else 0x111 if "proxy_mark" in values else 0x539
    with Proxy(pod, mark=mark, user=user) as proxy, ExitStack() as stack:
        assert weir.capture(**values).state is State.APPLIED
        idle = every_way(stack, world, pod, interval=None)
        busy = every_way(stack, world, pod, interval=0)
        draining(weir.remove(drain=FOREVER), 8)
        assert ways(world, pod) == DIRECT
        assert alive(idle + busy) == ["alive"] * 8
        draining(weir.remove(drain=FOREVER), 8)
        for stream in busy:
            assert stream.finish() > 100_000
        assert alive(idle) == ["alive"] * 4
        draining(weir.remove(drain=FOREVER), 4)
        for stream in idle:
            stream.finish()
        last = weir.remove_until_done(FOREVER)
        assert last.state is State.REMOVED
        assert proxy.streams == 0
    nothing_is_left(weir, before)


def test_a_plain_hosts_own_connections_drain(world: World, pod: Host, weir: Weir) -> None:
    # Here only one rule keeps connection tracking going, by which captured streams are translated.
    before = kernel_state(pod)
    with Proxy(pod, mark=None, user=USER), ExitStack() as stack:
        assert weir.capture(inbound=False, dns=False, proxy_user=USER).state is State.APPLIED
        streams = [
            stack.enter_context(Stream(pod, world.outside, (address, 0), interval=interval))
            for address in (world.outside.v4, world.outside.v6)
            for interval in (None, 0)
        ]
        assert all(stream.captured for stream in streams)
        assert ways(world, pod) == OUTBOUND_ONLY
        draining(weir.remove(drain=FOREVER), 4)
        assert ways(world, pod) == DIRECT
        assert alive(streams) == ["alive"] * 4
        for stream in streams:
            stream.finish()
        assert weir.remove_until_done(FOREVER).state is State.REMOVED
    nothing_is_left(weir, before)


def test_unusual_ports_can_be_taken_away(world: World, pod: Host, weir: Weir) -> None:
    # The outbound port is where others have their inbound one: what the table doesn't name must not clash with it.
    before = kernel_state(pod)
    with Proxy(pod), Stream(pod, world.outside, (world.outside.v4, 0)) as old:
        values = {"inbound": False, "dns": False, "outbound_port": 15006, "inbound_port": 15001}
        assert weir.capture(**values).kept == 1
        assert old.outcome() == "alive"
        assert weir.remove().state is State.REMOVED
        assert old.outcome() == "alive"
    nothing_is_left(weir, before)


@pytest.mark.parametrize("drain", [0.0, 0.3], ids=["at once", "at the deadline"])
def test_both_ends_see_an_error(world: World, pod: Host, weir: Weir, drain: float) -> None:
    before = kernel_state(pod)
    with Proxy(pod), ExitStack() as stack:
        weir.capture()
        streams = [
            *every_way(stack, world, pod, interval=None),
            *every_way(stack, world, pod, interval=0.002),
            *every_way(stack, world, pod, interval=0),
        ]
        if drain:
            first = weir.remove(drain=drain)
            draining(first, len(streams))
            assert first.again is not None
            assert first.again <= drain
            assert alive(streams) == ["alive"] * len(streams)

            def over() -> bool:
                known = weir.records.read(weir.handle.netns.identity, weir.handle.cookie)
                assert known is not None
                assert known.drain_until is not None
                return time.clock_gettime(time.CLOCK_BOOTTIME) >= known.drain_until

            eventually(over, "the deadline is over")
        outcomes: list[Outcome] = []
        end_with_an_error(streams, lambda: outcomes.append(weir.remove(drain=drain)))
        assert outcomes[0].state is State.REMOVED, outcomes[0].reason
        assert "of captured streams ended with an error" in outcomes[0].reason
        assert ways(world, pod) == DIRECT
    nothing_is_left(weir, before)


def test_streams_that_were_kept_outside_are_left_alone(world: World, pod: Host, weir: Weir) -> None:
    start_conntrack(pod)
    before = kernel_state(pod)
    with Proxy(pod), ExitStack() as stack:
        old = every_way(stack, world, pod)
        assert weir.capture().kept == 4
        captured = every_way(stack, world, pod)
        end_with_an_error(captured, weir.remove)
        assert alive(old) == ["alive"] * 4
        assert not [flow for flow in weir.flows() if flow.mark & 0xFFF]
    nothing_is_left(weir, before)


def test_a_drain_goes_on_after_a_kill_and_keeps_its_deadline(
    world: World, pod: Host, weir: Weir, tmp_path: Path
) -> None:
    before = kernel_state(pod)
    with Proxy(pod), ExitStack() as stack:
        weir.capture()
        streams = every_way(stack, world, pod)
        draining(weir.remove(drain=FOREVER), 4)
        known = weir.records.read(weir.handle.netns.identity, weir.handle.cookie)
        weir.close()
        with Weir(pod, tmp_path) as anew:
            draining(anew.remove(drain=FOREVER), 4)
            assert anew.records.read(anew.handle.netns.identity, anew.handle.cookie) == known
            assert alive(streams) == ["alive"] * 4
            # The record may be lost with /run: what the table and the proxy's default ports say is still enough.
            anew.records.forget(anew.handle.netns.identity)
            draining(anew.remove(drain=FOREVER), 4)
            for stream in streams:
                stream.finish()
            assert anew.remove_until_done(FOREVER).state is State.REMOVED
            nothing_is_left(anew, before)


def test_a_shorter_wish_cuts_a_drain_short(world: World, pod: Host, weir: Weir) -> None:
    before = kernel_state(pod)
    with Proxy(pod), ExitStack() as stack:
        weir.capture()
        streams = every_way(stack, world, pod)
        draining(weir.remove(drain=FOREVER), 4)
        end_with_an_error(streams, weir.remove)
    nothing_is_left(weir, before)


@pytest.mark.parametrize("established", ["keep", "reset"])
def test_enrolling_again_while_draining_cuts_nothing(world: World, pod: Host, weir: Weir, established: str) -> None:
    before = kernel_state(pod)
    with Proxy(pod) as proxy, ExitStack() as stack:
        weir.capture()
        captured = every_way(stack, world, pod)
        draining(weir.remove(drain=FOREVER), 4)
        meanwhile = every_way(stack, world, pod)
        again = weir.capture(established=established)
        assert (again.state, again.kept) == (State.APPLIED, 4 if established == "keep" else 0)
        assert ways(world, pod) == CAPTURED
        assert alive(captured) == ["alive"] * 4
        eventually(lambda: proxy.streams == 4, "the proxy still carries them")
        outcomes = alive(meanwhile)
        assert outcomes == ["alive"] * 4 if established == "keep" else not any("alive" in each for each in outcomes)
        weir.remove()
    nothing_is_left(weir, before)


def test_a_capture_without_inbound_ends_what_came_in(world: World, pod: Host, weir: Weir) -> None:
    # Its routes and rules go: without an error such streams would hang.
    with Proxy(pod), ExitStack() as stack:
        weir.capture()
        streams = every_way(stack, world, pod)
        outbound, inbound = streams[::2], streams[1::2]
        end_with_an_error(inbound, lambda: weir.capture(inbound=False))
        assert alive(outbound) == ["alive"] * 2
        assert ways(world, pod) == OUTBOUND_ONLY


def test_another_route_table_keeps_captured_streams_and_another_mark_ends_what_came_in(
    world: World, pod: Host, weir: Weir
) -> None:
    before = kernel_state(pod)
    with Proxy(pod), ExitStack() as stack:
        weir.capture()
        streams = every_way(stack, world, pod)
        changed = weir.capture(route_table=4711, rule_priority=77)
        assert (changed.state, changed.kept) == (State.APPLIED, 0)
        assert alive(streams) == ["alive"] * 4
        wanted = {"route_table": 4711, "connection_mark": "0x2220/0xfff0"}
        end_with_an_error(streams[1::2], lambda: weir.capture(**wanted))
        assert alive(streams[::2]) == ["alive"] * 2
        assert ways(world, pod) == CAPTURED
        draining(weir.remove(drain=FOREVER), 2)
        for stream in streams[::2]:
            stream.finish()
        weir.remove_until_done(FOREVER)
    nothing_is_left(weir, before)
