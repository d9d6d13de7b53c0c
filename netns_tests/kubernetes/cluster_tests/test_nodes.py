"""The cluster itself: without it being whole, nothing that is seen on it says anything."""

from collections.abc import Iterator

import pytest

from netns_tests.kubernetes.cluster import Cluster
from netns_tests.kubernetes.cluster_tests.webs import Webs, fetched

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def webs(cluster: Cluster) -> Iterator[Webs]:
    with Webs(cluster, "plain", 18080) as made:
        yield made


def test_nodes_are_ready(cluster: Cluster) -> None:
    assert cluster.ready() == ["node-a", "node-b"]


def test_pods_reach_each_other_across_nodes_in_both_families(cluster: Cluster, webs: Webs) -> None:
    pods = webs.pods()
    assert [each["spec"]["nodeName"] for each in pods] == ["node-a", "node-b"]
    for node, here, there in ((cluster.nodes[0], *pods), (cluster.nodes[1], *reversed(pods))):
        addresses = [each["ip"] for each in there["status"]["podIPs"]]
        assert len(addresses) == 2
        assert {fetched(node, here, each, 8080) for each in addresses} == {there["metadata"]["name"]}


def test_a_service_and_a_port_of_the_node_lead_to_pods(cluster: Cluster, webs: Webs) -> None:
    pods = webs.pods()
    names = {each["metadata"]["name"] for each in pods}
    for address in webs.service:
        assert fetched(cluster.nodes[0], pods[0], address, 80) in names
    a, b = cluster.nodes
    for node, here, other, there in ((a, pods[0], b, pods[1]), (b, pods[1], a, pods[0])):
        for address in other.addresses:
            assert fetched(node, here, address, webs.host_port) == there["metadata"]["name"]
