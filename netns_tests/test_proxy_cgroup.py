"""A proxy that is told by its cgroup: whose connections stay outside, and what a restart of its service does."""

import contextlib
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.kernel import cgroups
from agent.targets import State
from netns_tests.cgroup import Cgroup, entering
from netns_tests.clients import exchange
from netns_tests.command import Command
from netns_tests.daemon import Daemon, targets
from netns_tests.enrolling import Weir, alive, every_way, kernel_state, slow, ways
from netns_tests.proxy import Proxy
from netns_tests.proxy_process import ProxyProcess
from netns_tests.servers import EchoServer
from netns_tests.world import Host, World, eventually
from rulesets.vocabulary import SocketCgroup

CAPTURED, DIRECT = ["captured"] * 4, ["direct"] * 4
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5).close()"


@pytest.fixture
def cgroup(root: None) -> Iterator[Cgroup]:
    with Cgroup() as made:
        yield made


def told_by(weir: Weir) -> list[SocketCgroup]:
    """Return what the table in the kernel tells the proxy by, if by cgroups."""
    found = weir.call(weir.handle.read, "weir-pod")
    rules = found.rules() if found else ()
    return [each for rule in rules for each in rule.matches if isinstance(each, SocketCgroup)]


def times_captured(proxy: ProxyProcess, port: int) -> int:
    return sum(each.original[1] == port for each in proxy.captured)


def watches(daemon: Daemon) -> int:
    return daemon.descriptors().count("anon_inode:inotify")


def restart(cgroup: Cgroup) -> int:
    """Make the cgroup anew, as a restarted service gets one; return its number."""
    before = cgroup.number
    cgroup.remove()
    cgroup.make()
    assert cgroup.number != before
    return cgroup.number


def test_the_proxys_connections_stay_outside_and_others_are_captured(
    world: World, pod: Host, weir: Weir, cgroup: Cgroup
) -> None:
    with ProxyProcess(pod, mark=None, cgroup=cgroup.directory) as proxy, EchoServer(world.outside) as server:
        came = weir.capture(proxy_cgroup=cgroup.path)
        assert (came.state, came.read_back, came.captured) == (State.APPLIED, True, True), came.reason
        assert told_by(weir) == [SocketCgroup(level=2, cgroup=cgroup.number)]
        assert ways(world, pod) == CAPTURED
        # Another process of the same user is captured, unless it runs in the cgroup, or in one below it.
        script = (sys.executable, "-c", CONNECT, world.outside.v4, str(server.port))
        pod.command(*script)
        below = cgroup.directory / "worker"
        below.mkdir()
        for directory in (cgroup.directory, below):
            pod.command(*entering(directory), *script)
        below.rmdir()
        pod.command(*entering(cgroup.directory.parent), *script)
        assert weir.capture(proxy_cgroup=cgroup.path).state is State.UNCHANGED
    # Each once: the proxy never got a connection of its own.
    assert (len(proxy.captured), times_captured(proxy, server.port)) == (4 + 2, 2)
    assert weir.remove().state is State.REMOVED
    assert ways(world, pod) == DIRECT


def test_streams_outlive_a_release_with_a_proxy_told_by_its_cgroup(
    world: World, pod: Host, weir: Weir, cgroup: Cgroup, stack: ExitStack
) -> None:
    with ProxyProcess(pod, mark=None, cgroup=cgroup.directory):
        weir.capture(proxy_cgroup=cgroup.path)
        streams = every_way(stack, world, pod)
        assert weir.remove(drain=60).state is State.DRAINING
        assert told_by(weir) == [SocketCgroup(level=2, cgroup=cgroup.number)]
        assert ways(world, pod) == DIRECT
        assert alive(streams) == ["alive"] * 4
        for stream in streams:
            assert stream.finish()
        assert weir.remove_until_done(60).state is State.REMOVED


def test_a_service_that_starts_again_is_told_again_after_a_pass(
    world: World, pod: Host, weir: Weir, cgroup: Cgroup
) -> None:
    with ProxyProcess(pod, mark=None, cgroup=cgroup.directory):
        weir.capture(proxy_cgroup=cgroup.path)
    old = cgroup.number
    cgroup.remove()
    stopped = weir.capture(proxy_cgroup=cgroup.path)
    assert (stopped.state, bool(stopped.plan)) == (State.DEGRADED, False)  # nothing is written for a stop
    assert f"there is no cgroup {cgroup.path!r} (proxy_cgroup)" in stopped.reason
    assert told_by(weir) == [SocketCgroup(level=2, cgroup=old)]
    assert ways(world, pod)[::2] == ["refused"] * 2

    cgroup.make()
    assert cgroup.number != old
    with ProxyProcess(pod, mark=None, cgroup=cgroup.directory) as proxy:
        # What the setting's help says: until Weir has noticed, the proxy's own connections come back to it.
        with contextlib.suppress(OSError):
            exchange(pod, (world.outside.v4, 4), timeout=0.05)
        eventually(lambda: len(proxy.captured) > 1, "it got a connection of its own")
        again = weir.capture(proxy_cgroup=cgroup.path)
        assert (again.state, again.read_back) == (State.APPLIED, True)
        assert again.plan is not None
        told = [each.what.partition(" counter")[0] for each in again.plan.rules.changes()]
        assert told == [f"socket cgroupv2 level 2 {old}", f"socket cgroupv2 level 2 {cgroup.number}"]
        with EchoServer(world.outside) as server:
            assert not exchange(pod, (world.outside.v4, server.port)).direct
    assert times_captured(proxy, server.port) == 1


