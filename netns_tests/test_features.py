"""What the start-up probe finds on this kernel, and what it says when something is missing."""

import ctypes
import platform
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.errors import KernelError, PermissionMissing, WeirError
from agent.kernel import features, ipv6, netns
from agent.kernel.features import FEATURES, Feature, Finding, ThisKernel, missing, missing_needed, probe
from agent.kernel.features.proofs import rules
from agent.kernel.ipv6 import Ipv6
from netns_tests.namespace import Namespace
from netns_tests.world import eventually

EACH = pytest.mark.parametrize("feature", FEATURES, ids=lambda each: each.name)
ROOT = Path(__file__).parent.parent
SAID = "Operation not supported"


class Without:
    """This kernel, but for one feature."""

    def __init__(self, feature: Feature) -> None:
        self._feature = feature
        self._kernel = ThisKernel()

    def load(self, text: str) -> None:
        """Refuse what holds the feature's rules."""
        if isinstance(self._feature.proof, str) and self._feature.proof in text:
            raise KernelError(statement=text.partition("\n")[0], said=SAID)
        self._kernel.load(text)

    def run(self, proof: Callable[[], None]) -> None:
        """Refuse the feature's own proof."""
        if proof is self._feature.proof:
            raise OSError(95, SAID)
        self._kernel.run(proof)

    def close(self) -> None:
        self._kernel.close()


def above(name: str) -> set[str]:
    """What builds on a feature, on whichever way."""
    found: set[str] = set()
    for each in FEATURES:
        if found & set(each.builds_on) or name in each.builds_on:
            found.add(each.name)
    return found


def version(text: str) -> tuple[int, int]:
    major, minor = text.partition(",")[0].split(".")[:2]
    return int(major), int(re.sub(r"\D.*", "", minor))


@pytest.fixture(scope="module")
def lacking() -> set[str]:
    """What this kernel lacks by itself."""
    return {each.feature.name for each in missing(probe())}


def test_this_kernel_lacks_only_what_came_later() -> None:
    found = probe()
    assert tuple(each.feature for each in found) == FEATURES
    running = version(platform.release())
    unexpected = [str(each) for each in missing(found) if version(each.feature.since) <= running]
    assert unexpected == []
    assert missing_needed(found) == ()


@EACH
def test_a_missing_feature_is_named_alone_with_option_and_consequence(feature: Feature, lacking: set[str]) -> None:
    if hidden := lacking & set(feature.builds_on):
        pytest.skip(f"this kernel lacks {hidden}, so nobody can tell whether it has {feature.name}")
    found = probe(lambda: Without(feature))
    (one,) = (each for each in missing(found) if each.feature is feature or each.feature.name not in lacking)
    assert one.feature is feature
    assert SAID in one.said
    for text in (feature.name, feature.option, feature.instead, SAID):
        assert text in str(one)
    assert missing_needed(found) == ((one,) if feature.needed else ())
    error = one.error()
    assert (error.feature, error.option) == (feature.name, feature.option)
    assert feature.option in str(error)
    untried = {each.feature.name for each in found if not each.tried}
    assert untried == above(feature.name).union(*(above(name) for name in lacking))


def test_what_builds_on_something_missing_is_not_said_to_be_missing() -> None:
    inet = next(each for each in FEATURES if each.name == "inet tables")
    redirect = next(each for each in probe(lambda: Without(inet)) if each.feature.name == "redirect")
    assert redirect == Finding(
        feature=redirect.feature,
        present=False,
        said="not tried, since it builds on what is missing: nat chains in inet tables",
        tried=False,
    )
    assert "is missing (" not in str(redirect)


def test_the_declarations_are_whole() -> None:
    names = [each.name for each in FEATURES]
    assert len(set(names)) == len(names)
    for number, each in enumerate(FEATURES):
        assert set(each.builds_on) <= set(names[:number]), f"{each.name} is tried before what it builds on"
        assert re.match(r"CONFIG_[A-Z0-9_]+", each.option)
        assert re.match(r"\d+\.\d+", each.since)
        assert each.needed == (each.instead == "Weir doesn't start")
    proofs = [each.proof for each in FEATURES]
    assert len(set(proofs)) == len(proofs)


def test_a_rule_that_is_accepted_and_not_carried_out_counts_as_missing(lacking: set[str]) -> None:
    """As of Linux 5.14 to 5.18, made here by rules that keep conntrack, and with it nat, away from the datagram."""

    def blind() -> ThisKernel:
        kernel = ThisKernel()
        kernel.load(rules("blind", "type filter hook prerouting priority -300", "meta l4proto udp notrack"))
        return kernel

    (one,) = (each for each in missing(probe(blind)) if each.feature.name not in lacking)
    assert one.feature.name == "dnat to a port alone"
    assert one.said == "the rule is accepted, and not carried out"


