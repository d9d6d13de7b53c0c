"""Faults on live agents, each seen by a real Prometheus with the project's own rules; and the dashboard's data."""

import json
import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from netns_tests.daemon import CAPTURE, PROXY, Daemon, listening, targets
from netns_tests.mesh_proxy_process import MeshProxy
from netns_tests.node.stage import Node
from netns_tests.prometheus import SECONDS, Prometheus
from netns_tests.rivals import owner_of
from netns_tests.world import World, eventually
from tests.cni import AMBIENT
from tests.packages import ROOT

EVIL = "table ip evil { chain c { type nat hook output priority -150; tcp dport 80 redirect to :9999; }; }"
DASHBOARD = json.loads((ROOT / "deploy/grafana/weir.json").read_text())

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="this distribution has no prometheus")


@pytest.fixture
def host(world: World, tmp_path: Path) -> Iterator[tuple[World, Daemon, Prometheus]]:
    """A plain host with a captured target, and one whose namespace is yet to come."""
    pod = world.pods[0]
    with ExitStack() as stack:
        for each in listening(pod, *PROXY):
            stack.enter_context(each)
        text = targets([pod, ("later", "a-namespace-that-is-not-there")], CAPTURE)
        daemon = stack.enter_context(Daemon(tmp_path, text, "--no-own")).start()
        folder = tmp_path / "prometheus"
        folder.mkdir()
        # The machine's limit of connection tracking is not the test's to change: some hundreds are nearly full here.
        yield world, daemon, stack.enter_context(Prometheus(folder, {"here": daemon.http}, {"> 0.8": "> 0.0005"}))


def test_faults_of_a_host_are_alerts_that_name_them(host: tuple[World, Daemon, Prometheus]) -> None:
    world, daemon, prometheus = host
    pod = world.pods[0]
    assert prometheus.fires("WeirUncaptured", target="later", instance="here")
    assert {each["alertname"] for each in prometheus.firing()} == {"WeirUncaptured"}, "nothing else is wrong"

    pod.command("nft", "flush ruleset")
    drift = prometheus.fires("WeirDrift", culprit="nft")
    assert drift["kind"] in ("table-gone", "table-changed")
    assert "nft changed what capture stands on" in drift["summary"]
    daemon.eventually(lambda: daemon.target("t0")["captured"], "it is captured again")

    pod.command("nft", "-f", "-", stdin=EVIL)
    assert prometheus.fires("WeirRivalRules", target="t0", certain="true")
    pod.command("nft", "delete", "table", "ip", "evil")
    prometheus.quiet(["WeirRivalRules"])

    pod.run(lambda: asked_of_many(1000))
    assert prometheus.fires("WeirConntrackNearlyFull", target="t0")

    os.kill(daemon.pid, signal.SIGSTOP)
    rules = "".join(f'add rule ip storm c accept comment "{"x" * 100}{number}"\n' for number in range(5000))
    pod.command("nft", "-f", "-", stdin=f"add table ip storm\nadd chain ip storm c\n{rules}")
    os.kill(daemon.pid, signal.SIGCONT)
    assert prometheus.fires("WeirEventsLost")

    with owner_of(world.pods[1], "owner"):
        daemon.rewrite(targets([pod, world.pods[1]], CAPTURE))
        assert prometheus.fires("WeirApplyFailing")
        assert prometheus.fires("WeirUncaptured", target="t1")

    daemon.rewrite("[[target]\n")
    assert prometheus.fires("WeirUnreadable")
    daemon.rewrite(targets([pod], CAPTURE))
    prometheus.quiet(["WeirUnreadable", "WeirUncaptured"])

    daemon.end(9)
    assert prometheus.fires("WeirAgentAbsent", instance="here")


def asked_of_many(number: int) -> None:
    """Ask as many servers that don't answer: each is an entry of connection tracking."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for each in range(number):
            client.sendto(b"?", ("127.0.0.1", 20000 + each))


def test_faults_of_a_node_are_alerts_that_name_them(tmp_path: Path) -> None:
    with Node() as node:
        node.agent.start()
        with Prometheus(tmp_path, {"node-1": node.agent.http}) as prometheus:
            assert prometheus.fires("WeirProxyAbsent", instance="node-1")
            with MeshProxy(node.agent.zds) as proxy:
                proxy.wait("snapshot")
                prometheus.quiet(["WeirProxyAbsent"])
                node.start("web-0", labels=AMBIENT)
                node.wait_for("captured", "web-0")
                assert prometheus.firing() == []
                bad = {"traffic.sidecar.istio.io/excludeOutboundPorts": "many"}
                node.api.change("pods", "shop", "web-0", {"metadata": {"annotations": bad}})
                assert prometheus.fires("WeirUnreadable", instance="node-1")
                node.create("lost-0", labels=AMBIENT)
                status = {"phase": "Running", "podIP": "10.77.99.99", "podIPs": [{"ip": "10.77.99.99"}]}
                node.api.change("pods", "shop", "lost-0", {"status": status})
                assert prometheus.fires("WeirPodUncaptured", pod="lost-0", namespace="shop", step="finding")
            assert prometheus.fires("WeirProxyAbsent", instance="node-1")


def test_every_panel_of_the_dashboard_has_data(host: tuple[World, Daemon, Prometheus], tmp_path: Path) -> None:
    world, daemon, _ = host
    folder = tmp_path / "both"
    folder.mkdir()
    with Node() as node, MeshProxy(node.agent.start().zds) as proxy:
        proxy.wait("snapshot")
        with Prometheus(folder, {"here": daemon.http, "node-1": node.agent.http}) as prometheus:
            node.start("web-0", "web-1", labels=AMBIENT)
            node.create("lost-0", labels=AMBIENT)
            status = {"phase": "Running", "podIP": "10.77.99.99", "podIPs": [{"ip": "10.77.99.99"}]}
            node.api.change("pods", "shop", "lost-0", {"status": status})
            world.pods[0].command("nft", "flush ruleset")
            lacking = dict.fromkeys(expressions())
            assert len(lacking) > 20

            def all_have_data() -> bool:
                for each in [each for each in lacking if prometheus.query(each)]:
                    del lacking[each]
                return not lacking

            try:
                eventually(all_have_data, "each expression returns something", SECONDS)
            except AssertionError as error:
                raise AssertionError(f"{error}: {list(lacking)}") from None


def expressions() -> list[str]:
    """Every expression of the dashboard, for all instances, looking back no further than Prometheus has run."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    return [re.sub(r"\[\d+m\]", "[10s]", each.replace("$instance", ".*")) for each in found]