def test_nothing_is_written_before_the_cgroup_is_there(world: World, pod: Host, weir: Weir) -> None:
    cgroup = Cgroup()
    before = kernel_state(pod)
    waiting = f"there is no cgroup {cgroup.path!r} (proxy_cgroup)"
    absent = weir.capture(proxy_cgroup=cgroup.path)
    assert (absent.state, absent.reason) == (State.WAITING, waiting)
    assert "/proc/PID/cgroup" in absent.hint
    with Proxy(pod):
        # It listens, so it is another cgroup's: to capture it would send its connections back to it without end.
        for when_proxy_absent in ("wait", "capture"):
            came = weir.capture(proxy_cgroup=cgroup.path, when_proxy_absent=when_proxy_absent)
            assert (came.state, came.reason) == (State.WAITING, waiting)
        assert kernel_state(pod) == before
        # Nor are rules that know it by its mark taken away.
        assert weir.capture().state is State.APPLIED
        assert weir.capture(proxy_cgroup=cgroup.path).state is State.WAITING
        assert ways(world, pod) == CAPTURED
        weir.remove()
    closed = weir.capture(proxy_cgroup=cgroup.path, when_proxy_absent="capture")
    assert closed.state is State.DEGRADED
    assert waiting in closed.reason
    assert ways(world, pod)[::2] == ["refused"] * 2  # no process can be in it, so there is nobody to tell apart
    with cgroup, ProxyProcess(pod, mark=None, cgroup=cgroup.directory):
        assert weir.capture(proxy_cgroup=cgroup.path, when_proxy_absent="capture").state is State.APPLIED
        assert ways(world, pod) == CAPTURED


def test_what_looks_says_so_too(pod: Host, cgroup: Cgroup, tmp_path: Path) -> None:
    weir = Command(tmp_path)
    chosen = ("--netns", pod.name, "--set", f"proxy_cgroup='{cgroup.path}'")
    assert f"socket cgroupv2 level 2 {cgroup.number} counter" in weir("diff", *chosen).out
    cgroup.remove()
    missing = f"there is no cgroup {cgroup.path!r} (proxy_cgroup)"
    verified = weir.json("verify", *chosen)
    assert verified.code == 1
    assert (verified.target["state"], verified.target["reason"]) == ("waiting", missing)
    assert missing in next(each["said"] for each in verified.target["checks"] if each["check"] == "proxy")
    assert weir("apply", *chosen).code == 1


def test_the_daemon_notices_by_itself(world: World, pod: Host, tmp_path: Path) -> None:
    cgroup = Cgroup()
    text = targets([pod], f"dns = false\nproxy_cgroup = '{cgroup.path}'")
    with Daemon(tmp_path, text, "--resync", "36000") as daemon, Weir(pod, tmp_path) as weir:
        daemon.start()
        assert daemon.state("t0") == "waiting"

        def told() -> bool:
            return [SocketCgroup(level=2, cgroup=cgroup.number)] == told_by(weir)

        with cgroup:
            with ProxyProcess(pod, mark=None, cgroup=cgroup.directory):
                daemon.eventually(lambda: daemon.state("t0") == "unchanged", "it is captured")
                assert ways(world, pod) == CAPTURED
            took = []
            for _ in range(4):
                began = time.monotonic()
                restart(cgroup)
                daemon.eventually(told, "the rule has the new number")
                took.append(time.monotonic() - began)
                with ProxyProcess(pod, mark=None, cgroup=cgroup.directory) as proxy:
                    assert ways(world, pod) == CAPTURED
                assert len(proxy.captured) == 4
            assert min(took) < slow(0.5), took  # it is told: looking now and then takes a second
            cgroup.remove()
            cgroup.directory.parent.rmdir()  # a slice goes with its last service
            cgroup.make()
            daemon.eventually(told, "the rule has the new number")
            watching = watches(daemon)
            daemon.rewrite(targets([pod], "dns = false"))
            daemon.eventually(lambda: daemon.state("t0") == "degraded" and not told_by(weir), "told by its mark")
            daemon.eventually(lambda: watches(daemon) == watching - 1, "the cgroup is watched no more", slow(5))


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ("umount {root}", "no cgroup2 is mounted here, only cgroup v1, whose groups rules can't tell apart"),
        ("umount {root} && umount -R -l /sys/fs/cgroup", "no cgroup2 is mounted here\n"),
        ('exec unshare --cgroup "$@"', "from inside a cgroup namespace"),
    ],
    ids=["v1 only", "none", "in a cgroup namespace"],
)
def test_a_machine_that_cant_is_refused_with_the_reason(
    pod: Host, cgroup: Cgroup, tmp_path: Path, without: str, said: str
) -> None:
    before = kernel_state(pod)
    script = f'{without.format(root=cgroups.root())}; exec "$@"'
    weir = Command(tmp_path, prefix=("unshare", "--mount", "sh", "-ec", script, "sh"))
    done = weir("apply", "--netns", pod.name, "--set", f"proxy_cgroup='{cgroup.path}'")
    assert done.code == 2
    assert f"proxy_cgroup = {cgroup.path!r}: " in done.out + done.err
    assert said in done.out + done.err
    assert kernel_state(pod) == before
