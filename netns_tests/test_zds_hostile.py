"""Peers that send what no proxy sends, or may not send anything."""

import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.mesh.connection import Patience
from agent.mesh.status import Acknowledged
from netns_tests.mesh_proxy_process import Agent, MeshProxy
from netns_tests.mesh_proxy_rules import answer, hello
from netns_tests.namespace import Namespace
from netns_tests.patience import slow

NOBODY = 65534
HURRIED = Patience(hello=slow(0.3), answer=slow(0.3), retry=slow(0.1), pause=slow(0.1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ztunnel.sock"


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Give a test a path that every user can reach."""
    with tempfile.TemporaryDirectory(prefix="weir-zds-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory, "ztunnel.sock")


@pytest.fixture
def pod(stack: ExitStack) -> Namespace:
    return stack.enter_context(Namespace.create("zds"))


def connected(path: Path) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    peer.settimeout(slow(5))
    peer.connect(str(path))
    return peer


@pytest.mark.parametrize(
    ("packet", "words"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "it sent what is no ZDS"),
        (b"\x08", "it sent what is no ZDS: a number without an end"),
        (b"\x0a\x00", "its first packet names no version"),
        (b"\x08" * 65537, "it sent a packet that is too long"),
        (os.urandom(1000).replace(b"\x08", b"\x09"), "it sent"),
    ],
    ids=["http", "cut off", "an answer", "too long", "noise"],
)
def test_a_peer_that_speaks_something_else_is_cut_off(path: Path, pod: Namespace, packet: bytes, words: str) -> None:
    with Agent(path, patience=HURRIED) as agent, connected(path) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        peer.send(packet)
        assert peer.recv(100) == b""
        assert words in agent.problems
        with MeshProxy(path):  # and nobody else is the worse for it
            agent.with_snapshot()
            assert isinstance(agent.add("a", pod), Acknowledged)


@pytest.mark.parametrize(
    ("packet", "words"),
    [
        (answer(), "it answered, and was asked nothing"),
        (hello(), "the packet is no acknowledgement"),
        (b"\x0a\x05\x0a", "a field of 5 bytes"),
    ],
    ids=["an answer to nothing", "hello again", "cut off"],
)
def test_a_proxy_that_speaks_out_of_turn_is_cut_off_and_comes_back(
    path: Path, pod: Namespace, packet: bytes, words: str
) -> None:
    with Agent(path, patience=HURRIED) as agent, MeshProxy(path) as proxy:
        agent.with_snapshot()
        agent.add("a", pod)
        proxy.tell("send", hex=packet.hex())
        proxy.wait("connected", times=2)
        agent.with_snapshot()
        assert words in agent.problems
        assert isinstance(agent.standing("a"), Acknowledged)
        assert agent.mesh.counters.broken_connections == 1


def test_a_proxy_that_fails_at_once_again_and_again_is_slowed_down(path: Path, pod: Namespace) -> None:
    with Agent(path, patience=Patience(pause=slow(0.2))) as agent, MeshProxy(path) as proxy:
        agent.with_snapshot()
        end = time.monotonic() + slow(1.0)
        tries = 0
        while time.monotonic() < end:
            with connected(path) as peer:
                tries += 1
                peer.send(b"\xff")
                assert peer.recv(100) == b""
        assert tries <= 6  # a fifth of a second each
        assert proxy.heard("disconnected") == []
        assert isinstance(agent.add("a", pod), Acknowledged)


def test_a_real_process_ends_where_ztunnel_does(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, MeshProxy(path) as proxy:
        listener.bind(str(path))
        listener.listen()
        connection, _ = listener.accept()
        with connection:
            for _ in range(2):
                connection.send(bytes.fromhex("1a00"))
            assert proxy.ended() == 1
    assert proxy.heard("exit")[0]["why"] == "a second SnapshotSent"


def test_peers_that_only_connect_leave_room_for_a_proxy(path: Path, pod: Namespace, stack: ExitStack) -> None:
    with Agent(path, patience=Patience(pause=0.05)) as agent:
        for _ in range(40):
            stack.enter_context(connected(path))
        with MeshProxy(path):
            assert isinstance(agent.add("a", pod, slow(20)), Acknowledged)
        assert len(agent.state.proxies) <= 32


def test_another_user_can_t_even_connect(open_path: Path, pod: Namespace) -> None:
    with Agent(open_path) as agent, MeshProxy(open_path, f"--user={NOBODY}", "--no-listeners") as foreign:
        time.sleep(0.2)  # it tries every few milliseconds
        assert foreign.heard("connected") == []
        assert agent.mesh.counters.connections == 0
        assert open_path.stat().st_mode & 0o777 == 0o600


def test_another_user_is_refused_in_words_and_told_nothing(open_path: Path, pod: Namespace) -> None:
    with Agent(open_path) as agent, MeshProxy(open_path) as proxy:
        agent.with_snapshot()
        open_path.chmod(0o666)
        with MeshProxy(open_path, f"--user={NOBODY}", "--no-listeners") as foreign:
            foreign.wait("connected")
            foreign.wait("disconnected")
            assert isinstance(agent.add("a", pod), Acknowledged)
            refusal = f"process {foreign.process.pid} of user {NOBODY} is refused: a proxy is of user 0"
            assert refusal in agent.problems
            assert [each["event"] for each in foreign.events if "descriptors" in each] == []
        assert proxy.uids("add") == ["a"]
        assert agent.mesh.counters.refused_connections >= 1
        assert agent.mesh.counters.connections == 1


def test_a_user_that_is_named_may_be_a_proxy(open_path: Path, pod: Namespace) -> None:
    users = frozenset({0, NOBODY})
    with Agent(open_path, users=users) as agent, MeshProxy(open_path, f"--user={NOBODY}", "--no-listeners"):
        agent.with_snapshot()
        said = agent.add("a", pod)
        assert isinstance(said, Acknowledged)
        assert said.proxy.user == NOBODY
