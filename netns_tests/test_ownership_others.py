"""Another process owns the table: it is named, nothing is touched, and all is put right when it goes."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from netns_tests.command import Command
from netns_tests.daemon import Daemon, rules, targets
from netns_tests.enrolling import kernel_state, slow, ways
from netns_tests.proxy import Proxy
from netns_tests.rivals import owner_of, tables
from netns_tests.test_ownership import FULL, OWNED, flags, kept, table
from netns_tests.world import Host, World, eventually

CAPTURED = ["captured"] * 4
THEIRS = """add chain inet weir-pod theirs { type filter hook input priority 0; }
add rule inet weir-pod theirs tcp dport 7 drop"""
IN_A_TREE_OF_ITS_OWN = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
# Another Weir, with the very rules that are wanted, or with others.
OTHER_WEIR = """
import sys
from agent.kernel.handle import Handle
from rulesets.netlink import OWNED
from agent.kernel.netns import Netns
from rulesets import pod
from rulesets.capture import Capture
from rulesets.diff import diff
handle = Handle(Netns(sys.argv[1]), flags=OWNED)
wanted = pod.build(Capture.parse({"exclude_outbound_ports": [9]} if sys.argv[2] == "other" else {}))
handle.apply(diff(handle.look("weir-pod"), wanted))
print("0 ", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def pod(world: World) -> Iterator[Host]:
    with Proxy(world.pods[0]):
        yield world.pods[0]


@pytest.fixture
def weir(tmp_path: Path) -> Command:
    return Command(tmp_path / "run")


@pytest.fixture
def daemon(pod: Host, tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path, targets([pod], FULL)) as made:
        yield made


def whose(pod: Host) -> int:
    found = table(pod)
    assert found is not None
    return found.owner


def comm(process: int | str) -> str:
    return Path(f"/proc/{process}/comm").read_text().strip()


def named(said: str, pod: Host, process: int, name: str) -> None:
    assert f"table inet weir-pod is owned by process {process} ({name}), netlink port {whose(pod)}" in said


def test_commands_name_an_interactive_nft_that_owns_the_table(world: World, pod: Host, weir: Command) -> None:
    nft = pod.spawn(["nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert nft.stdin is not None
    nft.stdin.write(f"add table inet weir-pod {{ flags owner; }}\n{THEIRS}\n".encode())
    nft.stdin.flush()
    eventually(lambda: "dport 7" in rules(pod), "it has made its table")
    before = kernel_state(pod)
    for command in ("apply", "remove"):
        done = weir(command, "--netns", pod.name)
        assert done.code == 2
        named(done.out + done.err, pod, nft.pid, "nft")
        assert kernel_state(pod) == before
    assert weir("diff", "--netns", pod.name).code == 1
    assert weir("verify", "--netns", pod.name).code == 1
    done = weir("apply", "--netns", pod.name, "--confirm", "60", timeout=slow(30))
    assert (done.code, kernel_state(pod)) == (2, before)
    assert "holds what isn't Weir's" in done.out + done.err
    nft.stdin.close()
    nft.wait(20)
    eventually(lambda: "weir-pod" not in tables(pod), "the table goes with its owner")
    assert weir("apply", "--netns", pod.name).code == 0
    assert ways(world, pod) == CAPTURED


@pytest.mark.parametrize("ends", ["killed", "table deleted"])
def test_a_daemon_names_the_owner_and_captures_when_that_is_gone(
    world: World, pod: Host, daemon: Daemon, ends: str
) -> None:
    with owner_of(pod, "owner", THEIRS) as owner:
        before = kernel_state(pod)
        daemon.start()
        assert daemon.state("t0") == "failed"
        named(daemon.target("t0")["reason"], pod, owner.pid, comm(owner.pid))
        assert "weir confirm" not in daemon.target("t0")["hint"]
        assert kernel_state(pod) == before
        if ends == "killed":
            owner.send_signal(signal.SIGKILL)
            owner.wait()
            daemon.eventually(lambda: flags(pod) == OWNED, "it is captured")
        else:
            assert "is owned by process" in daemon.log
    kept(daemon)
    assert flags(pod) == OWNED
    assert ways(world, pod) == CAPTURED


def test_an_owner_in_another_tree_of_processes_has_the_number_that_it_has_here(pod: Host, weir: Command) -> None:
    with owner_of(pod, "owner", THEIRS, before=IN_A_TREE_OF_ITS_OWN) as unshared:
        (owner,) = Path(f"/proc/{unshared.pid}/task/{unshared.pid}/children").read_text().split()
        done = weir("apply", "--netns", pod.name)
        assert done.code == 2
        named(done.out + done.err, pod, int(owner), comm(owner))


def test_an_owner_that_cannot_be_looked_at_is_known_by_its_port(pod: Host, tmp_path: Path) -> None:
    inside = Command(tmp_path / "run", prefix=IN_A_TREE_OF_ITS_OWN)
    with owner_of(pod, "owner", THEIRS):
        for command in ("apply", "remove"):
            done = inside(command, "--netns", pod.name)
            assert done.code == 2
            assert f"is owned by a process that can't be looked at, netlink port {whose(pod)}" in done.out + done.err


@pytest.mark.parametrize("which", ["same", "other"])
def test_another_weir_that_owns_the_table_is_named_and_its_place_taken_when_it_is_killed(
    world: World, pod: Host, daemon: Daemon, which: str
) -> None:
    argv = [sys.executable, "-c", OTHER_WEIR, pod.name, which]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"0 \n"
        before, port = pod.command("nft", "list", "ruleset"), whose(pod)
        try:
            daemon.start()
            daemon.eventually(lambda: daemon.state("t0") == "failed", "who owns the table is told", 10)
            named(daemon.target("t0")["reason"], pod, other.pid, comm(other.pid))
            assert pod.command("nft", "list", "ruleset") == before
        finally:
            other.kill()
    daemon.eventually(lambda: flags(pod) == OWNED and whose(pod) != port, "the daemon owns it")
    kept(daemon)
    assert ways(world, pod) == CAPTURED


# Guards


def test_a_guard_that_waits_is_named_to_a_daemon_which_captures_once_it_is_confirmed(
    world: World, pod: Host, daemon: Daemon
) -> None:
    weir = daemon.weir
    with weir.started("apply", "--netns", pod.name, "--confirm", "120") as applying:
        eventually(lambda: list(weir.directory.glob("confirm/*.sock")), "the guard listens", slow(20))
        assert applying.stdout is not None
        assert applying.stdout.readline().startswith("applied ")
        (guard,) = Path(f"/proc/{applying.pid}/task/{applying.pid}/children").read_text().split()
        assert flags(pod) == ("owner",)
        daemon.start()
        daemon.eventually(lambda: daemon.state("t0") == "failed", "the guard is in the way")
        named(daemon.target("t0")["reason"], pod, int(guard), comm(guard))
        assert f"`weir confirm --netns {pod.name}` keeps it" in daemon.target("t0")["hint"]
        owner = weir.json("status", "--netns", pod.name).target["owner"]
        assert (
            owner == f"process {guard} ({comm(guard)}), netlink port {whose(pod)}, which holds it until `weir confirm`"
        )
        assert weir("confirm", "--netns", pod.name).code == 0
        daemon.eventually(lambda: flags(pod) == OWNED, "it is the daemon's")
    kept(daemon)
    assert ways(world, pod) == CAPTURED


@pytest.mark.parametrize("found", ["unowned", "orphan"])
def test_nothing_to_change_with_a_guard_changes_nothing(pod: Host, daemon: Daemon, found: str) -> None:
    which = ("--file", str(daemon.file), "t0")
    if found == "orphan":
        kept(daemon.start())
        daemon.end()
    else:
        assert daemon.weir("apply", *which).code == 0
    before, had = rules(pod), flags(pod)
    done = daemon.weir("apply", *which, "--confirm", "120", timeout=slow(30))
    assert (done.code, done.out.split()[0]) == (0, "unchanged")
    assert (rules(pod), flags(pod)) == (before, had)


@pytest.mark.parametrize("end", ["undone", "confirmed"])
def test_a_guarded_change_of_an_orphan_is_kept_or_undone(pod: Host, daemon: Daemon, end: str) -> None:
    kept(daemon.start())
    before = rules(pod)
    daemon.end()
    weir, seconds = daemon.weir, "2" if end == "undone" else "120"
    change = ("--set", "exclude_outbound_ports=[4711]", "--confirm", seconds)
    with weir.started("apply", "--netns", pod.name, *change) as applying:
        eventually(lambda: "4711" in rules(pod), "it is changed", slow(20))
        assert flags(pod) == ("owner",)
        if end == "confirmed":
            eventually(lambda: weir("confirm", "--netns", pod.name).code == 0, "it is confirmed", slow(20))
        applying.communicate(timeout=slow(20))
    assert "owner" not in flags(pod)
    assert ("4711" in rules(pod)) == (end == "confirmed")
    if end == "undone":
        assert sorted(rules(pod).splitlines()) == sorted(before.splitlines())
