"""One agent and one proxy that speaks ZDS: what is wanted is served, and what is not is said in words."""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.errors import TargetError
from agent.mesh.connection import Patience
from agent.mesh.session import Phase
from agent.mesh.status import Acknowledged, Refused, Released, Unanswered
from agent.mesh.wire import Workload
from netns_tests.mesh_proxy_process import Agent, MeshProxy, descriptor
from netns_tests.namespace import Namespace
from netns_tests.patience import slow
from netns_tests.proxy import HBONE, HBONE_ANSWER
from netns_tests.world import eventually

HURRIED = Patience(hello=slow(0.3), answer=slow(0.3), retry=slow(0.1), pause=slow(0.1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ztunnel.sock"


@pytest.fixture
def pod(stack: ExitStack) -> Namespace:
    return stack.enter_context(Namespace.create("zds"))


@pytest.fixture
def other(stack: ExitStack) -> Namespace:
    return stack.enter_context(Namespace.create("zds"))


def is_served(namespace: Namespace) -> bool:
    """Say whether a proxy answers in a namespace."""
    with namespace.socket(socket.AF_INET) as client:
        client.settimeout(slow(5.0))
        try:
            client.connect(("127.0.0.1", HBONE))
        except ConnectionRefusedError:
            return False
        return client.recv(100) == HBONE_ANSWER


def in_background(fn: Callable[[], object]) -> "tuple[threading.Thread, list[object]]":
    """Start something; return the thread and where its result will be."""
    result: list[object] = []
    thread = threading.Thread(target=lambda: result.append(fn()), daemon=True)
    thread.start()
    return thread, result


def test_a_snapshot_has_a_descriptor_for_each_pod_and_ends(path: Path, pod: Namespace, other: Namespace) -> None:
    with Agent(path, complete=False) as agent, MeshProxy(path) as proxy:
        assert agent.complete([("a", pod), ("b", other), ("c", None)]) == 0
        agent.with_snapshot()
        told = [(each["event"], each["uid"], each["descriptors"]) for each in proxy.events if "descriptors" in each]
        assert told == [("add", "a", 1), ("add", "b", 1), ("keep", "c", 0), ("snapshot", "", 0)]
        assert proxy.heard("add", "a")[0]["info"] == ["web-a", "shop", "default"]
        assert proxy.heard("snapshot")[0]["ready"]
        assert is_served(pod)
        assert is_served(other)
        state = agent.state
        assert (state.wanted, state.acknowledged, state.complete, state.socket) == (3, 2, True, "")
        (seen,) = state.proxies
        assert (seen.proxy.pid, seen.proxy.user, seen.newest, seen.version) == (proxy.process.pid, 0, True, 1)
        assert agent.call(lambda: agent.mesh.connected) == 1
        kept = agent.standing("c")
        assert isinstance(kept, Unanswered)
        assert "namespace isn't known" in kept.words
        assert json.loads(json.dumps(state.document()))["proxies"][0]["phase"] == "live"


def test_the_gauge_falls_when_the_proxy_goes(path: Path) -> None:
    with Agent(path) as agent:
        with MeshProxy(path):
            agent.with_snapshot()
        agent.eventually(lambda state: not state.proxies, "the proxy is gone")
        assert agent.call(lambda: agent.mesh.connected) == 0
        assert agent.state.problems == ()


def test_an_added_pod_is_served_and_a_deleted_one_is_not(path: Path, pod: Namespace) -> None:
    with Agent(path) as agent, MeshProxy(path) as proxy:
        agent.with_snapshot()
        said = agent.add("a", pod)
        assert isinstance(said, Acknowledged)
        assert said.proxy.pid == proxy.process.pid
        assert is_served(pod)
        assert agent.standing("a") == said
        assert agent.delete("a") == Released(proxies=(said.proxy,))
        eventually(lambda: not is_served(pod), "nobody listens")
        assert agent.standing("a") is None
        assert agent.changed == ["a", "a"]
        assert agent.measured == ["SnapshotSent", "Add", "Delete"]
        assert agent.mesh.counters.acknowledged == {"Add": 1, "Keep": 0, "Delete": 1, "SnapshotSent": 1}


def test_a_pod_that_is_served_is_not_added_again(path: Path, pod: Namespace) -> None:
    with Agent(path) as agent, MeshProxy(path) as proxy:
        agent.with_snapshot()
        first = agent.add("a", pod)
        assert agent.add("a", pod) == first
        agent.delete("unknown")
        assert len(proxy.heard("add")) == 1


def test_a_new_pod_is_served_before_all_others_are_known(path: Path, pod: Namespace, other: Namespace) -> None:
    with Agent(path, complete=False) as agent, MeshProxy(path) as proxy:
        assert isinstance(agent.add("new", pod), Acknowledged)
        assert is_served(pod)
        assert proxy.heard("snapshot") == []
        held = agent.delete("new", slow(0.1))
        assert isinstance(held, Unanswered)
        assert "before every pod of the node is known" in held.words
        assert proxy.heard("delete") == []
        # A list of pods that is older than the delete doesn't bring it back.
        agent.complete([("new", pod), ("old", other)])
        agent.with_snapshot()
        proxy.wait("delete", "new")
        assert proxy.uids("add") == ["new", "old"]
        eventually(lambda: not is_served(pod), "nobody listens")
        assert is_served(other)
        with pytest.raises(ValueError, match="known already"):
            agent.complete([])


def test_what_the_proxy_refuses_is_told_in_its_words_and_tried_again(path: Path, pod: Namespace) -> None:
    with Agent(path, patience=HURRIED) as agent, MeshProxy(path) as proxy:
        agent.with_snapshot()
        with pod.socket(socket.AF_INET6) as taken:
            taken.bind(("::", HBONE))
            taken.listen()
            said = agent.add("a", pod)
            assert isinstance(said, Refused)
            assert "listen on :: port 15008" in said.words
            assert agent.standing("a") == said
            assert agent.state.proxies[0].refused == {"a": said.words}
            proxy.wait("add", "a", times=3)
            assert agent.problems.count("refuses Add of pod/shop/web-a (a)") == 1
        eventually(lambda: isinstance(agent.standing("a"), Acknowledged), "it is served")
        assert is_served(pod)
        assert len(proxy.heard("connected")) == 1


def test_a_refused_pod_does_not_hold_up_the_snapshot_and_can_be_given_up(
    path: Path, pod: Namespace, other: Namespace
) -> None:
    with Agent(path, complete=False) as agent, MeshProxy(path) as proxy:
        proxy.tell("refuse", uid="bad", words="it is\nbroken")
        agent.complete([("bad", pod), ("good", other)])
        agent.with_snapshot()
        assert is_served(other)
        assert not proxy.heard("snapshot")[0]["ready"]
        assert isinstance(agent.standing("bad"), Refused)
        assert "it is\\nbroken" in agent.problems  # in one line
        assert isinstance(agent.delete("bad"), Released)
        assert proxy.wait("delete", "bad")["ready"]


def test_an_answer_that_never_comes_ends_the_connection_and_not_the_pod(path: Path, pod: Namespace) -> None:
    with Agent(path, patience=HURRIED) as agent, MeshProxy(path) as proxy:
        agent.with_snapshot()
        proxy.tell("silent", kinds=["add"])
        said = agent.add("a", pod, slow(0.1))
        assert isinstance(said, Unanswered)
        assert f"process {proxy.process.pid}" in said.words
        assert "Add of pod/shop/web-a (a)" in said.words
        proxy.wait("disconnected")
        assert "it has not answered Add of pod/shop/web-a (a) within" in agent.problems
        proxy.tell("silent", kinds=[])
        eventually(lambda: isinstance(agent.standing("a"), Acknowledged), "it is served after all")
        assert agent.mesh.counters.broken_connections >= 1


def test_a_late_answer_is_not_taken_for_another_request_s(path: Path, pod: Namespace, other: Namespace) -> None:
    patience = Patience(hello=slow(5), answer=slow(0.2), retry=slow(5), pause=slow(0.05))
    with Agent(path, patience=patience) as agent, MeshProxy(path) as proxy:
        agent.with_snapshot()
        proxy.tell("refuse", uid="bad", words="never")
        proxy.tell("late", seconds=slow(0.4))
        agent.want("good", other)
        proxy.wait("add", "good")
        agent.want("bad", pod)  # its answer would be the late one of the other
        proxy.wait("disconnected")
        proxy.tell("late", seconds=0)
        eventually(lambda: isinstance(agent.standing("bad"), Refused), "it is refused")
        assert isinstance(agent.standing("good"), Acknowledged)


def test_a_late_answer_in_time_is_an_answer(path: Path, pod: Namespace) -> None:
    with Agent(path) as agent, MeshProxy(path) as proxy:
        agent.with_snapshot()
        proxy.tell("late", seconds=0.3)
        assert isinstance(agent.add("a", pod), Acknowledged)
        assert len(proxy.heard("connected")) == 1


def test_without_a_proxy_a_pod_waits_and_is_served_when_one_comes(path: Path, pod: Namespace) -> None:
    with Agent(path) as agent:
        missing = Unanswered(words=f"no proxy is connected to {path}")
        assert agent.add("a", pod, 0.05) == missing
        assert agent.standing("a") == missing
        assert agent.state.wanted == 1
        thread, result = in_background(lambda: agent.add("a", pod))
        with MeshProxy(path) as proxy:
            thread.join(slow(10))
            assert isinstance(result[0], Acknowledged)
            assert proxy.uids("add") == ["a"]
        assert agent.delete("a") == Released(proxies=())


def test_a_proxy_that_dies_is_followed_by_another_s_answer(path: Path, pod: Namespace) -> None:
    with Agent(path) as agent:
        with MeshProxy(path) as first:
            agent.with_snapshot()
            first.tell("silent", kinds=["add"])
            thread, result = in_background(lambda: agent.add("a", pod))
            first.wait("add", "a")
        with MeshProxy(path) as second:
            thread.join(slow(10))
            (said,) = result
            assert isinstance(said, Acknowledged)
            assert said.proxy.pid == second.process.pid


def test_a_proxy_that_says_nothing_is_let_go_of(path: Path, pod: Namespace) -> None:
    with Agent(path, patience=HURRIED) as agent, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as mute:
        mute.connect(str(path))
        agent.eventually(lambda state: state.proxies, "it is connected")
        (seen,) = agent.state.proxies
        assert seen.phase is Phase.GREETING
        assert agent.call(lambda: agent.mesh.connected) == 0
        said = agent.add("a", pod, 0.01)
        assert isinstance(said, Unanswered)
        assert "not said hello" in said.words
        mute.settimeout(slow(5))
        assert mute.recv(100) == b""
        assert "it has not said hello within" in agent.problems


def test_a_kept_pod_is_served_when_its_namespace_is_found(path: Path, pod: Namespace) -> None:
    with Agent(path) as agent, MeshProxy(path) as proxy:
        agent.with_snapshot()
        agent.call(agent.mesh.keep, "a")
        standing = agent.standing("a")
        assert isinstance(standing, Unanswered)
        assert "namespace isn't known" in standing.words
        assert isinstance(agent.add("a", pod), Acknowledged)
        agent.call(agent.mesh.keep, "a")
        assert isinstance(agent.standing("a"), Acknowledged)
        assert proxy.heard("keep") == []  # after the snapshot it would end the proxy


def test_whoever_waits_hears_of_a_newer_wish(path: Path, pod: Namespace) -> None:
    with Agent(path) as agent, MeshProxy(path) as proxy:
        agent.with_snapshot()
        proxy.tell("silent", kinds=["add", "delete"])
        thread, result = in_background(lambda: agent.add("a", pod))
        proxy.wait("add", "a")
        deleting, deleted = in_background(lambda: agent.delete("a"))
        thread.join(slow(10))
        assert result == [Unanswered(words="the pod was deleted meanwhile")]
        agent.want("a", pod)
        deleting.join(slow(10))
        assert deleted == [Unanswered(words="pod/shop/web-a is wanted again")]


def test_another_sandbox_of_a_pod_replaces_the_first(path: Path, pod: Namespace, other: Namespace) -> None:
    with Agent(path) as agent, MeshProxy(path):
        agent.with_snapshot()
        agent.add("a", pod)
        assert isinstance(agent.add("a", other), Acknowledged)
        assert is_served(other)
        eventually(lambda: not is_served(pod), "the old one is let go of")


def test_a_uid_with_other_names_is_refused_before_it_is_sent(path: Path, pod: Namespace) -> None:
    with Agent(path) as agent, MeshProxy(path):
        agent.with_snapshot()
        agent.add("a", pod)
        renamed = Workload(uid="a", namespace="shop", name="web-a", service_account="admin")
        with descriptor(pod) as opened, pytest.raises(TargetError, match="service account 'default'"):
            agent.call(agent.mesh.want, renamed, opened)
