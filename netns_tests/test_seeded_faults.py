"""Seeded faults on live traffic: each is told by status, metric, alert and explain, with its culprit, and mended."""

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netns_tests.mesh_proxy_process import MeshProxy
from netns_tests.node.stage import Node
from netns_tests.probing import elements
from netns_tests.prometheus import Prometheus
from netns_tests.seeded import FAULTS, Fault, Scene
from netns_tests.vandal import Vandal, drifts
from tests.cni import AMBIENT

NAME = "pod/shop/web-0"
PROBED = {"name": "app", "readinessProbe": {"httpGet": {"path": "/", "port": 8080}}}
MOST_ENTRIES = 400_000  # of about 320 bytes each; the limit is the machine's, the count each namespace's own
SWEEP = "flush set inet weir-host probes-v4; flush set inet weir-host probe-ports-v4"

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="this distribution has no prometheus")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("seeded")) as made:
        yield made


def counted(scene: Scene, kind: str) -> float:
    """How many drifts of a kind the metrics have, whoever did it."""
    found = scene.daemon.metrics().items()
    return sum(value for (name, labels), value in found if name == "weir_drift_total" and kind in labels)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_with_its_culprit_and_mended(scene: Scene, name: str) -> None:
    fault, culprit = FAULTS[name], name.replace(" ", "-")[:15]
    before = counted(scene, fault.kind)
    seen = {drift["at"] for drift in drifts(scene.daemon, fault.target)}
    scene.captures(fault.target, fault.family)
    fault.do(scene, culprit)
    try:
        drift = told(scene, fault, seen)
        who = (drift["culprit"] or {}).get("name", "")
        # rtnetlink's culprit is known while it runs.
        assert who in (("", culprit) if fault.known is None else (culprit,) if fault.known else ("",))
        scene.daemon.eventually(lambda: counted(scene, fault.kind) > before, "it is counted")
        # A label that is empty is none, in Prometheus.
        labels = {"kind": fault.kind, "instance": "here"} | ({"culprit": who} if who else {})
        alert = scene.prometheus.fires("WeirDrift", **labels)
        assert alert["summary"].startswith(f"here: {who or 'somebody'} changed what capture stands on")
        for each in fault.alerts:
            assert scene.prometheus.fires(each, target=fault.target)
        if fault.first:
            done = scene.daemon.weir("explain", fault.target)
            assert fault.first in done.out.splitlines()[0], done.out
            assert done.code == 1, done.out
    finally:
        fault.end(scene)
    scene.rests(fault.target)
    scene.captures(fault.target, fault.family)
    scene.prometheus.quiet(fault.alerts)
    done = scene.daemon.weir("explain", fault.target)
    assert (done.code, done.out.splitlines()[0]) == (0, f"{fault.target} is captured."), done.out
    if not fault.first:
        said = " ".join(done.out.split())
        assert f" last change {drift['kind']}: " in said
        if who:
            assert f"by process {drift['culprit']['pid']} ({who})" in said


def test_connection_tracking_that_is_full_is_told(scene: Scene) -> None:
    scene.captures("t0")
    most = int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text())
    if most > MOST_ENTRIES:
        pytest.skip(f"this machine's connection tracking takes {most} entries: too much memory for a test")
    scene.pod.run(fill, most)
    try:
        assert scene.prometheus.fires("WeirConntrackNearlyFull", target="t0", instance="here")
        done = scene.daemon.weir("explain", "t0")
        assert "connection tracking is full" in done.out.splitlines()[0], done.out
    finally:
        scene.pod.command("conntrack", "-F")
    scene.captures("t0")
    scene.prometheus.quiet(["WeirConntrackNearlyFull"])
    assert scene.daemon.weir("explain", "t0").out.splitlines()[0] == "t0 is captured."


def fill(entries: int) -> None:
    """Make entries of connection tracking: datagrams to many ports of loopback, where nobody is."""
    ports = range(20000, 60000)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for number in range(entries):
            host, port = divmod(number, len(ports))
            client.sendto(b"?", (f"127.0.1.{host + 1}", ports[port]))


def told(scene: Scene, fault: Fault, seen: set[float]) -> dict[str, Any]:
    """Wait until a fault is told, and return the drift of it; `seen` are the times of those before."""
    found: list[dict[str, Any]] = []

    def holds() -> bool:
        newest = [each for each in drifts(scene.daemon, fault.target) if each["at"] not in seen]
        found[:] = [each for each in newest if each["kind"] == fault.kind and fault.said in each["said"]]
        return bool(found)

    scene.daemon.eventually(holds, f"{fault.kind} is told")
    return found[-1]


def test_faults_of_a_node_are_told(tmp_path: Path) -> None:
    with Node("--no-own") as node, MeshProxy(node.agent.start().zds) as proxy:
        proxy.wait("snapshot")
        node.start("web-0", labels=AMBIENT, containers=[PROBED])
        node.wait_for("captured", "web-0")
        with Prometheus(tmp_path, {"node-1": node.agent.http}) as prometheus:
            before = elements(node.host)
            assert any(node.pods["web-0"].v4 in each for each in before)
            Vandal(tmp_path, "sweeper")(node.host, "nft", SWEEP)
            prometheus.fires("WeirDrift", kind="node-element", culprit="sweeper", instance="node-1")
            node.agent.eventually(lambda: elements(node.host) == before, "the elements are back")
            assert last_change(node).startswith("node-element: table inet weir-host was changed: ")
            assert "(sweeper)" in last_change(node)
            bad = {"traffic.sidecar.istio.io/excludeOutboundPorts": "many"}
            node.api.change("pods", "shop", "web-0", {"metadata": {"annotations": bad}})
            prometheus.fires("WeirUnreadable", instance="node-1")
            said = (
                f"{NAME} is captured, but unreadable: annotation traffic.sidecar.istio.io/excludeOutboundPorts = 'many'"
            )
            assert node.agent.weir("explain", NAME).out.startswith(said)
            good = {"traffic.sidecar.istio.io/excludeOutboundPorts": None}
            node.api.change("pods", "shop", "web-0", {"metadata": {"annotations": good}})
            prometheus.quiet(["WeirUnreadable"])
            node.wait_for("captured", "web-0")
            assert node.agent.weir("explain", NAME).out.startswith(f"{NAME} is captured.")


def last_change(node: Node) -> str:
    """Return what explain says of the last change."""
    return " ".join(node.agent.weir("explain", NAME).out.split()).partition(" last change ")[2]
