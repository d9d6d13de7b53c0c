"""Namespaces that come and go, under one name or many; and the newest wish wins."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from netns_tests.daemon import CAPTURE, Daemon, appear, is_clean, links, rules, targets, tie, vanish
from netns_tests.namespace import Namespace
from netns_tests.world import eventually


@pytest.fixture
def pod() -> Iterator[Namespace]:
    with Namespace.create("pod") as made:
        yield made


def has_rules(namespace: Namespace) -> bool:
    return "nat-out" in rules(namespace)


@pytest.mark.timeout(240)
def at_rest(daemon: Daemon) -> int:
    """How many descriptors it has when it does nothing: what a pass opens and closes again comes on top."""
    counts = []
    for _ in range(20):
        counts.append(len(daemon.descriptors()))
        time.sleep(0.05)
    return min(counts)


def test_nothing_grows_over_many_namespaces(tmp_path: Path) -> None:
    with ExitStack() as stack:
        pods = [stack.enter_context(Namespace.create("pod")) for _ in range(10)]
        daemon = stack.enter_context(Daemon(tmp_path, targets(pods))).start()

        def cycle() -> None:
            for pod in pods:
                vanish(pod)
            for pod in pods:
                appear(pod)
            daemon.eventually(lambda: all(map(has_rules, pods)), "the new namespaces are captured")

        for _ in range(8):  # warm-up: pools, caches and arenas find their size
            cycle()
        daemon.eventually(lambda: len(daemon.descriptors()) < 100, "what was open is closed")
        descriptors, memory = at_rest(daemon), daemon.memory()
        for _ in range(22):
            cycle()
        daemon.eventually(lambda: len(daemon.descriptors()) <= descriptors, "as many descriptors as before")
        # 220 namespaces: one that stays open, with what libnftables keeps for it, is about 0.8 MB.
        assert daemon.memory() - memory < 12 << 20
        daemon.eventually(
            lambda: not [each for each in daemon.descriptors() if "deleted" in each], "nothing deleted is open"
        )
        daemon.eventually(lambda: not list((daemon.directory / "locks").iterdir()), "no lock is left behind")


def test_a_name_that_changes_its_namespace_quickly(tmp_path: Path, pod: Namespace) -> None:
    with Namespace.create("peer") as peer, Daemon(tmp_path, targets([pod])) as daemon:
        daemon.start()
        for round_ in range(25):
            vanish(pod)
            appear(pod)
            if round_ % 3 == 0:
                peer.ip(f"link add l{round_} type veth peer name eth0 netns {pod.name}")
            time.sleep(0.02 * (round_ % 4))
        daemon.eventually(lambda: has_rules(pod) and daemon.state("t0") == "degraded", "the last one is captured")
        eventually(lambda: links(peer) <= {"l24"}, "the others are gone", 10)
        vanish(pod)
        daemon.eventually(lambda: daemon.state("t0") == "waiting", "it waits for the namespace")
        assert "does not exist" in daemon.target("t0")["reason"]
        appear(pod)
        daemon.eventually(lambda: has_rules(pod), "it came again")


def test_a_process_and_a_path_are_kept_no_longer_than_they_last(tmp_path: Path) -> None:
    with ExitStack() as stack:
        peer, one, other = (stack.enter_context(Namespace.create(name)) for name in ("peer", "one", "other"))
        tie(peer, [one, other])
        process = one.spawn(["sleep", "1000"])
        file = targets([("process", f"pid:{process.pid}"), ("path", str(other.path)), ("none", "pid:4194304")])
        daemon = stack.enter_context(Daemon(tmp_path, file)).start()
        assert has_rules(one)
        assert has_rules(other)
        assert daemon.state("none") == "waiting"
        vanish(one)
        time.sleep(1.5)
        assert daemon.state("process") == "degraded", "the process still keeps its namespace"
        process.kill()
        process.wait()
        eventually(lambda: links(peer) == {"l1"}, "the namespace went with its process", 10)
        vanish(other)
        eventually(lambda: not links(peer), "the namespace went with its path", 10)
        daemon.eventually(lambda: daemon.state("process") == "waiting", "the process is gone")


def test_the_newest_wish_wins(tmp_path: Path, pod: Namespace) -> None:
    with Daemon(tmp_path, targets([pod])) as daemon:
        daemon.start()
        asked = []
        for wish in ("remove", "apply", "remove", "apply", "remove") * 3:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(daemon.directory / "weir.sock"))
            body = '{"targets": ["t0"], "drain": 0}'
            head = f"POST /v1/{wish} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
            connection.sendall(f"{head}\r\n\r\n{body}".encode())
            asked.append(connection)
            time.sleep(0.01)
        for connection in asked:
            connection.settimeout(20)
            assert b" 200 " in connection.recv(65536).partition(b"\r\n")[0]
            connection.close()
        daemon.eventually(lambda: is_clean(pod), "the last wish was to remove")
        time.sleep(0.5)
        assert is_clean(pod)
        (report,) = daemon.client.apply(("t0",))
        assert report.state == "degraded"
        assert has_rules(pod)
        daemon.client.remove(("t0",), 0)
        assert is_clean(pod), "the answer comes when it is so"


def test_two_names_of_one_namespace_are_told(tmp_path: Path, pod: Namespace) -> None:
    twice = targets([("name", pod.name), ("path", str(pod.path))])
    with Daemon(tmp_path, twice) as daemon:
        daemon.start()
        daemon.eventually(
            lambda: sorted(map(daemon.state, ("name", "path"))) == ["degraded", "failed"], "the second one is refused"
        )
        loser = next(name for name in ("name", "path") if daemon.state(name) == "failed")
        assert "is the namespace of target" in daemon.target(loser)["reason"]
        before = rules(pod)
        # The same namespace under another name, and under another target's name: nothing changes there.
        for names in ([("name", str(pod.path))], [("other", pod.name)], [("third", str(pod.path))]):
            daemon.rewrite(targets(names))
            name, netns = names[0]
            daemon.eventually(lambda: daemon.states() == {(name, netns): "degraded"}, "it is kept")  # noqa: B023
            assert rules(pod) == before
        daemon.rewrite(targets([("third", "wt-nowhere")], CAPTURE))
        daemon.eventually(lambda: is_clean(pod), "a target that means another namespace leaves the old one clean")
        daemon.eventually(lambda: daemon.state("third") == "waiting", "and waits for the new one")
