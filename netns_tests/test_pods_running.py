"""Pods that run: enrolled, changed and released as labels and annotations say, whatever happens around them."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from agent.sources.kubernetes.annotations import BYPASS_INBOUND, EXCLUDE_OUT_PORTS
from agent.sources.kubernetes.facts import DATAPLANE_MODE, Pod
from netns_tests.daemon import is_clean, rules
from netns_tests.enrolling import alive, every_way, kernel_state, start_conntrack, ways
from netns_tests.mesh_proxy_process import MeshProxy
from netns_tests.pods_api import AMBIENT, Api, Unreadable, pod_of
from netns_tests.pods_node import SECONDS, Node
from netns_tests.world import Host, World, eventually

CAPTURED, DIRECT = ["captured"] * 4, ["direct"] * 4


@pytest.fixture
def api(pod: Host) -> Api:
    """A running pod, in a namespace that is captured."""
    web = pod_of(pod)
    return Api(pods={web.uid: web}, there={web.uid: pod})


@pytest.fixture
def uid(api: Api) -> str:
    return next(iter(api.pods))


@pytest.fixture
def node(world: World, tmp_path: Path, api: Api) -> Iterator[Node]:
    with Node(world, tmp_path, api) as running:
        yield running


@pytest.fixture
def proxy(node: Node) -> Iterator[MeshProxy]:
    with MeshProxy(node.zds, "--longest-wait=0.1") as running:
        running.wait("snapshot")
        yield running


def annotated(node: Node, uid: str, **annotations: str) -> None:
    """Annotate a pod, with `_` for what stands in no Python name."""
    pod = node.api.pods[uid]
    node.put(replace(pod, annotations={**pod.annotations, **annotations}))


def test_a_running_pod_is_captured_late_and_released(
    world: World, pod: Host, tmp_path: Path, api: Api, uid: str
) -> None:
    start_conntrack(pod)
    api.namespaces.pop("shop")
    with Node(world, tmp_path, api) as node, MeshProxy(node.zds) as proxy, ExitStack() as stack:
        before = kernel_state(pod)
        proxy.wait("snapshot")
        unknown = "the labels of the namespace shop are not known"
        eventually(lambda: node.state(uid).reason.startswith(unknown), unknown, SECONDS)  # type: ignore[union-attr]
        early = every_way(stack, world, pod)
        node.label(AMBIENT)
        state = node.until(uid, "captured")
        assert state.uncaptured is not None
        assert state.uncaptured > 0
        assert ways(world, pod) == CAPTURED
        assert alive(early) == ["alive"] * 4
        eventually(lambda: api.written == [(uid, "enabled")], "the API says so", SECONDS)
        assert ("web-0", "Captured") in {each[:2] for each in api.events}
        late = every_way(stack, world, pod)
        node.label({})
        node.until(uid, "draining")
        assert api.written[-1] == (uid, None)
        assert ways(world, pod) == DIRECT
        assert alive(early + late) == ["alive"] * 8
        assert not proxy.heard("delete")
        for stream in late:
            stream.finish()
        proxy.wait("delete", uid)
        eventually(lambda: node.step(uid) == "outside", "it is released", SECONDS)
        assert alive(early) == ["alive"] * 4
        for stream in early:
            stream.finish()
        assert kernel_state(pod) == before
        assert pod.v4 not in node.probes()
        searches = api.searches
        node.label(AMBIENT)
        node.until(uid, "captured")
        assert api.searches == searches  # where it is was not forgotten


def test_a_pod_wanted_again_while_it_drains_goes_on(
    world: World, pod: Host, node: Node, proxy: MeshProxy, uid: str
) -> None:
    node.until(uid, "captured")
    with ExitStack() as stack:
        streams = every_way(stack, world, pod)
        node.label({})
        node.until(uid, "draining")
        node.label(AMBIENT)
        node.until(uid, "captured")
        assert ways(world, pod) == CAPTURED
        assert alive(streams) == ["alive"] * 4
        assert not proxy.heard("delete")
        eventually(lambda: node.api.written[-1] == (uid, "enabled"), "the API says so again", SECONDS)


def test_a_pod_wanted_again_while_it_is_released_is_captured(
    world: World, pod: Host, node: Node, proxy: MeshProxy, api: Api, uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The label is back before the last step of the release, and nothing else happens to the pod afterwards."""
    node.until(uid, "captured")
    eventually(lambda: api.written == [(uid, "enabled")], "the API says so", SECONDS)
    write, shop = api.redirect_state, api.namespaces["shop"]

    async def label_again(pod_: Pod, value: str | None) -> object:
        done = await write(pod_, value)
        if value is None:
            api.namespaces["shop"] = shop
            api.changed(pod_.uid)
        return done

    monkeypatch.setattr(api, "redirect_state", label_again)
    node.label({})
    eventually(lambda: api.written == [(uid, "enabled"), (uid, None), (uid, "enabled")], "it is captured", SECONDS)
    node.until(uid, "captured")
    assert ways(world, pod) == CAPTURED


