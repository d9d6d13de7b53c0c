"""What a node's agent may meet at its worst, and must not pass on to its pods. docs/istio.md lists it all."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from netns_tests.enrolling import ways
from netns_tests.mesh_proxy_process import MeshProxy
from netns_tests.namespace import Namespace
from netns_tests.pods_api import Api, pod_of
from netns_tests.pods_node import SECONDS, Node
from netns_tests.probing import Probing, elements
from netns_tests.rivals import owner_of
from netns_tests.world import Host, World, eventually

CAPTURED = ["captured"] * 4
# Whoever owns the node's table is in the way of every agent.
THEIRS = "delete table inet weir-pod; delete table inet weir-host; add table inet weir-host { flags owner; }"


@pytest.fixture
def api(pod: Host) -> Api:
    """A running pod, in a namespace that is captured."""
    web = pod_of(pod)
    return Api(pods={web.uid: web}, there={web.uid: pod})


@pytest.fixture
def uid(api: Api) -> str:
    return next(iter(api.pods))


@pytest.fixture
def bare_node() -> Iterator[Namespace]:
    with Namespace.create("node") as made:
        yield made


def test_a_node_without_ipv6_forgets_a_pod_of_both_families(bare_node: Namespace) -> None:
    bare_node.command("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
    with Probing(bare_node) as life:
        life.put("a", "10.0.0.1", "fd00::1")
        life.put("b", "10.0.0.2", "fd00::2")
        life.drop("a")
        assert elements(bare_node) == {"10.0.0.2": "b", "fd00::2": "b"}


def test_a_node_s_table_that_cannot_be_written_takes_no_pod_from_its_proxy(
    world: World, pod: Host, tmp_path: Path, api: Api, uid: str
) -> None:
    with ExitStack() as stack:
        with Node(world, tmp_path, api) as first:
            proxy = stack.enter_context(MeshProxy(first.zds, "--longest-wait=0.1"))
            proxy.wait("snapshot")
            first.until(uid, "captured")
            eventually(lambda: api.pods[uid].annotations, "the API says so", SECONDS)
        before = pod.command("nft", "-as", "list", "ruleset")
        proxy.forget()
        with owner_of(world.node, "owner", THEIRS) as owner, Node(world, tmp_path, api) as second:
            proxy.wait("snapshot")
            assert proxy.uids("add") == [uid], "the snapshot has every pod"
            eventually(lambda: "weir-host" in json.dumps(second.call(second.cluster.status)), "it is said", SECONDS)
            assert pod.command("nft", "-as", "list", "ruleset") == before
            assert ways(world, pod) == CAPTURED
            owner.kill()
            second.until(uid, "captured")
            assert pod.v4 in second.probes()
            assert proxy.uids("delete") == []


def test_a_pod_goes_though_its_namespace_has_gone_from_the_api_first(
    world: World, pod: Host, tmp_path: Path, api: Api, uid: str
) -> None:
    with Node(world, tmp_path, api) as node, MeshProxy(node.zds, "--longest-wait=0.1") as proxy:
        proxy.wait("snapshot")
        node.until(uid, "captured")
        node.call(api.namespaces.pop, "shop")
        node.put(replace(api.pods[uid], labels={"a": "change"}))
        node.until(uid, "undecided")
        assert ways(world, pod) == CAPTURED, "what nobody knows is no reason to release"
        node.drop(uid)
        proxy.wait("delete", uid)
        eventually(lambda: node.state(uid) is None, "nothing is kept of it", SECONDS)
        assert pod.v4 not in node.probes()
