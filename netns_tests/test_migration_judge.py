"""The judge of live migrations against rules that no Weir has touched: yes where all is well, and no otherwise."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.kernel.conntrack import Conntrack
from netns_tests.migrating import AGENTS
from netns_tests.migration_load import Round
from netns_tests.migration_scene import Scene
from netns_tests.migration_streams import LONG
from netns_tests.migration_verdict import Verdict
from netns_tests.world import World, eventually

GAPS = 5  # in a round
# What the proxy dials comes back to it some times: without a limit each dial would bring the next.
TWICE = """table inet twice {
    chain output {
        type nat hook output priority -110
        meta mark 0x539 oifname != "lo" meta l4proto tcp limit rate 5/second burst 2 packets redirect to :15001
    }
}"""
# One connection in four goes out as if the proxy had opened it, from another port, so that its server sees no client.
DISGUISED = """table inet disguised {
    chain output {
        type route hook output priority -400
        oifname != "lo" meta mark 0 tcp flags & (syn | ack) == syn numgen inc mod 4 == 0 meta mark set 0x539
    }
    chain postrouting {
        type nat hook postrouting priority 100
        oifname != "lo" meta mark 0x539 meta l4proto tcp masquerade fully-random
    }
}"""


@pytest.mark.parametrize("name", AGENTS)
def test_nothing_is_amiss_under_an_agents_own_rules(world: World, tmp_path: Path, name: str) -> None:
    with Scene(world, AGENTS[name], tmp_path) as scene:
        with scene.load() as running:
            running.more(50)
        verdict = running.verdict()
        assert len(verdict.connections) == 4
        assert all(number > 50 for number in verdict.connections.values())
        assert verdict.queries > 50 or not scene.agent.dns
        scene.finish()


def disturbed(scene: Scene, disturb: Callable[[Round], object]) -> Verdict:
    with Round(scene.world, scene.pod, scene.proxy, timeout=1, forwarded=LONG) as running:
        running.more()
        disturb(running)
        running.more()
        return running.verdict()


@pytest.mark.parametrize("name", ["istio-legacy", "istio-nft", "istio-native"])
def test_rules_that_are_away_for_a_moment_are_noticed(world: World, tmp_path: Path, name: str) -> None:
    def gaps(running: Round) -> None:
        for _ in range(GAPS):
            scene.agent.drop_rules(scene.pod)
            scene.agent.put_rules(scene.pod)
            running.more(5)

    with Scene(world, AGENTS[name], tmp_path, streams=False) as scene:
        found: list[Verdict] = []

        def noticed() -> bool:
            found.append(disturbed(scene, gaps))
            return bool(found[-1].uncaptured)

        eventually(noticed, "a connection escapes", 60)
        assert any("seen by the server" in each for each in found[-1].uncaptured), found[-1]


def test_what_is_captured_again_is_noticed(world: World, tmp_path: Path) -> None:
    with Scene(world, AGENTS["istio-native"], tmp_path, streams=False) as scene:
        found = disturbed(scene, lambda _: scene.pod.nft(TWICE))
        assert any("came to the proxy" in each for each in found.twice), found


def test_what_passes_the_proxy_in_disguise_is_noticed(world: World, tmp_path: Path) -> None:
    with Scene(world, AGENTS["istio-native"], tmp_path, streams=False) as scene:
        found = disturbed(scene, lambda _: scene.pod.nft(DISGUISED))
        assert any("not seen by the proxy" in each for each in found.uncaptured), found
        assert any("dialled on the wire past the proxy" in each for each in found.uncaptured), found
        assert not any("seen by the server" in each for each in found.uncaptured)


def test_queries_past_the_proxy_are_noticed(world: World, tmp_path: Path) -> None:
    def forgotten() -> None:
        with Conntrack() as conntrack:
            for flow in conntrack.flows(socket.IPPROTO_UDP):
                conntrack.delete(flow)

    def disturb(running: Round) -> None:
        scene.agent.drop_rules(scene.pod)
        scene.pod.run(forgotten)

    with Scene(world, AGENTS["istio-native"], tmp_path, streams=False) as scene:
        found = disturbed(scene, disturb)
        assert any("query" in each and "seen by the server" in each for each in found.uncaptured), found


def test_a_stream_that_is_cut_is_noticed(world: World, tmp_path: Path) -> None:
    with Scene(world, AGENTS["istio-legacy"], tmp_path) as scene:
        for line in ("-4", "-6"):
            scene.pod.command("ip", line, "rule", "del", "pref", "32764")  # by which answers come back to the proxy
        with pytest.raises(AssertionError, match="hang"):
            scene.finish(0.3)
