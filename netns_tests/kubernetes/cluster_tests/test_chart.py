"""The chart, installed by helm from the project's own image, with the tests' proxy on each node."""

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from netns_tests.images import build
from netns_tests.kubernetes import node_parts
from netns_tests.kubernetes.cluster import Cluster, Machine
from netns_tests.kubernetes.cluster_tests.webs import DAEMON_SETS, Webs, fetched, until_answered, until_ready
from netns_tests.kubernetes.programs import program
from netns_tests.patience import slow
from netns_tests.world import eventually
from tests import charts

pytestmark = pytest.mark.timeout(600)
SYSTEM = "istio-system"
_PROXY = "python3 -m netns_tests.mesh_proxy --socket=/zds/ztunnel.sock"
_TOLD = "sed -n 's/^[^ ]* stdout F //p' /var/log/pods/istio-system_ztunnel-*/proxy/*.log"
CAPTURED = "ambient.istio.io/redirection"


def helm(cluster: Cluster, *arguments: str) -> None:
    argv = [str(program("helm")), *arguments, "--namespace", SYSTEM, "--kubeconfig", str(cluster.api.kubeconfig)]
    home = {"HOME": str(cluster.api.directory)}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, **home})
    assert done.returncode == 0, done.stderr


def footprint(node: Machine) -> dict[str, str]:
    """Return what an agent changes on a node, as text."""
    return {
        "rules": node.run("ip", "rule") + node.run("ip", "-6", "rule"),
        "routes": node.run("ip", "route", "show", "table", "100", check=False),
        "conflists": node.run("sh", "-c", "cd /etc/cni/net.d && sha256sum -- *"),
        "programs": node.run("ls", "/opt/cni/bin"),
        "tables": "".join(each for each in node.run("nft", "list", "tables").splitlines(True) if "weir" in each),
    }


def proxies() -> dict[str, Any]:
    """Return a DaemonSet of the tests' proxy."""
    container = {
        "name": "proxy",
        "image": node_parts.PROXY,
        "imagePullPolicy": "Never",
        "workingDir": "/opt/weir",
        # Its commands come from there, and it ends with them.
        "command": ["busybox", "sh", "-c", f"busybox sleep 1000000000 | {_PROXY}"],
        "securityContext": {"privileged": True},
        "volumeMounts": [{"name": "zds", "mountPath": "/zds"}],
    }
    spec = {
        "terminationGracePeriodSeconds": 1,
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
        "volumes": [{"name": "zds", "hostPath": {"path": "/var/run/ztunnel", "type": "DirectoryOrCreate"}}],
    }
    labels = {"app": "ztunnel"}
    template = {"metadata": {"labels": labels}, "spec": spec}
    return {"metadata": {"name": "ztunnel"}, "spec": {"selector": {"matchLabels": labels}, "template": template}}


@pytest.fixture(scope="module")
def installed(cluster: Cluster) -> Iterator[Cluster]:
    for node in cluster.nodes:
        node.load(build.image())
        node.load(node_parts.proxy())
    before = [footprint(each) for each in cluster.nodes]
    cluster.api.ask("POST", "/api/v1/namespaces", {"metadata": {"name": SYSTEM}})
    helm(cluster, "install", "weir", str(charts.CHART))
    until_ready(cluster.api, SYSTEM, "weir", len(cluster.nodes))
    cluster.api.ask("POST", DAEMON_SETS.format(SYSTEM), proxies())
    until_ready(cluster.api, SYSTEM, "ztunnel", len(cluster.nodes))
    yield cluster
    helm(cluster, "uninstall", "weir", "--wait")
    for node, was in zip(cluster.nodes, before, strict=True):
        eventually(lambda node=node, was=was: footprint(node) == was, f"{node.name} is as before", slow(60.0))  # type: ignore[misc]


@pytest.fixture(scope="module")
def webs(installed: Cluster) -> Iterator[Webs]:
    with Webs(installed, "shop", 18081, **{"istio.io/dataplane-mode": "ambient"}) as made:
        yield made


def captured(webs: Webs) -> bool:
    return all(each["metadata"].get("annotations", {}).get(CAPTURED) == "enabled" for each in webs.pods())


def test_pods_are_captured_on_both_nodes_and_ready(installed: Cluster, webs: Webs) -> None:
    eventually(lambda: captured(webs), "both pods are captured", slow(30.0))
    assert [each["spec"]["nodeName"] for each in webs.pods()] == ["node-a", "node-b"]


def test_captured_pods_reach_each_other_a_service_and_a_port_of_the_node(installed: Cluster, webs: Webs) -> None:
    eventually(lambda: captured(webs), "both pods are captured", slow(30.0))
    a, b = installed.nodes
    here, there = webs.pods()
    name = there["metadata"]["name"]
    for address in (each["ip"] for each in there["status"]["podIPs"]):
        assert fetched(a, here, address, 8080) == name
    names = {each["metadata"]["name"] for each in webs.pods()}
    for address in webs.service:
        until_answered(a, here, address, names)
    assert fetched(a, here, b.addresses[0], webs.host_port) == name
    for node, pod, direction in ((a, here, "outbound"), (b, there, "inbound")):
        told = [json.loads(each) for each in node.run("sh", "-c", _TOLD).splitlines()]
        seen = [each["uid"] for each in told if each["event"] == "captured" and each["direction"] == direction]
        assert pod["metadata"]["uid"] in seen, f"the proxy of {node.name} carried it {direction}"
