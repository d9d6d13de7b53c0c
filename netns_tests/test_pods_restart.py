"""A node's agent that is started anew: pods go on as they are, and what was left half-done is finished."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from agent.sources.kubernetes.facts import Namespace
from netns_tests.daemon import is_clean
from netns_tests.enrolling import alive, every_way, ways
from netns_tests.mesh_proxy_process import MeshProxy
from netns_tests.pods_api import Api, Unreadable, pod_of
from netns_tests.pods_node import SECONDS, Node
from netns_tests.world import Host, World, eventually

CAPTURED, DIRECT = ["captured"] * 4, ["direct"] * 4


@pytest.fixture
def api(pod: Host) -> Api:
    """A pod that starts, in a namespace that is captured."""
    web = pod_of(None)
    return Api(pods={web.uid: web})


@pytest.fixture
def uid(api: Api) -> str:
    return next(iter(api.pods))


def captured(node: Node, uid: str, host: Host) -> None:
    """Capture a pod as its runtime has it done; the API then knows its addresses, and that it is captured."""
    assert node.add(node.api.pods[uid], host)[1]["verdict"] == "captured"
    running = pod_of(host, node.api.pods[uid].name)
    node.put(replace(running, annotations=node.api.pods[uid].annotations))
    eventually(lambda: node.api.pods[uid].annotations, "the API says that it is captured", SECONDS)
    eventually(lambda: list((node.folder / "sandboxes").glob("*.json")), "its sandbox is remembered", SECONDS)


def table(pod: Host) -> str:
    """Return all rules with their handles: another table would have others."""
    return pod.command("nft", "-as", "list", "ruleset")


def test_a_restart_changes_nothing(world: World, pod: Host, tmp_path: Path, api: Api, uid: str) -> None:
    with ExitStack() as stack:
        with Node(world, tmp_path, api) as first:
            proxy = stack.enter_context(MeshProxy(first.zds, "--longest-wait=0.1"))
            proxy.wait("snapshot")
            captured(first, uid, pod)
            streams = every_way(stack, world, pod)
        before, written = table(pod), list(api.written)
        assert ways(world, pod) == CAPTURED
        proxy.forget()
        with Node(world, tmp_path, api) as second:
            proxy.wait("snapshot")
            assert proxy.uids("add") == [uid]
            state = second.until(uid, "captured")
            assert (state.uncaptured, str(state.outcome and state.outcome.state)) == (0.0, "unchanged")
            assert pod.v4 in second.probes()
            assert ways(world, pod) == CAPTURED
            assert alive(streams) == ["alive"] * 4
        assert table(pod) == before
        assert (api.written, api.searches) == (written, 0)


def test_a_pod_is_captured_without_its_proxy_after_a_restart(
    world: World, pod: Host, tmp_path: Path, api: Api, uid: str
) -> None:
    with Node(world, tmp_path, api) as first, MeshProxy(first.zds, "--longest-wait=0.1"):
        captured(first, uid, pod)
    pod.nft("delete table inet weir-pod")
    with Node(world, tmp_path, api) as second:
        assert "nothing listens" in second.until(uid, "proxy").reason
        with MeshProxy(second.zds, "--longest-wait=0.1"):
            second.until(uid, "captured")
            assert ways(world, pod) == CAPTURED


def test_what_was_unlabelled_meanwhile_drains_first(
    world: World, pod: Host, tmp_path: Path, api: Api, uid: str
) -> None:
    with ExitStack() as stack:
        with Node(world, tmp_path, api) as first:
            proxy = stack.enter_context(MeshProxy(first.zds, "--longest-wait=0.1"))
            proxy.wait("snapshot")
            captured(first, uid, pod)
            streams = every_way(stack, world, pod)
        api.namespaces["shop"] = Namespace(name="shop")
        proxy.forget()
        with Node(world, tmp_path, api) as second:
            proxy.wait("snapshot")
            assert proxy.uids("add") == [uid]
            second.until(uid, "draining")
            assert ways(world, pod) == DIRECT
            assert alive(streams) == ["alive"] * 4
            for stream in streams:
                stream.finish()
            proxy.wait("delete", uid)
            eventually(lambda: is_clean(pod), "nothing is left", SECONDS)
            eventually(lambda: second.step(uid) == "outside", "it is released", SECONDS)


def test_a_pod_whose_namespace_is_not_found_goes_on_being_served(
    world: World, pod: Host, tmp_path: Path, api: Api, uid: str
) -> None:
    with ExitStack() as stack:
        with Node(world, tmp_path, api) as first:
            proxy = stack.enter_context(MeshProxy(first.zds, "--longest-wait=0.1"))
            proxy.wait("snapshot")
            captured(first, uid, pod)
            streams = every_way(stack, world, pod)
        for each in (first.folder / "sandboxes").iterdir():
            each.unlink()
        proxy.forget()
        with Node(world, tmp_path, api) as second:
            proxy.wait("snapshot")
            assert (proxy.uids("keep"), proxy.uids("add")) == ([uid], [])
            assert second.until(uid, "finding").reason == "no process of it was found"
            assert ways(world, pod) == CAPTURED
            assert alive(streams) == ["alive"] * 4
            api.there[uid] = pod
            second.put(api.pods[uid])
            second.until(uid, "captured")
            proxy.wait("add", uid)
            assert alive(streams) == ["alive"] * 4


@pytest.mark.parametrize("readable", [True, False], ids=["annotation", "field"])
def test_a_pod_that_cannot_be_read_stays_as_it_was(
    readable: bool, world: World, pod: Host, tmp_path: Path, api: Api, uid: str
) -> None:
    with ExitStack() as stack:
        with Node(world, tmp_path, api) as first:
            proxy = stack.enter_context(MeshProxy(first.zds, "--longest-wait=0.1"))
            proxy.wait("snapshot")
            captured(first, uid, pod)
            streams = every_way(stack, world, pod)
        before = table(pod)
        web = api.pods[uid]
        if readable:
            api.pods[uid] = replace(web, annotations={**web.annotations, "ambient.istio.io/dns-capture": "maybe"})
        else:
            api.unreadable[uid] = Unreadable("shop", "web-0", "spec.hostNetwork = 'x': wants true or false")
            del api.pods[uid]
        proxy.forget()
        with Node(world, tmp_path, api) as second:
            proxy.wait("snapshot")
            assert proxy.uids("add") + proxy.uids("keep") == [uid]
            second.wait(second.cluster.pods.settled.wait())
            if readable:
                second.until(uid, "unreadable")
            assert pod.v4 in second.probes()
            assert table(pod) == before
            assert ways(world, pod) == CAPTURED
            assert alive(streams) == ["alive"] * 4


def test_rules_that_no_pod_claims_are_released(world: World, pod: Host, tmp_path: Path, api: Api, uid: str) -> None:
    with Node(world, tmp_path, api) as first, MeshProxy(first.zds, "--longest-wait=0.1"):
        captured(first, uid, pod)
    del api.pods[uid]
    with Node(world, tmp_path, api, drain=0.0):
        eventually(lambda: is_clean(pod), "nothing is left", SECONDS)


def test_an_add_before_the_listing_is_whole_counts_more_than_the_state_of_before(
    world: World, pod: Host, tmp_path: Path, api: Api, uid: str
) -> None:
    old, new = world.pods
    with Node(world, tmp_path, api) as first, MeshProxy(first.zds, "--longest-wait=0.1"):
        captured(first, uid, old)
    with Node(world, tmp_path, api) as second, MeshProxy(second.zds, "--longest-wait=0.1"):
        assert second.add(api.pods[uid], new, container="bbbb")[1]["verdict"] == "captured"
        second.wait(second.cluster.pods.settled.wait())
        state = second.until(uid, "captured")
        assert state.netns == str(new.path)
        assert [old.v4 in second.probes(), new.v4 in second.probes()] == [False, True]


def test_pods_that_slipped_by_are_captured_late(world: World, pod: Host, tmp_path: Path) -> None:
    web = pod_of(pod, started=0.0)
    api = Api(pods={web.uid: web}, there={web.uid: pod})
    with Node(world, tmp_path, api) as node, MeshProxy(node.zds, "--longest-wait=0.1"):
        state = node.until(web.uid, "captured")
        assert (state.uncaptured or 0) > 1e9  # it is as old as the epoch
        assert any("it had been outside" in note or "after it had been" in note for _, _, note in api.events)
        assert ways(world, pod) == CAPTURED


def test_a_sandbox_that_is_there_no_more_is_forgotten(world: World, tmp_path: Path, api: Api, uid: str) -> None:
    host = world.pods[0]
    with Node(world, tmp_path, api) as first, MeshProxy(first.zds, "--longest-wait=0.1"):
        captured(first, uid, host)
    del api.pods[uid]
    with Node(world, tmp_path, api) as second:
        second.wait(second.cluster.pods.settled.wait())
        eventually(lambda: not list((second.folder / "sandboxes").glob("*")), "it is forgotten", SECONDS)


def test_rules_of_a_pod_that_is_found_nowhere_are_released_all_the_same(
    world: World, pod: Host, tmp_path: Path, api: Api, uid: str
) -> None:
    with Node(world, tmp_path, api) as first, MeshProxy(first.zds, "--longest-wait=0.1"):
        captured(first, uid, pod)
    for each in (first.folder / "sandboxes").iterdir():
        each.unlink()
    api.namespaces["shop"] = Namespace(name="shop")
    with Node(world, tmp_path, api, drain=0.0) as second:
        eventually(lambda: is_clean(pod), "nothing is left", SECONDS)
        eventually(lambda: api.written[-1] == (uid, None), "the API says so", SECONDS)
        assert pod.v4 not in second.probes()
