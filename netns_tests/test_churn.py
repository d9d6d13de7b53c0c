"""A thousand namespaces that come and go leave nothing behind: no descriptor, no memory, no namespace that is held."""

import resource
import signal
import statistics
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.kernel.tablequery import table_state
from netns_tests.daemon import Daemon, appear, links, rules, targets, tie, vanish
from netns_tests.enrolling import slow
from netns_tests.kernel_tables import opened
from netns_tests.namespace import Namespace
from netns_tests.world import eventually
from rulesets.netlink import OWNED
from rulesets.pod import POD_TABLE

AT_ONCE, ROUNDS = 100, 10
# What 1,000 namespaces may leave in bytes: allocators keep pieces. One that stays known is 10 KB, so 10 MB in all.
SLACK = 6 << 20
MANY, SOFT, HARD = 300, 1024, 65536


def at_rest(daemon: Daemon) -> int:
    """How many descriptors it has when it does nothing."""
    counts = []
    for _ in range(20):
        counts.append(len(daemon.descriptors()))
        time.sleep(0.02)
    return min(counts)


def captured(daemon: Daemon) -> int:
    """How many targets the daemon says are captured."""
    return sum(state in ("degraded", "unchanged", "applied") for state in daemon.states().values())


def owned(namespace: Namespace) -> bool:
    with opened(namespace) as netlink:
        found = table_state(netlink, POD_TABLE)
    return found is not None and found.flags == OWNED


@pytest.mark.timeout(400)
def test_a_thousand_namespaces_leave_nothing_behind(tmp_path: Path) -> None:
    with ExitStack() as stack:
        peer = stack.enter_context(Namespace.create("peer"))
        pods = [stack.enter_context(Namespace.create("pod")) for _ in range(AT_ONCE)]
        for each in pods:
            vanish(each)
        daemon = stack.enter_context(Daemon(tmp_path, targets(pods))).start()

        def one_round() -> None:
            for each in pods:
                appear(each)
            tie(peer, pods)
            daemon.eventually(lambda: captured(daemon) == AT_ONCE, "all are captured")
            assert all(owned(each) and "nat-out" in rules(each) for each in pods[::20])
            for each in pods:
                vanish(each)
            eventually(lambda: not links(peer), "the namespaces are really gone", slow(20))
            daemon.eventually(lambda: captured(daemon) == 0, "the daemon knows it")

        for _ in range(2):  # pools, caches and arenas find their size
            one_round()
        descriptors, memory = at_rest(daemon), daemon.memory()
        for _ in range(ROUNDS):
            one_round()
        daemon.eventually(lambda: at_rest(daemon) <= descriptors, "as many descriptors as before")
        grown = daemon.memory() - memory
        print(f"{AT_ONCE * ROUNDS} namespaces: {grown / 1024:.0f} KiB more")
        assert grown < SLACK
        daemon.eventually(lambda: not list((daemon.directory / "locks").iterdir()), "no lock is left behind")
        # One alone, as a pod that goes: nothing of the daemon keeps it.
        seconds = []
        for number in range(5):
            appear(pods[number])
            tie(peer, pods[number : number + 1])
            daemon.eventually(lambda: captured(daemon) == 1, "it is captured")
            vanish(pods[number])
            began = time.monotonic()
            eventually(lambda: not links(peer), "it is really gone", slow(20))
            seconds.append(time.monotonic() - began)
        print(f"gone after {', '.join(f'{each * 1000:.0f}' for each in seconds)} ms")
        assert statistics.median(seconds) < slow(1.0)


@pytest.mark.timeout(200)
def test_three_hundred_namespaces_at_a_soft_limit_of_a_thousand_files(tmp_path: Path) -> None:
    with ExitStack() as stack:
        pods = [stack.enter_context(Namespace.create("pod")) for _ in range(MANY)]
        daemon = stack.enter_context(Daemon(tmp_path, targets(pods)))
        hard = min(HARD, resource.getrlimit(resource.RLIMIT_NOFILE)[1])  # more needs CAP_SYS_RESOURCE
        argv = ("prlimit", f"--nofile={SOFT}:{hard}", *daemon.weir.argv("daemon", "--file", str(daemon.file)))
        with daemon.log_file.open("ab") as log:
            daemon.process = subprocess.Popen(
                [*argv, "--listen", f"unix:{daemon.http}"],
                env=daemon.weir.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        daemon.eventually(daemon.client.is_there, "the daemon listens")
        daemon.eventually(lambda: captured(daemon) == MANY, "all are captured", 60)
        assert resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE) == (hard, hard)
        assert len(daemon.descriptors()) > SOFT
        assert all(owned(each) for each in pods[::30])
        assert "Too many open files" not in daemon.log
        for each in pods[: MANY // 2]:
            vanish(each)
        daemon.eventually(lambda: captured(daemon) == MANY // 2, "half are gone")
        daemon.eventually(lambda: at_rest(daemon) < SOFT, "what was open is closed")
        assert daemon.end(signal.SIGTERM) == 0
        assert all("nat-out" in rules(each) for each in pods[MANY // 2 :: 30])
