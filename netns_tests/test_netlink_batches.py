"""The kernel holds the same after an encoded batch as after nft loaded the text of it."""

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings

from netns_tests.kernel_tables import GOLDENS, POD, Place, counts
from netns_tests.namespace import Namespace
from rulesets import nft, pod
from rulesets.capture import Capture
from rulesets.diff import diff
from rulesets.model import Chain, Rule, Ruleset, with_counters
from rulesets.vocabulary import Accept, ChainType, DstPort, Hook, PortRange, Protocol, SrcPort
from tests import scenarios, strategies, transaction

# Two places serve all examples: each begins by removing what the one before it left.
many = hypothesis_settings(
    max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def places(root: None) -> Iterator[tuple[Place, Place]]:
    with (
        Namespace.create("encoded") as one,
        Namespace.create("text") as other,
        Place.open(one) as encoded,
        Place.open(other) as text,
    ):
        yield encoded, text


@pytest.fixture
def encoded(places: tuple[Place, Place]) -> Place:
    places[0].flush()
    return places[0]


@pytest.fixture
def text(places: tuple[Place, Place]) -> Place:
    places[1].flush()
    return places[1]


def assert_same(encoded: Place, text: Place, wanted: Ruleset) -> None:
    assert encoded.text() == text.text()
    assert encoded.json() == text.json()
    found = encoded.read(wanted.table)
    assert found == wanted, diff(found, wanted).describe()
    if not any(joined_by_nft(rule) for rule in wanted.rules()):
        assert encoded.dump(wanted.table) == text.dump(wanted.table)  # and not only as nft shows it


def joined_by_nft(rule: Rule) -> bool:
    """nft joins two ports into one comparison of four bytes. Where both are negated that is wrong: one may be equal."""
    kinds = {type(match) for match in rule.matches}
    return {SrcPort, DstPort} <= kinds


@pytest.mark.parametrize("name", GOLDENS)
def test_nft_lists_what_it_lists_after_it_loaded_the_text(encoded: Place, text: Place, name: str) -> None:
    ruleset = GOLDENS[name]
    encoded.make(ruleset)
    text.nft.load(nft.render(ruleset))
    assert_same(encoded, text, ruleset)


def test_the_comparison_of_dumps_can_fail(encoded: Place, text: Place) -> None:
    encoded.make(POD)
    text.nft.load(nft.render(POD).replace("redirect to :15001", "redirect to :15002"))
    assert encoded.dump(POD.table)["rules"] != text.dump(POD.table)["rules"]
    assert encoded.text() != text.text()


@many
@given(ruleset=strategies.rulesets(by_nft=True))
def test_so_it_does_for_whatever_the_model_allows(encoded: Place, text: Place, ruleset: Ruleset) -> None:
    encoded.flush()
    text.flush()
    encoded.make(ruleset)
    text.nft.load(nft.render(ruleset))
    assert_same(encoded, text, ruleset)
    assert counts(encoded.read(ruleset.table)) == counts(ruleset)


@many
@given(capture=strategies.captures(by_nft=True))
def test_so_it_does_for_whatever_is_captured(encoded: Place, text: Place, capture: Capture) -> None:
    encoded.flush()
    text.flush()
    ruleset = pod.build(capture)
    encoded.make(ruleset)
    text.nft.load(nft.render(ruleset))
    assert_same(encoded, text, ruleset)


@pytest.mark.parametrize("name", GOLDENS)
def test_every_golden_becomes_every_other_as_it_does_by_text(encoded: Place, text: Place, name: str) -> None:
    """Rulesets of one table only: a namespace is never both a pod and a node. The generated ones share theirs."""
    before = GOLDENS[name]
    for other in GOLDENS.values():
        after = replace(other, table=before.table)
        for each in (encoded, text):
            each.flush()
        encoded.make(before)
        text.nft.load(nft.render(before))
        encoded.send(diff(encoded.read(before.table), after))
        text.nft.load(transaction.render(diff(text.read(before.table), after)))
        assert_same(encoded, text, after)


@many
@given(pair=strategies.pairs(by_nft=True))
def test_any_ruleset_becomes_any_other_and_counters_stay(
    encoded: Place, text: Place, pair: tuple[Ruleset, Ruleset]
) -> None:
    before, after = pair
    for each in (encoded, text):
        each.flush()
    encoded.make(before)
    text.nft.load(nft.render(before))
    encoded.send(diff(encoded.read(before.table), after))
    text.nft.load(transaction.render(diff(text.read(before.table), after)))
    assert_same(encoded, text, after)
    kept = {name: count for name, count in counts(before).items() if name in counts(after)}
    assert counts(encoded.read(after.table)) == counts(after) | kept


@pytest.mark.parametrize(
    "change",
    [
        "add chain inet weir-pod regular",
        "add chain inet weir-pod more { type filter hook input priority 0; }",
        "add map inet weir-pod ports { type inet_service : verdict; }",
        "add set inet weir-pod seen { type ipv4_addr; flags dynamic, timeout; timeout 1m; }",
        "add quota inet weir-pod extra { 10 mbytes }",
        "add chain inet weir-pod nat-out { policy drop; }",
        "flush chain inet weir-pod nat-out",
        "add element inet weir-pod exclude-outbound-ports { 23 }",
        "add rule inet weir-pod nat-out tcp dport { 1, 2 } accept",
    ],
)
def test_what_somebody_changed_is_undone_in_one_batch(encoded: Place, change: str) -> None:
    ruleset = GOLDENS["exclusions"]
    counted = replace(ruleset, counters=tuple(replace(each, packets=3, bytes=5) for each in ruleset.counters))
    encoded.make(counted)
    encoded.nft.load(change)
    encoded.send(diff(encoded.read(ruleset.table), ruleset))
    found = encoded.read(ruleset.table)
    assert found == ruleset
    assert set(counts(found).values()) == {(3, 5)}


def test_removal_leaves_nothing(encoded: Place) -> None:
    encoded.make(POD)
    encoded.send(diff(encoded.read(POD.table), None))
    assert encoded.text() == ""


def test_ten_thousand_networks_are_one_batch(encoded: Place, text: Place) -> None:
    """More than a send buffer takes by itself, and more than one list of elements."""
    networks = [f"10.{high}.{low}.{part}/26" for high in range(14) for low in range(250) for part in (0, 64, 192)]
    networks += [f"fd00:{high:x}:{low:x}::/64" for high in range(14) for low in range(250)]
    ruleset = scenarios.build("long", f"exclude_outbound_networks = {networks}").ruleset
    batch = encoded.make(ruleset)
    assert len(batch.data) > 2 * 212992
    text.nft.load(nft.render(ruleset))
    assert_same(encoded, text, ruleset)
    emptied = encoded.send(diff(encoded.read(ruleset.table), POD))
    assert len(emptied.data) < 20_000
    encoded.send(diff(encoded.read(POD.table), ruleset))
    assert encoded.read(POD.table) == ruleset


def test_two_negated_ports_are_each_compared(encoded: Place) -> None:
    """nft 1.0.6 makes one comparison of the two, which holds as soon as either port differs; Weir's batch doesn't."""
    ports = PortRange(1111, 1111), PortRange(2222, 2222)
    matches = (
        SrcPort(protocol=Protocol.UDP, ports=ports[0], negate=True),
        DstPort(protocol=Protocol.UDP, ports=ports[1], negate=True),
    )
    rule = Rule(slug="neither", matches=matches, action=Accept())
    chain = Chain(name="out", type=ChainType.FILTER, hook=Hook.OUTPUT, priority=0, rules=(rule,))
    encoded.make(with_counters("x-table", (chain,)))
    for source, destination, met in ((1111, 2222, 0), (1111, 3333, 0), (3333, 2222, 0), (3333, 4444, 1)):
        encoded.namespace.run(send_datagram, source, destination)
        assert counts(encoded.read("x-table"))["neither"][0] == met, (source, destination)


def send_datagram(source: int, destination: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("127.0.0.1", source))
        sender.sendto(b"x", ("127.0.0.1", destination))
