"""What a user sees of a node's pods: `weir status`, `diff`, `verify` and `wait` by name, `kubectl weir`, metrics."""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from netns_tests.daemon import unix_request
from netns_tests.enrolling import slow
from netns_tests.mesh_proxy_process import MeshProxy
from netns_tests.node.stage import Node, Pod
from tests.cni import AMBIENT

ROOT = Path(__file__).resolve().parent.parent
NAME = "pod/shop/web-0"
# As a cluster answers kubectl: which node a pod is on, who is its agent, and a command run in there.
KUBECTL = """#!/bin/sh
printf '%s\\n' "$*" >> {calls}
case "$*" in
*"get pod "*) echo node-1 ;;
*"get pods "*) echo "istio-system weir-abcde node-1 true" ;;
"config view"*) echo shop ;;
exec*) while [ "$1" != -- ]; do shift; done; shift 2; exec {weir} "$@" ;;
*) exit 9 ;;
esac
"""
pytestmark = pytest.mark.timeout(600)  # the first one builds the plugin


@pytest.fixture
def node() -> Iterator[Node]:
    with Node() as made:
        made.label(AMBIENT)
        yield made


@pytest.fixture
def proxy(node: Node) -> Iterator[MeshProxy]:
    with MeshProxy(node.agent.zds, "--longest-wait=0.1", f"--drain={slow(20)}") as started:
        yield started


@pytest.fixture
def web(node: Node, proxy: MeshProxy) -> Pod:
    node.agent.start(ready=False)
    proxy.wait("snapshot")
    (pod,) = node.start("web-0")
    node.wait_for("captured", "web-0")
    return pod


def metrics(node: Node) -> dict[str, float]:
    _, text = unix_request(node.agent.http, "GET", "/metrics")
    lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def test_a_captured_pod_is_a_target_of_every_look(node: Node, web: Pod) -> None:
    weir = node.agent.weir
    status = weir("status", NAME)
    assert status.code == 0, status
    assert status.out.startswith("1 of 1 pods captured; the daemon (")
    said = " ".join(status.out.split())
    assert f"{NAME} wanted enrolled: " in said
    assert "label istio.io/dataplane-mode" in said or "(selector 2)" in said
    assert "daemon ok: captured" in said
    assert f"uid {web.uid}" in said
    assert (weir("diff", NAME).code, weir("verify", NAME).code) == (0, 0)
    assert "8 of" in weir("verify", NAME).out or "checks hold" in weir("verify", NAME).out
    assert weir("wait", NAME, "--timeout", "0").code == 0
    assert weir("diff", NAME, "--set", "dns=false").code == 1


def test_what_its_annotations_want_is_what_is_looked_for(node: Node, web: Pod) -> None:
    weir = node.agent.weir
    change = {"traffic.sidecar.istio.io/excludeOutboundPorts": "9000-9010", "ambient.istio.io/dns-capture": "false"}
    node.api.change("pods", "shop", "web-0", {"metadata": {"annotations": change}})
    node.agent.eventually(
        lambda: (node.agent.pods()["web-0"]["settings"] or {}).get("dns") is False, "the annotations are taken"
    )
    assert (weir("diff", NAME).code, weir("verify", NAME).code) == (0, 0)
    found = weir.json("status", NAME).json
    assert found["pods"][0]["settings"] == {"dns": False, "exclude_outbound_ports": ["9000-9010"]}


def test_a_pod_that_waits_says_for_what_since_when_and_what_to_do(node: Node) -> None:
    node.agent.start(ready=False)  # and no proxy
    node.create("web-0")
    weir = node.agent.weir
    node.agent.eventually(node.agent.client.is_there, "it listens")
    node.wait_for("starting", "web-0")
    found = weir("status", NAME)
    assert (found.code, found.out.splitlines()[0].split(";")[0]) == (0, "0 of 1 pods captured")
    assert re.search(r"step +starting for [0-9.]+s: it has no network yet", found.out)
    assert weir("verify", NAME).code == 1
    late = weir.json("wait", NAME, "--timeout", "0.3")
    assert (late.code, late.json["reached"]) == (1, False)


def test_the_whole_node_is_shown_without_a_target(node: Node, web: Pod) -> None:
    node.start("client", labels={"istio.io/dataplane-mode": "none"})
    found = node.agent.weir("status")
    assert found.code == 0, found
    assert found.out.startswith("1 of 2 pods captured")
    rows = {line.split()[0]: line.split()[1] for line in found.out.splitlines() if line.startswith("pod/")}
    assert rows == {NAME: "captured", "pod/shop/client": "outside"}
    assert "\nAPI: connected; 2 pods, 0 unreadable\n" in found.out
    assert "\nproxies: 1 connected at " in found.out
    document = node.agent.weir.json("status").json
    assert {each["pod"]: each["captured"] for each in document["pods"]} == {NAME: True, "pod/shop/client": False}
    assert document["migrations"] == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pod/shop/web-9", "did you mean 'pod/shop/web-0'?"),
        ("pod/web-0", "pod/NAMESPACE/NAME"),
        ("pod/shop/", "pod/NAMESPACE/NAME"),
    ],
)
def test_a_pod_that_is_not_there_is_an_error_with_a_hint(node: Node, web: Pod, name: str, said: str) -> None:
    found = node.agent.weir("status", name)
    assert (found.code, found.out) == (2, "")
    assert said in found.err


