"""Pods that start: captured before their runtime is answered, or not at all. Proxy, table and sockets are real."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from agent.pods import answers
from agent.sources.kubernetes.facts import DATAPLANE_MODE, Namespace
from netns_tests.daemon import is_clean
from netns_tests.enrolling import ways
from netns_tests.mesh_proxy_process import MeshProxy
from netns_tests.pods_api import AMBIENT, Api, pod_of
from netns_tests.pods_node import SECONDS, Node
from netns_tests.world import Host, World, eventually

CAPTURED, DIRECT = ["captured"] * 4, ["direct"] * 4
WEB = pod_of(None)


@pytest.fixture
def api() -> Api:
    return Api(pods={WEB.uid: WEB})


@pytest.fixture
def node(world: World, tmp_path: Path, api: Api) -> Iterator[Node]:
    with Node(world, tmp_path, api) as running:
        yield running


@pytest.fixture
def proxy(node: Node) -> Iterator[MeshProxy]:
    with MeshProxy(node.zds, "--longest-wait=0.1") as running:
        running.wait("snapshot")
        yield running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "PATIENCE", 0.5)


def assert_nothing_is_left(node: Node, pod: Host) -> None:
    """Nothing in the pod, in the node's table or in a file says that there was an ADD."""
    eventually(lambda: is_clean(pod), "the namespace is clean", SECONDS)
    assert pod.v4 not in node.probes()
    assert not list((node.folder / "sandboxes").glob("*"))
    assert not list((node.folder / "namespaces").glob("*.json"))


def test_a_pod_is_captured_before_its_runtime_is_answered(
    world: World, pod: Host, node: Node, proxy: MeshProxy
) -> None:
    status, answer = node.add(WEB, pod)
    assert (status, answer["verdict"]) == (200, "captured"), answer
    assert ways(world, pod) == CAPTURED
    assert pod.v4 in node.probes()
    assert proxy.heard("add", WEB.uid)[0]["info"] == ["web-0", "shop", "default"]
    assert node.until(WEB.uid, "captured").uncaptured == 0.0
    eventually(lambda: node.api.written == [(WEB.uid, "enabled")], "the API says so, once", SECONDS)


def test_a_pod_that_nobody_wants_captured_starts_at_once(world: World, pod: Host, node: Node) -> None:
    node.put(replace(WEB, labels={DATAPLANE_MODE: "none"}))
    status, answer = node.add(WEB, pod)
    assert (status, answer["verdict"]) == (200, "outside")
    assert answer["reason"] == "its label istio.io/dataplane-mode=none takes it out"
    assert ways(world, pod) == DIRECT
    assert is_clean(pod)
    assert pod.v4 not in node.probes()


def test_a_pod_that_starts_uncaptured_need_not_be_looked_for(
    world: World, pod: Host, node: Node, proxy: MeshProxy
) -> None:
    node.label({})
    assert node.add(WEB, pod)[1]["verdict"] == "outside"
    eventually(lambda: list((node.folder / "sandboxes").glob("*.json")), "it is remembered", SECONDS)
    node.put(pod_of(pod))
    node.label(AMBIENT)
    node.until(WEB.uid, "captured")
    assert ways(world, pod) == CAPTURED
    assert node.api.searches == 0


def test_a_pod_that_has_gone_uncaptured_is_forgotten(pod: Host, node: Node) -> None:
    node.label({})
    assert node.add(WEB, pod)[1]["verdict"] == "outside"
    eventually(lambda: list((node.folder / "sandboxes").glob("*.json")), "it is remembered", SECONDS)
    node.drop(WEB.uid)
    eventually(lambda: not list((node.folder / "sandboxes").glob("*")), "it is forgotten", SECONDS)


def test_an_excluded_namespace_needs_no_word_of_the_api(pod: Host, world: World, tmp_path: Path) -> None:
    with Node(world, tmp_path, Api(complete=False, away=True)) as node:
        assert node.add(pod_of(None, namespace="kube-system"), pod)[1]["verdict"] == "outside"
        status, answer = node.add(WEB, pod)
        assert status == 503
        assert "not listed" in answer["error"]
        assert node.ask("status", WEB, None)[0] == 200


def test_a_pod_that_is_not_listed_yet_is_asked_for(pod: Host, node: Node, proxy: MeshProxy) -> None:
    node.api.unseen.add(WEB.uid)
    assert node.add(WEB, pod)[1]["verdict"] == "captured"
    assert node.api.asked[0] == "pod shop/web-0"


