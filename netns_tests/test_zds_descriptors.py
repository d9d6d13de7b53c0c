"""Descriptors: of what is no pod's namespace, of what is gone, too many, and none that is lost."""

import os
import resource
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.errors import KernelError, NodeNamespace, NotANamespace, TargetError
from agent.kernel.netns import node_namespace
from agent.mesh.connection import Patience
from netns_tests.mesh_proxy_process import Agent, MeshProxy, descriptor, workload
from netns_tests.mesh_proxy_rules import decode, hello
from netns_tests.namespace import Namespace
from netns_tests.patience import slow
from netns_tests.world import eventually

HURRIED = Patience(hello=slow(0.3), answer=slow(0.3), retry=slow(0.1), pause=slow(0.1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ztunnel.sock"


@pytest.fixture
def pod(stack: ExitStack) -> Namespace:
    return stack.enter_context(Namespace.create("zds"))


def descriptors() -> list[str]:
    """Return what this process has open, but for the listing itself."""
    found = []
    for each in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{each}"))
        except FileNotFoundError:
            pass
    return sorted(each.partition(":[")[0] for each in found)


def opened(namespace: Namespace) -> int:
    """Return how many descriptors of a namespace this process has."""
    return descriptors().count(str(namespace.path))


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (Path("/dev/null"), NotANamespace, "pod/shop/web-a: the descriptor given .* is no network namespace"),
        (Path("/proc/self/ns/mnt"), NotANamespace, "is no network namespace"),
        (node_namespace(), NodeNamespace, "pod/shop/web-a: its namespace turns out to be the node's own"),
    ],
    ids=["file", "mnt", "node"],
)
def test_what_is_no_pod_s_namespace_is_never_sent(
    path: Path, wrong: Path, error: type[TargetError], words: str
) -> None:
    with Agent(path) as agent, MeshProxy(path) as proxy:
        agent.with_snapshot()
        with descriptor(wrong) as given, pytest.raises(error, match=words):
            agent.call(agent.mesh.want, workload("a"), given)
        with pytest.raises(NotANamespace, match="is no network namespace"):
            agent.call(agent.mesh.want, workload("a"), 1 << 20)  # nobody's
        assert agent.standing("a") is None
        agent.delete("a")
        assert proxy.heard("add") == []


def test_a_pod_whose_namespace_is_gone_is_kept_and_not_left_out(path: Path, pod: Namespace) -> None:
    # What is left where a namespace was mounted is an empty file.
    gone = Namespace.create("gone")
    with Agent(path, complete=False) as agent, MeshProxy(path, "--no-listeners") as proxy:
        with descriptor(pod) as good:
            gone.delete()
            gone.path.touch()
            try:
                with descriptor(gone) as bad:
                    unusable = agent.call(agent.mesh.complete, [(workload("gone"), bad), (workload("good"), good)])
            finally:
                gone.path.unlink()
        ((pod_, error),) = unusable
        assert (pod_.uid, type(error)) == ("gone", NotANamespace)
        agent.with_snapshot()
        assert (proxy.uids("keep"), proxy.uids("add")) == (["gone"], ["good"])
        assert proxy.heard("snapshot")[0]["ready"]


def test_a_namespace_is_let_go_of_as_soon_as_its_pod_is_deleted(path: Path, pod: Namespace) -> None:
    with Agent(path) as agent:
        agent.want("a", pod)
        assert opened(pod) == 1
        agent.delete("a", 0.01)
        assert opened(pod) == 0
        agent.want("a", pod)
    assert opened(pod) == 0


def test_no_descriptor_is_lost_over_a_thousand_pods(path: Path, stack: ExitStack) -> None:
    pods = [stack.enter_context(Namespace.create("zds")) for _ in range(4)]
    with Agent(path) as agent, MeshProxy(path, "--no-listeners", "--longest-wait=0.02") as proxy:
        agent.with_snapshot()
        before = descriptors()
        theirs = len(os.listdir(f"/proc/{proxy.process.pid}/fd"))
        for number in range(1000):
            uid = f"pod-{number}"
            if number % 100 == 50:  # in the middle of it
                agent.want(uid, pods[0])
                proxy.tell("reconnect")
            agent.add(uid, pods[number % 4])
            if number % 3 == 0:
                agent.want(uid, pods[(number + 1) % 4])
            agent.delete(uid)
        agent.with_snapshot()
        eventually(lambda: descriptors() == before, "nothing is left open")
        assert agent.state.wanted == 0
        eventually(lambda: len(os.listdir(f"/proc/{proxy.process.pid}/fd")) == theirs, "nor in the proxy")
        assert proxy.heard("exit") == []
    assert [opened(each) for each in pods] == [0] * 4


def test_five_hundred_pods_are_in_the_snapshot(path: Path, pod: Namespace, capsys: pytest.CaptureFixture[str]) -> None:
    count = 500
    with Agent(path, complete=False) as agent, MeshProxy(path, "--no-listeners") as proxy:
        proxy.wait("connected")
        started = time.monotonic()
        agent.complete([(f"pod-{number}", pod) for number in range(count)])
        agent.with_snapshot()
        seconds = time.monotonic() - started
        assert (len(proxy.heard("add")), agent.state.acknowledged) == (count, count)
        with capsys.disabled():
            print(f"\n{count} pods and the snapshot: {seconds * 1000:.0f} ms, with a proxy written in Python")


def test_descriptors_that_a_peer_sends_are_not_kept(path: Path) -> None:
    with Agent(path, patience=HURRIED) as agent:
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer,
            open("/dev/null", "rb") as null,
        ):
            peer.settimeout(slow(5))
            peer.connect(str(path))
            before = descriptors().count("/dev/null")
            socket.send_fds(peer, [hello()], [null.fileno()] * 5)
            assert peer.recv(100) == b""
            assert descriptors().count("/dev/null") == before
        assert "it sent descriptors" in agent.problems


def test_without_a_free_descriptor_a_proxy_waits_at_the_door(path: Path, pod: Namespace) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Agent(path, patience=HURRIED) as agent, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        agent.want("a", pod)
        taken = os.open("/dev/null", os.O_RDONLY)  # the lowest free number
        os.close(taken)
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken, hard))
        try:
            used = time.process_time()
            peer.connect(str(path))
            agent.eventually(lambda state: "no proxy can be let in: Too many open files" in state.socket, "it is said")
            with pytest.raises(KernelError, match="Too many open files") as caught:
                agent.call(agent.mesh.want, workload("b"), peer.fileno())
            assert "LimitNOFILE" in caught.value.hint
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert time.process_time() - used < slow(1)  # nothing is tried without end
        peer.settimeout(slow(5))
        peer.send(hello())
        assert decode(peer.recv(2000)).uid == "a"
