"""Between any two steps of a migration new connections are captured, and the proxy's own DNS is answered."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.kernel.conntrack import Conntrack
from agent.kernel.handle import Handle
from agent.kernel.netns import Netns
from agent.migration.back import Backward
from agent.migration.findings import find
from agent.migration.forward import Forward
from agent.migration.journal import Journal, Step
from agent.state import Records
from agent.targets import Captured, Target
from netns_tests import dns
from netns_tests.enrolling import FAMILIES, alive, every_way, slow, ways
from netns_tests.namespace import Namespace
from netns_tests.old_agents import AGENTS, enrolled_by
from netns_tests.proxy import Proxy
from netns_tests.servers import DNS_SERVER_ANSWER, DnsServer
from netns_tests.traffic import dns_ask
from netns_tests.world import Host, World
from rulesets import nft
from rulesets import pod as pods_table
from rulesets.capture import Capture

CAPTURED = ["captured"] * 4
PORT = 5353
ANSWER = [DNS_SERVER_ANSWER[dns.A]]
DNS_AGENTS = [agent for agent in AGENTS if not agent.startswith("cilium")]


@pytest.fixture(autouse=True)
def own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))


def answers(world: World, pod: Namespace) -> list[list[str]]:
    """Ask through the proxy, always from one port; it asks the server for itself."""
    return [dns_ask(pod, (world.outside.address(family), 53), source_port=PORT, timeout=slow(2)) for family in FAMILIES]


@pytest.mark.parametrize("agent", DNS_AGENTS)
def test_at_each_step_all_is_captured_and_all_answered(world: World, pod: Host, tmp_path: Path, agent: str) -> None:
    target = Target(name="web", netns=pod.name, wish=Captured(capture=Capture()))
    told: list[str] = []

    def tell(said: str) -> None:
        told.append(said.removeprefix("step: "))
        assert ways(world, pod) == CAPTURED, told
        assert answers(world, pod) == [ANSWER] * 2, told

    def migrate() -> None:
        handle = Handle(Netns(pod.name))
        try:
            found = find(handle)
            journal = Journal(tmp_path)
            for each in (Forward, Backward):
                each(target, handle, Records(tmp_path), journal, found.old, tell, 30).run()
        finally:
            handle.close()

    with Proxy(pod, forward_dns=(world.outside.v4, 53)), DnsServer(world.outside), ExitStack() as stack:
        enrolled_by(pod, agent)
        streams = every_way(stack, world, pod)
        pod.run(migrate)
        assert told == list(Step)
        assert alive(streams) == ["alive"] * 4


def test_a_whole_table_beside_istios_would_lose_the_proxys_dns(world: World, pod: Host) -> None:
    with Proxy(pod, forward_dns=(world.outside.v4, 53)), DnsServer(world.outside):
        enrolled_by(pod, "istio-native")
        assert answers(world, pod) == [ANSWER] * 2
        pod.nft(nft.render(pods_table.build(Capture())))
        with pytest.raises(TimeoutError):
            answers(world, pod)


def test_nothing_is_left_of_the_other_kind_of_zone(world: World, pod: Host, tmp_path: Path) -> None:
    target = Target(name="web", netns=pod.name, wish=Captured(capture=Capture()))
    zones: list[set[tuple[int, int]]] = []

    def migrate() -> None:
        handle = Handle(Netns(pod.name))
        try:
            found = find(handle)
            for each in (Forward, Backward):
                each(target, handle, Records(tmp_path), Journal(tmp_path), found.old, lambda _: None, 30).run()
                answers(world, pod)
                with handle.inside(), Conntrack() as conntrack:
                    zones.append({(flow.zone, flow.reply_zone) for flow in conntrack.flows() if flow.zone})
        finally:
            handle.close()

    with Proxy(pod, forward_dns=(world.outside.v4, 53)), DnsServer(world.outside):
        enrolled_by(pod, "istio-native")
        answers(world, pod)
        pod.run(migrate)
    assert zones == [{(1, 0)}, {(1, 1)}]
