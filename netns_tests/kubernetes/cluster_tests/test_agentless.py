"""A node that has lost its agent, with the plugin still in place: others start as ever, ambient pods are held."""

from collections.abc import Iterator

import pytest

from netns_tests.kubernetes.api_server import ApiServer
from netns_tests.kubernetes.cluster_tests.conftest import AMBIENT, Installed
from netns_tests.kubernetes.cluster_tests.webs import fetched, is_captured, is_ready, pod_of, removed
from netns_tests.kubernetes.cluster_tests.weir import AWAY
from netns_tests.patience import slow
from netns_tests.world import eventually

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def namespace(installed: Installed) -> Iterator[str]:
    api = installed.cluster.api
    api.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "agentless"}})
    yield "agentless"
    removed(api, "agentless")


def test_a_node_without_an_agent_holds_ambient_pods_and_no_others(installed: Installed, namespace: str) -> None:
    api, node = installed.cluster.api, installed.cluster.nodes[1]
    where = f"/api/v1/namespaces/{namespace}/pods"
    mark(api, node.name, AWAY, "yes")
    try:
        eventually(lambda: installed.weir.agent(node) is None, f"{node.name} has no agent", slow(60.0))
        for name, labels in (("plain", {}), ("ambient", AMBIENT)):
            api.ask("POST", where, pod_of(name, node.name, labels))
        eventually(lambda: is_ready(api, where, "plain"), "the pod that is not ambient is Ready", slow(60.0))

        def notes() -> list[str]:
            found = api.ask("GET", f"/api/v1/namespaces/{namespace}/events")["items"]
            return [each["message"] for each in found if each["involvedObject"]["name"] == "ambient"]

        said = f"pod {namespace}/ambient: Weir's agent gave no answer"
        eventually(lambda: any(said in each for each in notes()), "an Event says what it waits for", slow(60.0))
        assert api.ask("GET", f"{where}/ambient")["status"]["phase"] == "Pending"
    finally:
        mark(api, node.name, AWAY, None)
    eventually(lambda: is_ready(api, where, "ambient"), "the ambient pod is Ready", slow(120.0))
    found = api.ask("GET", f"{where}/ambient")
    assert is_captured(found)
    assert fetched(node, found, found["status"]["podIP"], 8080) == "ambient"
    assert not is_captured(api.ask("GET", f"{where}/plain"))


def mark(api: ApiServer, node: str, label: str, value: str | None) -> None:
    """Give a node a label, or take it away."""
    api.patch(f"/api/v1/nodes/{node}", {"metadata": {"labels": {label: value}}})