def test_a_pod_is_changed_by_labels_alone(node: Node, web: Pod) -> None:
    for command in ("apply", "remove"):
        found = node.agent.weir(command, NAME)
        assert found.code == 2
        assert "istio.io/dataplane-mode" in found.err
    assert node.agent.weir("verify", NAME).code == 0


def test_the_doctor_examines_the_node_and_pods_that_are_named(node: Node, web: Pod, tmp_path: Path) -> None:
    (tmp_path / "10-n.conflist").write_text('{"name": "n", "cniVersion": "0.3.1", "plugins": [{"type": "istio-cni"}]}')
    # As the chart tells the agent's container, in which kubectl weir starts it.
    weir = replace(node.agent.weir, environment={"CNI_CONF_DIR": str(tmp_path), "CNI_BIN_DIR": str(tmp_path)})
    found = weir.json("doctor")
    assert (found.code, found.json["examined"]) == (2, ["node"]), found
    assert "other-agent" in [each["check"] for each in found.json["findings"] if each["level"] == "error"]

    web.sysctl("net/netfilter/nf_conntrack_tcp_loose", 0)
    web.command(*"ip route add 192.0.2.0/24 dev lo table 33333".split())
    found = weir.json("doctor", NAME, "--set", "route_table=33333")
    assert found.json["examined"] == ["node", NAME]
    said = {each["check"]: each for each in found.json["findings"] if each["where"] == NAME}
    assert sorted(said) == ["conntrack-loose", "table-collision"]
    assert said["conntrack-loose"]["command"].endswith(" sysctl -w net.netfilter.nf_conntrack_tcp_loose=1")
    assert "a value of Weir's chart, under capture" in said["table-collision"]["do"]
    assert said["table-collision"]["command"] == "", "a pod's settings aren't changed from the node"

    node.start("client", labels={"istio.io/dataplane-mode": "none"})
    found = weir.json("doctor", "pod/shop/client")
    (outside,) = [each for each in found.json["findings"] if each["where"] == "pod/shop/client"]
    assert (outside["level"], outside["what"].split(":")[0]) == ("note", "outside")
    unknown = weir("doctor", "pod/shop/web-9")
    assert (unknown.code, "did you mean 'pod/shop/web-0'?" in unknown.err) == (2, True)


def test_kubectl_weir_asks_the_agent_of_the_pods_node(node: Node, web: Pod, tmp_path: Path) -> None:
    calls, kubectl = tmp_path / "calls", tmp_path / "kubectl"
    weir = shlex.join(node.agent.weir.argv())
    kubectl.write_text(KUBECTL.format(calls=calls, weir=weir))
    kubectl.chmod(0o755)
    environment = {**os.environ, **node.agent.weir.environ, "KUBECTL": str(kubectl)}

    def plugin(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(ROOT / "deploy/kubectl-weir"), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    done = plugin("status", NAME, "--output", "json")
    assert (done.returncode, done.stderr) == (0, "")
    assert f'"uid": "{web.uid}"' in done.stdout
    assert "get pod --namespace=shop web-0 -o jsonpath={.spec.nodeName}" in calls.read_text()
    assert "spec.nodeName=node-1" in calls.read_text()
    assert plugin("-n", "shop", "verify", "pod/web-0").returncode == 0
    assert plugin("verify", "pod/web-0").returncode == 0  # in the namespace of kubectl's context
    differs = plugin("diff", NAME, "--set", 'exclude_outbound_networks=["10.0.0.0/8"]')
    assert (differs.returncode, "10.0.0.0/8" in differs.stdout) == (1, True)


def test_metrics_have_istios_names_and_a_bounded_number_of_series(node: Node, web: Pod) -> None:
    node.start("web-1", "web-2", labels={})
    one = metrics(node)
    assert one["ztunnel_connected"] == 1
    assert one['istio_cni_plugin_requests_total{response_code="200"}'] == 3
    assert one['nodeagent_reconcile_events_total{type="add"}'] == 3
    assert one['weir_pods{step="captured"}'] == 3
    assert one['weir_cni_seconds_count{verb="add"}'] == 3
    assert one['weir_proxy_acknowledged_total{request="Add"}'] == 3
    assert one["weir_pod_uncaptured_seconds_count"] == 3
    assert one["weir_api_connected"] == 1
    assert one["weir_node_table_elements"] >= 0
    node.start("web-3", "web-4", labels={})
    assert metrics(node).keys() - one.keys() == set()
