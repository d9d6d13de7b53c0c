"""The test world itself: namespaces that answer at once, and that are gone afterwards whatever happened."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from netns_tests.namespace import NETNS_DIRECTORY, OWNERS_DIRECTORY
from netns_tests.syscalls import pin_new_namespace, sysctl, unpin
from netns_tests.traffic import EchoServer, exchange
from netns_tests.world import Host, Namespace, World, eventually, sweep

HERE = Path(__file__).parent.parent
NOBODY = 65534

# A world whose maker says what it is made of, and then waits to be killed.
CHILD = """
import signal
from netns_tests.world import World
with World(pods=1) as world:
    inside = world.pods[0].spawn(["sleep", "300"])
    print(inside.pid, world.node.name, world.outside.name, world.pods[0].name, flush=True)
    signal.pause()
"""


def start_child() -> tuple[subprocess.Popen[str], int, list[Path]]:
    """Return a process with a world of its own, the pid that sleeps in its pod, and the paths of its namespaces."""
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True, cwd=HERE)
    assert child.stdout is not None
    pid, *names = child.stdout.readline().split()
    return child, int(pid), [NETNS_DIRECTORY / name for name in names]


def end_child(child: subprocess.Popen[str], number: int) -> int:
    child.send_signal(number)
    assert child.stdout is not None
    child.stdout.close()
    return child.wait(10)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_every_address_answers_at_once(world: World, family: int) -> None:
    hosts = (*world.pods, world.outside, world.node)
    for target in hosts:
        with EchoServer(target) as server:
            for client in hosts:
                found = exchange(client, (target.address(family), server.port), timeout=1)
                assert found.direct
                assert found.echoed == b"ping"


def test_nothing_reaches_the_machines_own_namespace() -> None:
    before = Path("/proc/thread-self/net/dev").read_text().count(":"), Path("/proc/self/ns/net").stat().st_ino
    with World(pods=2) as world:
        world.pods[0].run(lambda: None)
        after = Path("/proc/thread-self/net/dev").read_text().count(":"), Path("/proc/self/ns/net").stat().st_ino
        assert after == before


def test_two_worlds_with_the_same_addresses_at_once() -> None:
    with World(pods=1) as one, World(pods=1) as other, EchoServer(one.outside) as server:
        target = (one.outside.v4, server.port)
        assert exchange(one.pods[0], target).direct
        with pytest.raises(ConnectionRefusedError):
            exchange(other.pods[0], target)


def test_run_returns_and_raises_what_the_function_does(pods: tuple[Host, ...]) -> None:
    main = threading.get_ident()
    assert pods[0].run(threading.get_ident) != main
    assert pods[0].run(lambda: Path("/proc/thread-self/ns/net").stat().st_ino) == pods[0].path.stat().st_ino
    with pytest.raises(ZeroDivisionError):
        pods[0].run(divmod, 1, 0)


def test_a_setting_belongs_to_one_namespace(pods: tuple[Host, ...]) -> None:
    name = "net/ipv6/conf/all/disable_ipv6"
    assert pods[0].sysctl(name, "1") == "1"
    assert pods[1].sysctl(name) == "0"
    assert sysctl(name) == Path("/proc/sys", name).read_text().strip()


def test_a_command_that_fails_says_what_was_run_and_what_was_said(pods: tuple[Host, ...]) -> None:
    with pytest.raises(RuntimeError, match=rf"ip netns exec {pods[0].name} nft -f -(.|\n)*nonsense(.|\n)*syntax error"):
        pods[0].nft("add nonsense")


def test_a_namespace_takes_its_processes_along() -> None:
    with Namespace.create("process") as namespace:
        process = namespace.spawn(["sleep", "300"], user=NOBODY)
        assert namespace.processes() == [process.pid]
        assert Path(f"/proc/{process.pid}").stat().st_uid == NOBODY
    assert process.returncode == -signal.SIGKILL
    assert not namespace.path.exists()


def test_names_are_unique_and_short_enough() -> None:
    with Namespace.create("a-prefix-that-is-much-too-long") as one, Namespace.create("x") as other:
        assert one.name.startswith(f"wt-{os.getpid()}-")
        assert len(one.name) <= 31
        assert one.name != other.name
        assert one.path.is_file()


def test_a_killed_run_is_swept_by_the_next() -> None:
    child, inside, paths = start_child()
    try:
        assert not {path.name for path in paths} & set(sweep())
        assert all(path.exists() for path in paths), "a run that lives must be left alone"
        assert runs(inside)
    finally:
        end_child(child, signal.SIGKILL)
    # From here on another test run on the machine may be the one that sweeps.
    with Namespace.create("alive") as alive:
        sweep()
        assert alive.path.exists()
    assert not any(path.exists() for path in paths)
    eventually(lambda: not runs(inside), "the orphan in the namespace is killed")
    assert not (OWNERS_DIRECTORY / str(child.pid)).exists()


def test_a_terminated_run_cleans_up_itself() -> None:
    child, inside, paths = start_child()
    assert end_child(child, signal.SIGTERM) == 128 + signal.SIGTERM
    assert not any(path.exists() for path in paths)
    assert not runs(inside)
    assert not (OWNERS_DIRECTORY / str(child.pid)).exists()


def test_a_reused_pid_does_not_save_the_dead_ones_namespace() -> None:
    with Namespace.create("maker") as maker:
        newcomer = maker.spawn(["sleep", "300"])
        path = NETNS_DIRECTORY / f"wt-{newcomer.pid}-1-stale"
        owner = OWNERS_DIRECTORY / str(newcomer.pid)
        owner.write_text("1")  # started one tick after boot: not the process that has the pid now
        try:
            maker.run(pin_new_namespace, path)
            sweep()
            assert not path.exists()
            assert not owner.exists()
            assert newcomer.poll() is None
        finally:
            owner.unlink(missing_ok=True)
            unpin(path)


def test_without_root_every_test_fails_and_none_is_skipped() -> None:
    # Another user, but one who may read a Python that is installed below /root.
    argv = ["setpriv", f"--reuid={NOBODY}", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    argv += [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", str(Path(__file__)), "-k", "names_are"]
    done = subprocess.run(argv, cwd=HERE, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "run them as root" in done.stdout
    assert "1 error" in done.stdout
