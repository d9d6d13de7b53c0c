"""Pods that a real API server has, with the rights that the agent has in a cluster and no more."""

import itertools
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.daemon.cluster import Sources
from agent.sources.kubernetes.api import opened
from agent.sources.kubernetes.facts import REDIRECTION
from agent.sources.kubernetes.informer import Informer
from netns_tests.daemon import is_clean
from netns_tests.enrolling import ways
from netns_tests.kubernetes.api_server import ApiServer
from netns_tests.kubernetes.objects import RULES, account, add_pod, delete_pod, namespace, pod_path, running
from netns_tests.mesh_proxy_process import MeshProxy
from netns_tests.patience import slow
from netns_tests.pods_api import AMBIENT, Api, pod_of
from netns_tests.pods_node import SECONDS, Node
from netns_tests.world import Host, World, eventually

CAPTURED, DIRECT = ["captured"] * 4, ["direct"] * 4
_NUMBERS = itertools.count()


@pytest.fixture
def shop(api_server: ApiServer) -> str:
    """A namespace whose pods are captured, and an account of the agent's in it."""
    name = namespace(api_server, f"pods-{next(_NUMBERS)}", **AMBIENT)
    account(api_server, name, "weir", RULES)
    return name


@pytest.fixture
def node(world: World, tmp_path: Path, api_server: ApiServer, shop: str) -> Iterator[Node]:
    token = api_server.token(shop, "weir")
    kubeconfig = api_server.kubeconfig_of({"token": token}, shop)
    told = Api()  # of which only where namespaces are is asked

    def sources(kubeconfig: Path = kubeconfig) -> Coroutine[Any, Any, Sources]:
        return _sources(kubeconfig, shop, told)

    with Node(world, tmp_path, told, sources=sources, node=shop) as running_node:
        yield running_node


async def _sources(kubeconfig: Path, node: str, told: Api) -> Sources:
    api = await opened(kubeconfig, node=node)

    def watch(changed: Callable[[str], None], listed: Callable[[], None]) -> Informer:
        return Informer(api, node, changed=changed, listed=listed)

    return Sources(api=api, watch=watch, find=told.search, close=api.close)


@pytest.fixture
def proxy(node: Node) -> Iterator[MeshProxy]:
    with MeshProxy(node.zds, "--longest-wait=0.1") as running_proxy:
        running_proxy.wait("snapshot")
        yield running_proxy


def annotation(server: ApiServer, shop: str, name: str) -> str | None:
    """Return what the API says of a pod."""
    found = server.ask("GET", pod_path(shop, name))["metadata"].get("annotations", {})
    return None if found.get(REDIRECTION) is None else str(found[REDIRECTION])


def events(server: ApiServer, shop: str) -> set[str]:
    """Return the reasons of the Events in a namespace."""
    listed = server.ask("GET", f"/apis/events.k8s.io/v1/namespaces/{shop}/events")["items"]
    return {str(each["reason"]) for each in listed}


def test_a_pod_from_its_start_to_its_end(
    world: World, pod: Host, api_server: ApiServer, shop: str, node: Node, proxy: MeshProxy
) -> None:
    uid = add_pod(api_server, shop, "web", shop)
    web = pod_of(None, "web", uid=uid, namespace=shop)
    # Perhaps before the watch has told of it: then it is asked for.
    assert node.add(web, pod)[1]["verdict"] == "captured"
    running(api_server, shop, "web", pod.v4, pod.v6)
    assert ways(world, pod) == CAPTURED
    eventually(lambda: annotation(api_server, shop, "web") == "enabled", "the API says so", SECONDS)
    assert node.ask("del", web, pod)[0] == 200
    delete_pod(api_server, shop, "web")
    proxy.wait("delete", uid)
    eventually(lambda: node.state(uid) is None, "nothing is kept of it", SECONDS)