def test_an_annotation_changes_the_rules_of_a_running_pod(
    world: World, pod: Host, node: Node, proxy: MeshProxy, uid: str
) -> None:
    node.until(uid, "captured")
    with ExitStack() as stack:
        streams = every_way(stack, world, pod)
        annotated(node, uid, **{BYPASS_INBOUND: "true"})
        eventually(lambda: ways(world, pod) == ["captured", "direct"] * 2, "only outbound is captured", SECONDS)
        assert alive(streams) == ["alive"] * 4
    assert len(proxy.heard("add", uid)) == 1


def test_an_annotation_that_cannot_be_read_changes_nothing(
    world: World, pod: Host, node: Node, proxy: MeshProxy, uid: str
) -> None:
    node.until(uid, "captured")
    before = rules(pod)
    annotated(node, uid, **{EXCLUDE_OUT_PORTS: "80,http"})
    state = node.until(uid, "unreadable")
    assert EXCLUDE_OUT_PORTS in state.reason
    assert "http" in state.reason
    assert rules(pod) == before
    assert ways(world, pod) == CAPTURED
    eventually(lambda: ("web-0", "CaptureUnreadable") in {e[:2] for e in node.api.events}, "an Event", SECONDS)
    annotated(node, uid, **{EXCLUDE_OUT_PORTS: "80"})
    node.until(uid, "captured")
    eventually(lambda: rules(pod) != before, "the rules are others", SECONDS)


def test_a_field_that_cannot_be_read_changes_nothing(
    world: World, pod: Host, node: Node, proxy: MeshProxy, uid: str
) -> None:
    node.until(uid, "captured")
    node.api.unreadable[uid] = Unreadable("shop", "web-0", "status.podIPs[0].ip = 'x': is no address")
    node.put(node.api.pods[uid])
    assert "status.podIPs" in node.until(uid, "unreadable").reason
    assert ways(world, pod) == CAPTURED
    del node.api.unreadable[uid]
    node.put(node.api.pods[uid])
    node.until(uid, "captured")


def test_labels_that_nobody_knows_release_nothing(
    world: World, pod: Host, node: Node, proxy: MeshProxy, uid: str
) -> None:
    node.until(uid, "captured")
    node.api.namespaces.pop("shop")
    node.put(node.api.pods[uid])
    node.until(uid, "undecided")
    assert ways(world, pod) == CAPTURED
    node.label({DATAPLANE_MODE: "none"})
    eventually(lambda: is_clean(pod), "it is released", SECONDS)


def test_a_running_pod_waits_visibly_for_its_proxy(world: World, pod: Host, node: Node, uid: str) -> None:
    state = node.until(uid, "proxy")
    assert f"no proxy is connected to {node.zds}" in state.reason
    assert state.waiting
    assert ways(world, pod) == DIRECT
    eventually(lambda: ("web-0", "CaptureWaiting") in {e[:2] for e in node.api.events}, "an Event", SECONDS)
    with MeshProxy(node.zds, "--longest-wait=0.1"):
        assert (node.until(uid, "captured").uncaptured or 0) > 0
        assert ways(world, pod) == CAPTURED


def test_a_proxy_that_restarts_changes_no_rules(world: World, pod: Host, node: Node, uid: str) -> None:
    with MeshProxy(node.zds, "--longest-wait=0.1"):
        node.until(uid, "captured")
        eventually(lambda: node.state(uid).redirection == "enabled", "the API says so", SECONDS)  # type: ignore[union-attr]
        before = pod.command("nft", "-a", "list", "ruleset")
        assert node.state(uid).captured  # type: ignore[union-attr]
    eventually(lambda: not node.state(uid).served, "it is seen that nobody serves it", SECONDS)  # type: ignore[union-attr]
    assert "no proxy serves it now: no proxy is connected" in node.until(uid, "captured").reason
    with MeshProxy(node.zds, "--longest-wait=0.1") as proxy:
        proxy.wait("add", uid)
        eventually(lambda: ways(world, pod) == CAPTURED, "it is served again", SECONDS)
    assert pod.command("nft", "-as", "list", "ruleset").count("handle") == before.count("handle")
    assert node.api.written == [(uid, "enabled")]