def test_a_namespace_that_is_not_listed_yet_is_asked_for(pod: Host, node: Node, proxy: MeshProxy) -> None:
    node.api.away = True
    new = replace(WEB, namespace="new")
    node.put(new)
    status, answer = node.add(new, pod)
    assert (status, "the API is away" in answer["error"]) == (503, True)
    node.api.away = False
    node.api.namespaces["new"] = Namespace(name="new", labels={DATAPLANE_MODE: "ambient"})
    assert node.add(new, pod)[1]["verdict"] == "captured"


def test_a_pod_that_is_gone_is_not_taken_for_its_successor(pod: Host, node: Node, proxy: MeshProxy) -> None:
    status, answer = node.add(replace(WEB, uid="of-before"), pod)
    assert status == 409
    assert "uid-of-web-0, and the runtime asks for of-before" in answer["error"]
    assert_nothing_is_left(node, pod)


def test_without_a_proxy_an_add_fails_and_leaves_nothing(pod: Host, node: Node, impatient: None) -> None:
    status, answer = node.add(WEB, pod)
    assert status == 409
    assert f"no proxy is connected to {node.zds}" in answer["error"]
    assert "kubectl get pods" in answer["hint"]
    assert_nothing_is_left(node, pod)
    state = node.until(WEB.uid, "starting")
    assert "no proxy is connected" in state.reason
    with MeshProxy(node.zds, "--longest-wait=0.1") as proxy:
        proxy.wait("snapshot")
        assert not proxy.heard("add")
        assert node.add(WEB, pod)[1]["verdict"] == "captured"


def test_an_add_waits_for_a_proxy_that_comes_back(pod: Host, node: Node) -> None:
    with ThreadPoolExecutor(1) as runtime:
        asked = runtime.submit(node.add, WEB, pod)
        eventually(lambda: node.step(WEB.uid) == "proxy", "it waits for a proxy", SECONDS)
        with MeshProxy(node.zds, "--longest-wait=0.1"):
            assert asked.result(SECONDS)[1]["verdict"] == "captured"


def test_a_proxy_that_refuses_fails_the_add_in_its_own_words(pod: Host, node: Node, proxy: MeshProxy) -> None:
    proxy.tell("refuse", uid=WEB.uid, words="port 15008 is taken")
    status, answer = node.add(WEB, pod)
    assert (status, answer["error"].endswith("port 15008 is taken")) == (409, True)
    assert_nothing_is_left(node, pod)
    proxy.wait("delete", WEB.uid)