def test_a_label_captures_a_running_pod_and_releases_it(
    world: World, pod: Host, api_server: ApiServer, shop: str, node: Node, proxy: MeshProxy
) -> None:
    api_server.patch(f"/api/v1/namespaces/{shop}", {"metadata": {"labels": {"istio.io/dataplane-mode": None}}})
    eventually(lambda: not node.cluster.listing.namespaces[shop].labels.get("istio.io/dataplane-mode"), "", SECONDS)
    uid = add_pod(api_server, shop, "web", shop)
    node.api.there[uid] = pod
    running(api_server, shop, "web", pod.v4, pod.v6)
    eventually(lambda: node.step(uid) == "outside", "it is known", SECONDS)
    assert ways(world, pod) == DIRECT
    api_server.patch(f"/api/v1/namespaces/{shop}", {"metadata": {"labels": AMBIENT}})
    node.until(uid, "captured")
    assert ways(world, pod) == CAPTURED
    eventually(lambda: annotation(api_server, shop, "web") == "enabled", "the API says so", SECONDS)
    eventually(lambda: "Captured" in events(api_server, shop), "and has an Event", SECONDS)
    label = {"metadata": {"labels": {"istio.io/dataplane-mode": "none"}}}
    api_server.patch(pod_path(shop, "web"), label)
    eventually(lambda: is_clean(pod), "it is released", SECONDS)
    eventually(lambda: annotation(api_server, shop, "web") is None, "the API says so", SECONDS)


def test_an_annotation_that_cannot_be_read_is_an_event(
    pod: Host, api_server: ApiServer, shop: str, node: Node, proxy: MeshProxy
) -> None:
    uid = add_pod(api_server, shop, "web", shop)
    assert node.add(pod_of(None, "web", uid=uid, namespace=shop), pod)[1]["verdict"] == "captured"
    running(api_server, shop, "web", pod.v4, pod.v6)
    bad = {"metadata": {"annotations": {"traffic.sidecar.istio.io/excludeOutboundPorts": "\u0668\u0660"}}}
    api_server.patch(pod_path(shop, "web"), bad)
    node.until(uid, "unreadable")
    eventually(lambda: "CaptureUnreadable" in events(api_server, shop), "there is an Event", SECONDS)


def test_while_the_api_is_away_pods_start_and_stay(
    world: World, api_server: ApiServer, shop: str, node: Node, proxy: MeshProxy
) -> None:
    first, second = world.pods
    uids = [add_pod(api_server, shop, name, shop) for name in ("a", "b")]
    eventually(lambda: set(uids) <= set(node.cluster.listing.pods), "both are known", SECONDS)
    assert node.add(pod_of(None, "a", uid=uids[0], namespace=shop), first)[1]["verdict"] == "captured"
    api_server.stop()
    try:
        assert ways(world, first) == CAPTURED
        assert node.add(pod_of(None, "b", uid=uids[1], namespace=shop), second)[1]["verdict"] == "captured"
        status, answer = node.add(pod_of(None, "c", uid="of-nobody", namespace=shop), second)
        assert (status, "of-nobody" not in answer["error"]) == (503, True)
        assert node.step(uids[0]) == "captured"
    finally:
        api_server.start()
    eventually(lambda: annotation(api_server, shop, "b") == "enabled", "the API hears of it later", slow(60))


def test_a_pod_of_the_same_name_is_another_pod(
    world: World, api_server: ApiServer, shop: str, node: Node, proxy: MeshProxy
) -> None:
    old, new = world.pods
    before = add_pod(api_server, shop, "web-0", shop)
    assert (
        node.add(pod_of(None, "web-0", uid=before, namespace=shop), old, container="aaaa")[1]["verdict"] == "captured"
    )
    delete_pod(api_server, shop, "web-0")
    after = add_pod(api_server, shop, "web-0", shop)
    second = pod_of(None, "web-0", uid=after, namespace=shop)
    assert node.add(second, new, container="bbbb")[1]["verdict"] == "captured"
    proxy.wait("delete", before)
    eventually(lambda: annotation(api_server, shop, "web-0") == "enabled", "the API says so", SECONDS)
    assert node.step(after) == "captured"
    assert ways(world, new)[0] == "captured"
