"""Rules that ask for a cgroup: what nft makes of a path is what Weir encodes, and it is read back as what it is."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.kernel import cgroups
from netns_tests.cgroup import Cgroup
from netns_tests.kernel_tables import Place
from netns_tests.namespace import Namespace
from rulesets import nft
from rulesets.diff import diff
from rulesets.model import Ruleset
from rulesets.netlink import encode
from rulesets.vocabulary import Match, ModelError, SocketCgroup
from tests import scenarios

SCENARIO = scenarios.load("proxy-by-cgroup")
PATH = "system.slice/proxy.service"


@pytest.fixture
def cgroup(root: None) -> Iterator[Cgroup]:
    with Cgroup() as made:
        yield made


@pytest.fixture
def place(root: None) -> Iterator[Place]:
    with Namespace.create("cgroups") as namespace, Place.open(namespace) as opened:
        yield opened


def with_cgroup(ruleset: Ruleset, cgroup: int | str) -> Ruleset:
    """Return the scenario's ruleset with another cgroup in the place of its own."""

    def of(match: Match) -> Match:
        return replace(match, cgroup=cgroup) if isinstance(match, SocketCgroup) else match

    chains = tuple(
        replace(chain, rules=tuple(replace(rule, matches=tuple(map(of, rule.matches))) for rule in chain.rules))
        for chain in ruleset.chains
    )
    return replace(ruleset, chains=chains)


def load(namespace: Namespace, text: str, directory: Path) -> None:
    """Have nft load a text where cgroup2 is at the one place at which nft looks."""
    file = directory / "rules.nft"
    file.write_text(text)
    script = f"mount --bind {cgroups.root()} /sys/fs/cgroup; exec nft -f {file}"
    namespace.command("unshare", "--mount", "sh", "-ec", script)


def test_what_is_encoded_is_what_nft_makes_of_the_text(place: Place, cgroup: Cgroup, tmp_path: Path) -> None:
    resolved = with_cgroup(SCENARIO.ruleset, cgroup.number)
    place.make(resolved)
    with Namespace.create("text") as other, Place.open(other) as text:
        load(other, nft.render(with_cgroup(SCENARIO.ruleset, cgroup.path)), tmp_path)
        assert place.dump(resolved.table) == text.dump(resolved.table)
        assert place.text() == text.text()
        assert place.read(resolved.table) == text.read(resolved.table) == resolved


@pytest.mark.parametrize("flags", [(), ("owner",)], ids=str)
def test_it_is_read_back_equal_and_another_number_is_a_difference(place: Place, flags: tuple[str, ...]) -> None:
    built = with_cgroup(SCENARIO.ruleset, 2**64 - 1)
    place.make(built, flags=flags)
    found = place.read(built.table)
    assert found == built
    plan = diff(found, with_cgroup(SCENARIO.ruleset, 7))
    assert [each.what.split()[4] for each in plan.changes()] == [str(2**64 - 1), "7"]
    place.send(plan, flags=flags, found=flags)
    assert place.read(built.table) == plan.desired


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("socket cgroupv2 level 2", "socket cgroupv2 level 2 {number}"),
        ("socket cgroupv2 level 1", "socket cgroupv2 level 1 {number}"),
        ("socket cgroupv2 level 2 !=", '"!="'),
        ("socket cgroupv2 level 2 <", '"<"'),
    ],
)
def test_what_others_ask_is_read_as_what_it_is(
    place: Place, cgroup: Cgroup, tmp_path: Path, written: str, read: str
) -> None:
    text = nft.render(with_cgroup(SCENARIO.ruleset, cgroup.path))
    load(place.namespace, text.replace("socket cgroupv2 level 2", written), tmp_path)
    wanted = with_cgroup(SCENARIO.ruleset, cgroup.number)
    found = place.read(wanted.table)
    assert (found == wanted) == ("level 2 {" in read)
    (rule,) = (each for each in found.rules() if each.slug == "proxy-by-cgroup")
    assert read.format(number=cgroup.number) in nft.render_rule(rule)


def test_two_in_one_rule_are_not_mistaken_for_each_other(place: Place, cgroup: Cgroup, tmp_path: Path) -> None:
    one, other = Path(cgroup.path).parent, cgroup.path
    match = f'socket cgroupv2 level 2 "{PATH}"'
    both = f'socket cgroupv2 level 1 "{one}" socket cgroupv2 level 2 "{other}"'
    load(place.namespace, nft.render(SCENARIO.ruleset).replace(match, both), tmp_path)
    found = [
        each for rule in place.read("weir-host").rules() for each in rule.matches if isinstance(each, SocketCgroup)
    ]
    above = cgroup.directory.parent.stat().st_ino
    assert found == [SocketCgroup(level=1, cgroup=above), SocketCgroup(level=2, cgroup=cgroup.number)]


def test_a_path_alone_is_not_encoded() -> None:
    with pytest.raises(ModelError, match=r"cgroup 'system.slice/proxy.service' is not looked up yet"):
        encode(diff(None, SCENARIO.ruleset))