def test_a_runtime_that_gives_up_leaves_nothing(pod: Host, node: Node, proxy: MeshProxy) -> None:
    proxy.tell("silent", kinds=["add"])
    body = json.dumps(
        {"namespace": "shop", "pod": "web-0", "uid": WEB.uid, "container": "c", "interface": "eth0"}
        | {"netns": str(pod.path), "addresses": [f"{pod.v4}/24"]}
    ).encode()
    with socket.socket(socket.AF_UNIX) as plugin:
        plugin.connect(str(node.folder / "cni.sock"))
        plugin.sendall(b"POST /v1/cni/add HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        proxy.wait("add", WEB.uid)
    node.until(WEB.uid, "starting")
    assert_nothing_is_left(node, pod)


def test_a_pod_deleted_in_its_add_leaves_nothing(pod: Host, node: Node, proxy: MeshProxy) -> None:
    proxy.tell("silent", kinds=["add"])
    with ThreadPoolExecutor(1) as runtime:
        asked = runtime.submit(node.add, WEB, pod)
        proxy.wait("add", WEB.uid)
        node.drop(WEB.uid)
        status, answer = asked.result(SECONDS)
    assert (status, answer["error"]) == (409, "the API has it no more")
    eventually(lambda: node.state(WEB.uid) is None, "nothing is kept of it", SECONDS)
    assert_nothing_is_left(node, pod)


def test_a_sandbox_deleted_in_its_add_leaves_nothing(pod: Host, node: Node, proxy: MeshProxy) -> None:
    proxy.tell("silent", kinds=["add", "delete"])
    with ThreadPoolExecutor(1) as runtime:
        asked = runtime.submit(node.add, WEB, pod)
        proxy.wait("add", WEB.uid)
        assert node.ask("del", WEB, pod)[0] == 200
        assert asked.result(SECONDS)[0] == 409
    assert_nothing_is_left(node, pod)


def test_the_same_add_twice_at_once_is_one(world: World, pod: Host, node: Node, proxy: MeshProxy) -> None:
    with ThreadPoolExecutor(8) as runtime:
        asked = [runtime.submit(node.add, WEB, pod) for _ in range(8)]
        assert [each.result(SECONDS)[1]["verdict"] for each in asked] == ["captured"] * 8
    assert len(proxy.heard("add")) == 1
    assert ways(world, pod) == CAPTURED


def test_of_two_sandboxes_at_once_the_newer_is_captured(world: World, node: Node, proxy: MeshProxy) -> None:
    old, new = world.pods
    proxy.tell("silent", kinds=["add"])
    with ThreadPoolExecutor(2) as runtime:
        first = runtime.submit(node.add, WEB, old, container="aaaa")
        proxy.wait("add", WEB.uid)
        second = runtime.submit(node.add, WEB, new, container="bbbb")
        status, answer = first.result(SECONDS)
        assert (status, "another sandbox" in answer["error"]) == (409, True)
        proxy.tell("silent", kinds=[])
        proxy.tell("reconnect")
        assert second.result(SECONDS)[1]["verdict"] == "captured"
    assert is_clean(old)
    assert new.v4 in node.probes()
    assert old.v4 not in node.probes()


def test_a_new_sandbox_takes_the_place_of_one_that_was_deleted(world: World, node: Node, proxy: MeshProxy) -> None:
    old, new = world.pods
    assert node.add(WEB, old, container="aaaa")[1]["verdict"] == "captured"
    assert node.ask("del", WEB, old, container="aaaa")[1]["verdict"] == "done"
    assert node.add(WEB, new, container="bbbb")[1]["verdict"] == "captured"
    # A runtime may delete again what it has deleted, and with nothing to tell but the container.
    assert node.ask("del", WEB, None, container="aaaa")[0] == 200
    assert node.ask("del", WEB, old, container="aaaa")[0] == 200
    assert node.ask("check", WEB, new, container="bbbb")[1]["verdict"] == "captured"
    assert ways(world, new)[0] == "captured"
    assert [old.v4 in node.probes(), new.v4 in node.probes()] == [False, True]


def test_a_new_sandbox_takes_the_place_of_one_that_nobody_deleted(world: World, node: Node, proxy: MeshProxy) -> None:
    old, new = world.pods
    for host, container in ((old, "aaaa"), (new, "bbbb")):
        assert node.add(WEB, host, container=container)[1]["verdict"] == "captured"
    assert len(proxy.heard("add", WEB.uid)) == 2
    assert node.state(WEB.uid).netns == str(new.path)  # type: ignore[union-attr]
    assert [old.v4 in node.probes(), new.v4 in node.probes()] == [False, True]


def test_a_delete_waits_for_nobody_and_never_fails(pod: Host, node: Node, proxy: MeshProxy) -> None:
    assert node.ask("del", WEB, None)[0] == 200  # of what never was
    assert node.add(WEB, pod)[1]["verdict"] == "captured"
    proxy.tell("silent", kinds=["delete"])
    assert node.ask("del", WEB, pod)[0] == 200
    proxy.wait("delete", WEB.uid)
    eventually(lambda: not list((node.folder / "namespaces").glob("*.json")), "nothing is remembered", SECONDS)
    node.until(WEB.uid, "starting")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"annotations": {"ambient.istio.io/bypass-inbound-capture": "perhaps"}}, 'wants "true" or "false"'),
        ({"runtime_class": "gvisor"}, "gVisor"),
    ],
)
def test_what_cannot_be_captured_as_wanted_does_not_start(
    changed: dict[str, object], said: str, pod: Host, node: Node, proxy: MeshProxy
) -> None:
    node.put(replace(WEB, **changed))  # type: ignore[arg-type]
    status, answer = node.add(WEB, pod)
    assert (status, said in answer["error"]) == (409, True), answer
    assert_nothing_is_left(node, pod)


def test_a_namespace_of_another_pod_is_refused(world: World, node: Node, proxy: MeshProxy) -> None:
    mine, other = world.pods
    status, answer = node.add(WEB, mine, netns=str(other.path))
    assert (status, f"doesn't have the pod's address {mine.v4}" in answer["error"]) == (409, True)
    assert_nothing_is_left(node, other)


def test_a_namespace_that_is_not_there_is_refused(node: Node, pod: Host, proxy: MeshProxy) -> None:
    status, answer = node.add(WEB, pod, netns="/run/netns/nobody-has-this")
    assert (status, "does not exist" in answer["error"]) == (409, True)
    assert_nothing_is_left(node, pod)
