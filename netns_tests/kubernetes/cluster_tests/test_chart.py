"""The chart, installed by helm from the project's own image: what it captures, and what goes on as without it."""

from typing import Any

import pytest

from netns_tests.kubernetes.cluster_tests.conftest import Installed
from netns_tests.kubernetes.cluster_tests.webs import Webs, fetched
from netns_tests.kubernetes.cluster_tests.weir import told

pytestmark = pytest.mark.timeout(600)


def test_pods_are_captured_on_both_nodes_and_ready(webs: Webs) -> None:
    pods = webs.pods()
    assert [each["spec"]["nodeName"] for each in pods] == ["node-a", "node-b"]
    for pod in pods:  # the kubelet's probes, from outside of the mesh
        ready = next(each for each in pod["status"]["conditions"] if each["type"] == "Ready")
        assert ready["status"] == "True"


def test_captured_pods_are_probed_in_both_families(installed: Installed, webs: Webs) -> None:
    """The kubelet probes the first of a pod's addresses; the other one is asked as the kubelet would."""
    for node, pod in zip(installed.cluster.nodes, webs.pods(), strict=True):
        before = len(told(node))
        for each in pod["status"]["podIPs"]:
            host = f"[{each['ip']}]" if ":" in each["ip"] else each["ip"]
            page = node.run("curl", "-sS", "--max-time", "5", f"http://{host}:8080/")
            assert page.strip() == pod["metadata"]["name"]
        uid = pod["metadata"]["uid"]
        carried = [each for each in told(node)[before:] if (each["event"], each["uid"]) == ("captured", uid)]
        assert not carried, "a probe went through the proxy"


def test_captured_pods_reach_each_other_a_service_and_a_port_of_the_node(installed: Installed, webs: Webs) -> None:
    a, b = installed.cluster.nodes
    here, there = webs.pods()
    name = there["metadata"]["name"]
    addresses = [each["ip"] for each in there["status"]["podIPs"]]
    assert [":" in each for each in addresses] == [False, True]
    for address in addresses:
        assert fetched(a, here, address, 8080) == name
    names = {each["metadata"]["name"] for each in webs.pods()}
    for address in webs.service:
        assert fetched(a, here, address, 80) in names
    for address in b.addresses:
        assert fetched(a, here, address, webs.host_port) == name
    left = [*((each, 8080) for each in addresses), *((each, 80) for each in webs.service)]
    left += [(each, webs.host_port) for each in b.addresses]
    assert _captured(installed, 0, here, "outbound") >= set(left)
    assert _captured(installed, 1, there, "inbound") >= {(each, 8080) for each in addresses}


def _captured(installed: Installed, number: int, pod: Any, direction: str) -> set[tuple[str, int]]:
    """Return where the connections of a pod were going that its node's proxy has carried."""
    found = [each for each in told(installed.cluster.nodes[number]) if each["event"] == "captured"]
    wanted = (pod["metadata"]["uid"], direction)
    return {
        (str(each["original"][0]), int(each["original"][1]))
        for each in found
        if (each["uid"], each["direction"]) == wanted
    }
