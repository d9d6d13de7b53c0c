"""What differs from kernel to kernel, and that Weir finds it out and does what the table of features says.

Each test holds on every kernel; what it expects is told by the kernel's version, never by Weir's own proof.
"""

import itertools
import os
import platform
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import KernelError
from agent.kernel import batches
from agent.kernel.features import FEATURES, missing_needed, probe
from agent.kernel.tablequery import table_state
from agent.targets import State
from netns_tests.cgroup import Cgroup
from netns_tests.command import Command
from netns_tests.daemon import Daemon, targets
from netns_tests.enrolling import Weir, kernel_state, slow, ways
from netns_tests.kernel_tables import GOLDENS, POD, Place, opened
from netns_tests.namespace import Namespace
from netns_tests.proxy import Proxy
from netns_tests.proxy_process import ProxyProcess
from netns_tests.world import Host, World, eventually
from rulesets.diff import Plan, diff
from rulesets.netlink import encode

OWNED = ("owner", "persist")
CAPTURED = ["captured"] * 4
VERSION = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))
CGROUPS = VERSION >= (5, 13)
OWNERS, COOKIES, PERSISTENT, ENDS = VERSION >= (5, 12), VERSION >= (5, 14), VERSION >= (6, 9), VERSION >= (6, 10)
MENDED = "dnat to a port alone"  # in stable releases, as Debian's are, long before the version that the table names
LATER = [each for each in FEATURES if each.name != MENDED and tuple(map(int, re.findall(r"\d+", each.since))) > VERSION]


def flags(place: Place) -> tuple[str, ...] | None:
    state = table_state(place.netlink, POD.table)
    return state.flags if state else None


# What the proofs find


def test_the_proofs_find_what_this_kernel_lacks_and_no_more() -> None:
    found = probe()
    assert [each.feature for each in found if not each.present] == LATER
    assert missing_needed(found) == ()
    known = {
        "cgroup of a socket": CGROUPS,
        "cookies of namespaces": COOKIES,
        "owned tables that persist": PERSISTENT,
        "tables with an owner": OWNERS,
    }
    assert {name: name not in {each.name for each in LATER} for name in known} == known


def test_the_daemon_starts_and_warns_of_just_that(tmp_path: Path) -> None:
    with Daemon(tmp_path, targets([])).start() as daemon:
        assert daemon.end() == 0
        warned = [line for line in daemon.log.splitlines() if "is missing" in line]
    # What builds on something missing isn't said to be missing itself.
    expected = [each for each in LATER if not {*each.builds_on} & {other.name for other in LATER}]
    assert len(warned) == len(expected)
    for line, feature in zip(warned, expected, strict=True):
        assert line.startswith(f"WARNING {feature.name} is missing ({feature.option}, Linux {feature.since}): ")
        assert line.endswith(f"; instead: {feature.instead}")


# Batches


@pytest.fixture
def place(root: None) -> Iterator[Place]:
    with Namespace.create("place") as namespace, Place.open(namespace) as made:
        yield made


def test_the_end_of_a_batch_is_acknowledged_from_6_10_on(place: Place) -> None:
    assert batches.acknowledges_end(place.netlink) == ENDS
    batch = encode(Plan(actual=None, desired=POD), end_acknowledged=True)
    if ENDS:
        batches.send(place.netlink, batch)
        place.flush()
    else:
        # Carried out, and nobody said so: it must not be taken for success.
        with pytest.raises(KernelError, match="did not acknowledge"):
            batches.send(place.netlink, batch)
        place.flush()
    batches.send(place.netlink, encode(Plan(actual=None, desired=POD), end_acknowledged=False))
    assert place.read(POD.table) == POD


def test_each_golden_becomes_the_next(place: Place) -> None:
    ends = batches.acknowledges_end(place.netlink)
    names = sorted(name for name, ruleset in GOLDENS.items() if ruleset.table == POD.table)
    rulesets = [GOLDENS[name] for name in (*names, *names[::-2])]
    place.make(rulesets[0], end_acknowledged=ends)
    for before, after in itertools.pairwise(rulesets):
        found = place.read(POD.table)
        assert found == before
        place.send(diff(found, after), end_acknowledged=ends)
        read = place.read(POD.table)
        assert read == after, diff(read, after).describe()
    place.send(Plan(actual=rulesets[-1], desired=None), end_acknowledged=ends)
    assert place.text() == ""


# Owners