def test_a_pod_that_is_gone_leaves_nothing(pod: Host, node: Node, proxy: MeshProxy, uid: str) -> None:
    node.until(uid, "captured")
    node.drop(uid)
    proxy.wait("delete", uid)
    eventually(lambda: node.state(uid) is None, "nothing is kept of it", SECONDS)
    eventually(lambda: not list((node.folder / "namespaces").glob("*.json")), "nothing is remembered", SECONDS)
    assert pod.v4 not in node.probes()
    assert not list((node.folder / "sandboxes").glob("*"))


def test_a_pod_that_has_finished_is_released(pod: Host, node: Node, proxy: MeshProxy, uid: str) -> None:
    node.until(uid, "captured")
    node.put(replace(node.api.pods[uid], phase="Succeeded"))
    proxy.wait("delete", uid)
    eventually(lambda: is_clean(pod), "nothing is in its namespace", SECONDS)


def test_what_the_api_could_not_be_told_is_told_later(pod: Host, node: Node, proxy: MeshProxy, uid: str) -> None:
    node.until(uid, "captured")
    eventually(lambda: node.api.written == [(uid, "enabled")], "the API says so", SECONDS)
    node.api.away = True
    node.label({})
    eventually(lambda: is_clean(pod), "it is released all the same", SECONDS)
    node.api.away = False
    eventually(lambda: node.api.written[-1] == (uid, None), "the API hears of it", SECONDS)


def test_somebody_elses_annotation_is_put_right(node: Node, proxy: MeshProxy, uid: str) -> None:
    node.until(uid, "captured")
    eventually(lambda: node.api.written == [(uid, "enabled")], "the API says so", SECONDS)
    node.put(replace(node.api.pods[uid], annotations={}))
    eventually(lambda: node.api.written == [(uid, "enabled")] * 2, "the API says so again", SECONDS)


def test_many_pods_are_looked_for_together(world: World, pod: Host, node: Node, proxy: MeshProxy, uid: str) -> None:
    node.until(uid, "captured")
    before = node.api.searches
    hosts = [world.add_pod() for _ in range(6)]
    node.label({})
    for number, host in enumerate(hosts):
        node.put(pod_of(host, f"many-{number}"), host=host)
    node.label(AMBIENT)
    for number in range(6):
        node.until(f"uid-of-many-{number}", "captured")
    assert node.api.searches - before <= 3


def test_a_pod_without_a_namespace_is_not_called_captured(node: Node, proxy: MeshProxy, world: World) -> None:
    lost = pod_of(world.pods[1], "lost")
    node.put(lost)
    state = node.until(lost.uid, "finding")
    assert state.reason == "no process of it was found"
    assert state.waiting
    node.api.there[lost.uid] = world.pods[1]
    node.until(lost.uid, "captured")


def test_everything_is_released_when_weir_goes(world: World, pod: Host, node: Node, proxy: MeshProxy, uid: str) -> None:
    node.until(uid, "captured")
    eventually(lambda: node.api.written == [(uid, "enabled")], "the API says so", SECONDS)
    node.call(node.cluster.pods.release_all, 5.0)
    assert node.wait(node.cluster.pods.until_released(SECONDS)) == ()
    assert is_clean(pod)
    assert node.api.written[-1] == (uid, None)
    proxy.wait("delete", uid)


def test_a_drain_that_is_to_end_sooner_does(
    world: World, pod: Host, node: Node, proxy: MeshProxy, uid: str, caplog: pytest.LogCaptureFixture
) -> None:
    node.until(uid, "captured")
    caplog.set_level("INFO", "weir")
    with ExitStack() as stack:
        every_way(stack, world, pod)
        node.label({})
        state = node.until(uid, "draining")
        assert "left" in state.reason
        node.call(node.cluster.pods.release_all, 0.0)
        assert node.wait(node.cluster.pods.until_released(SECONDS)) == ()
    assert is_clean(pod)
    said = [each for each in caplog.messages if each.startswith("pod/shop/web-0: draining")]
    assert len(said) == 1  # not with each second that runs down
