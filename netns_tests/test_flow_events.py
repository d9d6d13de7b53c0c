"""Targets that ask for their connections' beginnings and ends: what is counted, and what becomes of whom."""

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.kernel.conntrack import Conntrack
from netns_tests.daemon import Daemon, links, tie
from netns_tests.enrolling import every_way
from netns_tests.namespace import Namespace
from netns_tests.proxy import Proxy
from netns_tests.world import Host, World, eventually

SETTINGS = ("nf_conntrack_acct", "nf_conntrack_timestamp")
READ_ONLY = (
    'mount --make-rprivate / && mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$@"'
)
OBSERVED = 'observe = ["connections"]'


def text(host: Namespace, settings: str = OBSERVED) -> str:
    return f'[[target]]\nname = "pod"\nnetns = "{host.name}"\ndns = false\nwhen_proxy_absent = "capture"\n{settings}\n'


def settings(host: Namespace) -> list[str]:
    return [host.sysctl(f"net/netfilter/{name}") for name in SETTINGS]


def listeners(daemon: Daemon) -> list[int]:
    """The processes that the daemon has listening."""
    children = Path(f"/proc/{daemon.pid}/task").glob("*/children")
    return [int(each) for path in children for each in path.read_text().split()]


def has_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def events(daemon: Daemon) -> dict[str, float]:
    found = daemon.metrics()
    return {name: found.get(("weir_connection_events_total", (name, "pod")), 0.0) for name in ("new", "destroy")}


def forget(host: Namespace) -> None:
    """Have the kernel forget all connections once they have ended, which by itself it does in its own time."""

    def each_one() -> bool:
        with Conntrack() as conntrack:
            flows = conntrack.flows(socket.IPPROTO_TCP)
            over = all(flow.tcp_state in ("TIME_WAIT", "CLOSE") for flow in flows)
            return over and all(conntrack.delete(flow) for flow in flows)

    eventually(lambda: host.run(each_one), "all have ended", 30.0)


def flood(host: Namespace, rounds: int) -> int:
    """Make and forget connections; return how many."""
    host.command(sys.executable, "-m", "bench.flooding", str(rounds), "0", stdin="\n")
    return rounds * 200


@pytest.fixture
def daemon(pod: Host, tmp_path: Path) -> Iterator[Daemon]:
    with Proxy(pod), Daemon(tmp_path, text(pod)) as running:
        running.start()
        running.eventually(lambda: settings(pod) == ["1", "1"] and listeners(running), "it listens")
        yield running


def test_connections_that_end_are_measured_by_their_way(world: World, pod: Host, daemon: Daemon) -> None:
    began = time.monotonic()
    with ExitStack() as stack:
        for each in every_way(stack, world, pod):
            assert each.outcome() == "alive"
    forget(pod)

    def measured() -> bool:
        found = daemon.metrics()
        return found["weir_connection_seconds_count", ("captured", "pod")] == 4

    daemon.eventually(measured, "two captured each way")
    found = daemon.metrics()
    # From the first packet to the last, though the kernel keeps the entries of closed connections for two minutes more.
    assert 0 < found["weir_connection_seconds_sum", ("captured", "pod")] <= 4 * (time.monotonic() - began + 2)
    assert found["weir_connection_seconds_count", ("proxy", "pod")] == 2, "what came in to the proxy"
    for direction in ("original", "reply"):
        assert found["weir_connection_bytes_sum", (direction, "pod")] > 4 * 1024
        assert found["weir_connection_packets_total", (direction, "pod")] > 8
    assert found["weir_connection_events_lost_total", ("pod",)] == 0
    assert found["weir_connection_events_total", ("new", "pod")] >= 6
    assert found["weir_connection_listener_starts_total", ()] == 1