def test_the_flags_of_a_table_are_taken_or_refused(place: Place) -> None:
    """Refused: with EINVAL before the kernel knew the flag, and nothing is left of the batch."""
    ends = batches.acknowledges_end(place.netlink)
    for wanted, known in ((("owner",), OWNERS), (OWNED, PERSISTENT)):
        with opened(place.namespace) as owner:
            batch = encode(Plan(actual=None, desired=POD), flags=wanted, end_acknowledged=ends)
            if known:
                batches.send(owner, batch)
                assert flags(place) == wanted
                place.flush()
                assert place.read(POD.table) == POD  # nobody else's flush reaches it
                batches.send(owner, encode(Plan(actual=POD, desired=None), end_acknowledged=ends))
            else:
                with pytest.raises(KernelError, match=r"EINVAL|ENOTSUP") as refused:
                    batches.send(owner, batch)
                assert "table inet weir-pod" in refused.value.statement
        assert flags(place) is None


def test_who_flushes_the_daemons_table_does_not_succeed_or_it_is_put_back(
    world: World, pod: Host, tmp_path: Path
) -> None:
    with Proxy(pod), Daemon(tmp_path, targets([pod], ""), "--resync", "36000") as daemon, Place.open(pod) as seen:
        daemon.start()
        daemon.eventually(lambda: flags(seen) == (OWNED if PERSISTENT else ()), "the table is there")
        daemon.eventually(lambda: daemon.state("t0") == "unchanged", "the daemon says so")
        before = pod.command("nft", "-s", "list", "ruleset")
        pod.command("nft", "flush", "ruleset")
        if PERSISTENT:
            assert pod.command("nft", "-s", "list", "ruleset") == before
        daemon.eventually(lambda: pod.command("nft", "-s", "list", "ruleset") == before, "it is put back")
        assert ways(world, pod) == CAPTURED
        assert daemon.end(signal.SIGKILL)
        assert ways(world, pod) == CAPTURED  # rules outlive the daemon, owned or not
        daemon.start()
        daemon.eventually(
            lambda: flags(seen) == (OWNED if PERSISTENT else ()), "a new daemon owns it again, if any can"
        )


Killed = tuple[Namespace, str, Command]


@pytest.fixture(scope="module")
def killed(root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    """A namespace after the guard of its `apply --confirm` was killed with -9, what the command said, and one more."""
    weir = Command(tmp_path_factory.mktemp("guarded"))
    with Namespace.create("guarded") as pod, Proxy(pod):
        with weir.started("apply", "--netns", pod.name, "--set", "dns=false", "--confirm", "3600") as applying:
            assert applying.stdout is not None
            assert applying.stdout.readline().startswith("applied ")
            (guard,) = Path(f"/proc/{applying.pid}/task/{applying.pid}/children").read_text().split()
            os.kill(int(guard), signal.SIGKILL)
            _, err = applying.communicate(timeout=slow(20))
        assert applying.returncode == 2
        assert "the guard was killed before it was confirmed" in err
        yield pod, err, weir


def test_a_guard_that_is_killed_takes_the_rules_along_where_tables_have_owners(killed: Killed) -> None:
    pod, _, weir = killed
    if OWNERS:
        eventually(lambda: "weir-pod" not in pod.command("nft", "list", "tables"), "it went with its owner")
    else:
        assert "weir-pod" in pod.command("nft", "list", "tables")
    assert weir("remove", "--netns", pod.name).code == 0
    assert "weir" not in pod.command("nft", "list", "tables")


def test_what_is_said_of_a_killed_guard_is_so(killed: Killed) -> None:
    assert ("the kernel has taken the rules away" in killed[1]) == OWNERS


# Cgroups


def test_a_proxy_is_told_by_its_cgroup_or_else_by_its_mark(world: World, pod: Host, tmp_path: Path) -> None:
    before = kernel_state(pod)
    with Cgroup() as cgroup, ProxyProcess(pod, cgroup=cgroup.directory), Weir(pod, tmp_path) as weir:
        came = weir.capture(proxy_cgroup=cgroup.path)
        if not CGROUPS:
            assert (came.state, "socket cgroupv2" in came.reason) == (State.FAILED, True), came.reason
            assert kernel_state(pod) == before
            came = weir.capture()
        assert came.state is State.APPLIED, came.reason
        assert ways(world, pod) == CAPTURED
        assert weir.remove().state is State.REMOVED
    assert kernel_state(pod) == before


# Cookies


def test_without_cookies_a_namespace_is_known_by_device_and_inode_alone(pod: Host, tmp_path: Path) -> None:
    with Proxy(pod), Weir(pod, tmp_path) as weir:
        assert bool(weir.handle.cookie) == COOKIES
        before = kernel_state(pod)
        assert weir.capture(kept_deadline=60).state is State.APPLIED
        identity = weir.handle.netns.identity
        record = weir.records.read(identity, weir.handle.cookie)
        assert record
        # What a later namespace with the same inode would find of this one: its cookie is another, where there are any.
        later = weir.handle.cookie + 1 if COOKIES else weir.handle.cookie
        assert weir.records.read(identity, later) == (None if COOKIES else record)
        assert weir.remove().state is State.REMOVED
        assert kernel_state(pod) == before
