"""A pod under load, enrolled in the order that loses nothing (the proxy's word, then the rules) and released again."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from agent.mesh.status import Acknowledged, Released
from agent.targets import State
from netns_tests.enrolling import APP, Weir, alive, every_way, kernel_state, slow, start_conntrack, ways
from netns_tests.mesh_proxy_process import Agent, MeshProxy
from netns_tests.traffic import EchoServer, Hammer
from netns_tests.world import Host, World, eventually

CAPTURED, DIRECT = ["captured"] * 4, ["direct"] * 4
MANY = 200  # connections


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ztunnel.sock"


@contextmanager
def load(world: World, pod: Host) -> Iterator[list[Hammer]]:
    """Have connections made out of a pod and into it; none may fail."""
    with ExitStack() as stack:
        outside = stack.enter_context(EchoServer(world.outside))
        stack.enter_context(EchoServer(pod, APP + 1))
        hammers = [
            stack.enter_context(Hammer(pod, (world.outside.v4, outside.port), clients=2)),
            stack.enter_context(Hammer(world.pods[1], (pod.v4, APP + 1), clients=2)),
        ]
        yield hammers
        for hammer in hammers:
            result = hammer.result()
            assert not result.failed, str(result)


def many_more(hammers: list[Hammer]) -> None:
    """Wait for more connections, in the state of things now."""
    before = [len(each) for each in hammers]
    eventually(lambda: all(len(each) > n + MANY for each, n in zip(hammers, before, strict=True)), "load", slow(20))


def test_a_pod_is_enrolled_and_released_under_load(world: World, pod: Host, weir: Weir, path: Path) -> None:
    start_conntrack(pod)
    before = kernel_state(pod)
    with Agent(path) as agent, MeshProxy(path), ExitStack() as stack:
        agent.with_snapshot()
        early = every_way(stack, world, pod)
        with load(world, pod) as hammers:
            many_more(hammers)
            assert isinstance(agent.add("a", pod), Acknowledged)
            came = weir.capture()
            assert (came.state, came.captured) == (State.APPLIED, True), came.reason
            many_more(hammers)
            assert ways(world, pod) == CAPTURED
            late = every_way(stack, world, pod)
            assert alive(early + late) == ["alive"] * 8
            assert weir.remove(drain=3600).state is State.DRAINING
            many_more(hammers)
            assert ways(world, pod) == DIRECT
            assert alive(early + late) == ["alive"] * 8
        for stream in late:
            stream.finish()
        assert weir.remove_until_done(3600).state is State.REMOVED
        assert isinstance(agent.delete("a"), Released)
        assert alive(early) == ["alive"] * 4
        for stream in early:
            stream.finish()
    assert kernel_state(pod) == before


def test_captured_traffic_goes_on_while_the_agent_is_away_and_when_it_is_back(
    world: World, pod: Host, weir: Weir, path: Path
) -> None:
    with MeshProxy(path, "--longest-wait=0.1") as proxy, ExitStack() as stack:
        with Agent(path) as agent:
            agent.with_snapshot()
            agent.add("a", pod)
            assert weir.capture().captured
            streams = every_way(stack, world, pod)
            hammers = stack.enter_context(load(world, pod))
            many_more(hammers)
        many_more(hammers)
        assert ways(world, pod) == CAPTURED
        with Agent(path, complete=False) as agent:
            proxy.wait("connected", times=2)
            many_more(hammers)
            agent.complete([("a", pod)])
            agent.with_snapshot()
            many_more(hammers)
            assert ways(world, pod) == CAPTURED
            assert alive(streams) == ["alive"] * 4


def test_a_proxy_is_replaced_by_one_beside_it(world: World, pod: Host, weir: Weir, path: Path) -> None:
    with Agent(path) as agent, MeshProxy(path, f"--drain={slow(20)}") as old, ExitStack() as stack:
        agent.with_snapshot()
        agent.add("a", pod)
        assert weir.capture().captured
        streams = every_way(stack, world, pod)
        with MeshProxy(path) as new:
            agent.with_snapshot(2)
            old.process.send_signal(signal.SIGTERM)
            old.wait("terminated")
            agent.with_snapshot(1)
            assert alive(streams) == ["alive"] * 4
            assert ways(world, pod) == CAPTURED
            assert len(new.heard("captured", "a")) >= 4
            for stream in streams:
                stream.finish()
            assert old.ended() == 0
            assert ways(world, pod) == CAPTURED
