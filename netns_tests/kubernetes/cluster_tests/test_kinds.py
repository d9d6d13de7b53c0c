"""Pods of other kinds: static ones, which only their node knows first, and those that come again under their name."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from netns_tests.kubernetes.cluster_tests.conftest import AMBIENT, Installed
from netns_tests.kubernetes.cluster_tests.webs import fetched, is_captured, is_ready, pod_of, removed
from netns_tests.kubernetes.cluster_tests.weir import told
from netns_tests.kubernetes.node_files import STATIC
from netns_tests.patience import slow
from netns_tests.world import eventually

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def namespace(installed: Installed) -> Iterator[str]:
    api = installed.cluster.api
    api.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "kinds", "labels": AMBIENT}})
    yield "kinds"
    removed(api, "kinds")


def test_a_static_pod(installed: Installed, namespace: str) -> None:
    api, node = installed.cluster.api, installed.cluster.nodes[0]
    where = f"/api/v1/namespaces/{namespace}/pods"
    pod = pod_of("fixed", node.name, {})
    pod["metadata"]["namespace"] = namespace
    node.write(STATIC / "fixed.json", json.dumps({"apiVersion": "v1", "kind": "Pod", **pod}))
    try:
        eventually(lambda: is_ready(api, where, f"fixed-{node.name}"), "the static pod is Ready", slow(90.0))
        eventually(lambda: is_captured(api.ask("GET", f"{where}/fixed-{node.name}")), "it is captured", slow(30.0))
        found = api.ask("GET", f"{where}/fixed-{node.name}")
        done = installed.weir.plugin("verify", f"pod/{namespace}/fixed-{node.name}")
        assert done.returncode == 0, done.stdout + done.stderr
        _reached(installed, found, "fixed-node-a")
    finally:
        node.run("rm", "-f", str(STATIC / "fixed.json"))


def test_a_pod_of_a_stateful_set_comes_again(installed: Installed, namespace: str) -> None:
    api, node = installed.cluster.api, installed.cluster.nodes[1]
    where = f"/api/v1/namespaces/{namespace}/pods"
    labels = {"app": "state"}
    pod = pod_of("state", "", labels)
    pod["spec"]["nodeSelector"] = {"kubernetes.io/hostname": node.name}
    del pod["metadata"]["name"], pod["spec"]["nodeName"]
    spec = {"serviceName": "state", "replicas": 1, "selector": {"matchLabels": labels}, "template": pod}
    api.ask("POST", f"/apis/apps/v1/namespaces/{namespace}/statefulsets", {"metadata": {"name": "state"}, "spec": spec})
    uids: list[str] = []
    for _ in range(3):
        eventually(lambda: _other(installed, where, uids), "another state-0 is Ready", slow(60.0))
        found = api.ask("GET", f"{where}/state-0")
        uids.append(found["metadata"]["uid"])
        eventually(lambda: is_captured(api.ask("GET", f"{where}/state-0")), "it is captured", slow(30.0))
        _reached(installed, found, "state-0")
        status = json.loads(installed.weir.plugin("--node", node.name, "status", "--output", "json").stdout)
        assert [each for each in uids if each in json.dumps(status)] == uids[-1:]
        api.ask("DELETE", f"{where}/state-0")


def _reached(installed: Installed, pod: Any, name: str) -> None:
    """See a pod reached from the other node, in both families, through the proxy of its own."""
    number = [each.name for each in installed.cluster.nodes].index(pod["spec"]["nodeName"])
    addresses = {each["ip"] for each in pod["status"]["podIPs"]}
    other = installed.cluster.nodes[1 - number]
    for each in addresses:
        assert fetched(other, installed.earlier.pods()[1 - number], each, 8080) == name

    def arrived() -> set[str]:
        seen = [each for each in told(installed.cluster.nodes[number]) if each["event"] == "captured"]
        return {
            each["original"][0]
            for each in seen
            if (each["uid"], each["direction"]) == (pod["metadata"]["uid"], "inbound")
        }

    eventually(lambda: arrived() >= addresses, f"the proxy carried connections to {name}", slow(20.0))


def _other(installed: Installed, where: str, uids: list[str]) -> bool:
    found = [each for each in installed.cluster.api.ask("GET", where)["items"] if each["metadata"]["name"] == "state-0"]
    known = any(each["metadata"]["uid"] in uids for each in found)
    return bool(found) and not known and is_ready(installed.cluster.api, where, "state-0")