def test_what_cannot_be_turned_on_is_said_and_done_without(world: World, pod: Host, tmp_path: Path) -> None:
    through = ("unshare", "--mount", "sh", "-c", READ_ONLY, "sh")  # as systemd's ProtectKernelTunables= has it
    with Proxy(pod), Daemon(tmp_path, text(pod), through=through) as daemon:
        daemon.start()
        daemon.eventually(lambda: listeners(daemon), "it listens")
        daemon.eventually(lambda: "nf_conntrack_acct is off and can't be turned on" in daemon.log, "that is said")
        assert settings(pod) == ["0", "0"]
        with ExitStack() as stack:
            for each in every_way(stack, world, pod):
                assert each.outcome() == "alive"
        forget(pod)
        where = "weir_connection_seconds_count", ("captured", "pod")
        daemon.eventually(lambda: daemon.metrics()[where] == 4, "durations are measured from event to event")
        assert daemon.metrics()["weir_connection_unmeasured_total", ("pod", "bytes")] >= 4


def test_what_was_off_is_put_back_when_nobody_asks_any_more(pod: Host, tmp_path: Path) -> None:
    pod.sysctl("net/netfilter/nf_conntrack_acct", 1)  # somebody else's wish
    with Proxy(pod), Daemon(tmp_path, text(pod)) as daemon:
        daemon.start()
        daemon.eventually(lambda: settings(pod) == ["1", "1"] and listeners(daemon), "it listens")
        (listener,) = listeners(daemon)
        daemon.rewrite(text(pod, ""))
        daemon.eventually(lambda: settings(pod) == ["1", "0"], "what was off is off")
        daemon.eventually(lambda: has_gone(listener), "nobody listens")
        daemon.rewrite(text(pod))
        daemon.eventually(lambda: settings(pod) == ["1", "1"], "it listens again")
        daemon.end(signal.SIGKILL)
        assert settings(pod) == ["1", "1"]
        daemon.rewrite(text(pod, ""))
        daemon.start()
        daemon.eventually(lambda: settings(pod) == ["1", "0"], "what a killed one left is put back")


def test_the_process_that_listens_is_started_again_and_ends_with_the_agent(pod: Host, daemon: Daemon) -> None:
    many = flood(pod, 5)
    daemon.eventually(lambda: min(events(daemon).values()) >= many, "all are counted")
    (first,) = listeners(daemon)
    os.kill(first, signal.SIGKILL)
    daemon.eventually(lambda: [each for each in listeners(daemon) if each != first], "another one listens")
    daemon.eventually(lambda: daemon.metrics()["weir_connection_listener_starts_total", ()] == 2, "that is counted")
    assert min(events(daemon).values()) >= many, "what was counted goes on"

    def heard() -> bool:
        flood(pod, 1)
        return events(daemon)["new"] > many + 200

    daemon.eventually(heard, "it hears of more")
    (second,) = listeners(daemon)
    daemon.end(signal.SIGKILL)
    eventually(lambda: has_gone(second), "it has gone with the agent", 30.0)


def test_events_that_are_lost_are_counted_to_the_last(pod: Host, daemon: Daemon) -> None:
    before = events(daemon)
    (listener,) = listeners(daemon)
    os.kill(listener, signal.SIGSTOP)  # as where the machine is busy for longer than the kernel keeps events
    try:
        many = flood(pod, 200)
    finally:
        os.kill(listener, signal.SIGCONT)

    def all_told() -> bool:
        told = sum(events(daemon).values()) - sum(before.values())
        return told + daemon.metrics()["weir_connection_events_lost_total", ("pod",)] >= 2 * many

    daemon.eventually(all_told, "each is counted or told lost")
    assert daemon.metrics()["weir_connection_events_lost_total", ("pod",)] > 0


def test_a_namespace_that_goes_is_let_go(tmp_path: Path) -> None:
    with Namespace.create("peer") as peer, Namespace.create("gone") as gone:
        tie(peer, [gone])
        with Daemon(tmp_path, text(gone)) as daemon:
            daemon.start()
            daemon.eventually(lambda: settings(gone) == ["1", "1"] and listeners(daemon), "it listens")
            gone.delete()
            daemon.eventually(lambda: not links(peer), "the kernel has let it go")


def test_a_word_that_nobody_knows_is_refused(pod: Host, tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, text(pod, 'observe = ["conections"]'))
    done = daemon.weir("diff", "--file", str(daemon.file))
    assert done.code == 2
    assert "observe = 'conections': wants one of connections" in done.err
    assert "target 'pod'" in done.err