def test_rules_that_load_only_one_by_one_are_all_present(lacking: set[str]) -> None:
    class OneByOne(ThisKernel):
        def load(self, text: str) -> None:
            if text.count("table inet") > 1:
                raise KernelError(statement="", said="too much at once")
            super().load(text)

    assert {each.feature.name for each in missing(probe(OneByOne))} == lacking


def test_the_probe_stays_in_a_namespace_that_goes_away() -> None:
    """An interface pair with one end in the throw-away namespace shows when that is gone."""
    with Namespace.create("witness") as witness:

        def witnessed() -> ThisKernel:
            command = f"ip link add thrown type veth peer name thrown netns {witness.name}"
            subprocess.run(command.split(), check=True)  # a child starts where the thread is
            assert "thrown" in witness.command("ip", "link", "show")
            return ThisKernel()

        before = Path("/proc/self/ns/net").readlink()
        names = {each for each in netns.named() if "weir" in each.text}
        probe(witnessed)
        assert Path("/proc/self/ns/net").readlink() == before
        assert {each for each in netns.named() if "weir" in each.text} == names
        eventually(lambda: "thrown" not in witness.command("ip", "link", "show"), "the namespace is gone")


def test_the_probe_waits_for_no_transaction_that_fails(lacking: set[str]) -> None:
    """One that fails costs grace periods of the kernel, some 20 ms each; all else together takes 50 ms."""
    loads = []

    class Counted(ThisKernel):
        def load(self, text: str) -> None:
            loads.append(text)
            super().load(text)

    probe(Counted)
    rules_lacking = lacking & {each.name for each in FEATURES if isinstance(each.proof, str)}
    assert len(loads) == 1 or rules_lacking


def test_without_the_right_to_do_so_the_probe_says_so() -> None:
    def powerless() -> None:
        # capset(2), version 3, for this thread alone: no capability left, and none for the threads that it starts.
        assert not ctypes.CDLL(None).capset(struct.pack("=Ii", 0x20080522, 0), bytes(24))
        probe()

    with Namespace.create() as anywhere, pytest.raises(PermissionMissing, match="unshare") as refused:
        anywhere.run(powerless)
    assert isinstance(refused.value, WeirError)
    assert "root" in refused.value.hint


def test_the_rights_of_the_unit_are_enough() -> None:
    """Without CAP_NET_RAW, for one: no proof may need more than the daemon has."""
    unit = (ROOT / "deploy/weir.service").read_text(encoding="utf-8")
    found = re.search(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)
    assert found is not None
    kept = ",".join("+" + name.removeprefix("CAP_").lower() for name in found[1].split())
    code = "from agent.kernel import features; print(*features.missing_needed(features.probe()), sep='\\n')"
    done = subprocess.run(
        ["setpriv", f"--bounding-set=-all,{kept}", sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stdout + done.stderr


def test_the_table_of_features_is_markdown() -> None:
    lines = features.markdown().splitlines()
    assert len(lines) == len(FEATURES) + 2
    assert all(line.count("|") == 4 for line in lines)


def interfaces(folder: Path, **disabled: str) -> Path:
    for name, value in disabled.items():
        (folder / name).mkdir()
        (folder / name / "disable_ipv6").write_text(f"{value}\n")
    return folder


def test_ipv6_of_the_settings(tmp_path: Path) -> None:
    assert ipv6.state(tmp_path / "none") is Ipv6.ABSENT
    assert ipv6.state(tmp_path) is Ipv6.OFF
    interfaces(tmp_path, all="0", default="0", lo="1")
    assert ipv6.state(tmp_path) is Ipv6.OFF
    interfaces(tmp_path, eth0="0")
    assert ipv6.state(tmp_path) is Ipv6.OFF_ON_LOOPBACK
    (tmp_path / "lo/disable_ipv6").write_text("0\n")
    assert ipv6.state(tmp_path) is Ipv6.ON
    (tmp_path / "lo/disable_ipv6").unlink()  # an interface that goes away while it is looked at
    assert ipv6.state(tmp_path) is Ipv6.OFF_ON_LOOPBACK


def test_ipv6_of_namespaces() -> None:
    with Namespace.create() as namespace:

        def found() -> Ipv6:
            (one,) = {namespace.run(ipv6.state), namespace.run(ipv6.asked)}
            return one

        namespace.ip("link add eth0 type veth peer name eth1", "link set eth0 up")
        assert found() is Ipv6.ON
        namespace.sysctl("net/ipv6/conf/lo/disable_ipv6", 1)
        assert found() is Ipv6.OFF_ON_LOOPBACK
        namespace.sysctl("net/ipv6/conf/all/disable_ipv6", 1)
        assert found() is Ipv6.OFF
        namespace.sysctl("net/ipv6/conf/eth1/disable_ipv6", 0)
        assert found() is Ipv6.OFF_ON_LOOPBACK
        namespace.sysctl("net/ipv6/conf/all/disable_ipv6", 0)
        assert found() is Ipv6.ON
