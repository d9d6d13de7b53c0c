"""What is rendered can be loaded and is read back equal, and so is every step from one ruleset to another."""

from collections.abc import Iterator
from itertools import permutations

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings

from netns_tests.clients import exchange
from netns_tests.namespace import Namespace
from netns_tests.nft_context import Nft
from netns_tests.servers import EchoServer
from rulesets import nft, pod
from rulesets.capture import Capture
from rulesets.diff import diff
from rulesets.model import Ruleset
from rulesets.pod import Stage
from tests import scenarios, strategies, transaction

GOLDENS = {each.name: each.ruleset for each in scenarios.anywhere()}
# One context serves all examples: each begins by removing what the one before it left.
many = hypothesis_settings(
    max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def namespace(root: None) -> Iterator[Namespace]:
    with Namespace.create("rules") as made:
        yield made


@pytest.fixture
def kernel(namespace: Namespace) -> Nft:
    made = Nft(namespace)
    made.load("flush ruleset")
    return made


def read(kernel: Nft, table: str) -> Ruleset:
    found = nft.parse(kernel.list(), table)
    assert found is not None
    return found


def assert_reads_back(kernel: Nft, ruleset: Ruleset) -> None:
    for load, rendered in ((kernel.load, nft.render(ruleset)), (kernel.load_json, nft.render_json(ruleset))):
        load(rendered)
        found = read(kernel, ruleset.table)
        assert found == ruleset, diff(found, ruleset).describe()
        assert counts(found) == counts(ruleset)
        kernel.load("flush ruleset")


def counts(ruleset: Ruleset) -> dict[str, tuple[int, int]]:
    return {each.name: (each.packets, each.bytes) for each in ruleset.counters}


@pytest.mark.parametrize("name", GOLDENS)
def test_a_golden_reads_back_equal(kernel: Nft, name: str) -> None:
    assert_reads_back(kernel, GOLDENS[name])


@many
@given(capture=strategies.captures(by_nft=True))
def test_whatever_is_captured_reads_back_equal(kernel: Nft, capture: Capture) -> None:
    for stage in Stage:
        assert_reads_back(kernel, pod.build(capture, stage=stage))


@many
@given(ruleset=strategies.rulesets(by_nft=True))
def test_whatever_the_model_allows_reads_back_equal(kernel: Nft, ruleset: Ruleset) -> None:
    assert_reads_back(kernel, ruleset)


def test_a_rule_of_someone_else_makes_it_unequal(kernel: Nft) -> None:
    ruleset = GOLDENS["dual-stack"]
    kernel.load(nft.render(ruleset))
    kernel.load('insert rule inet weir-pod nat-out ip daddr 192.0.2.0/24 limit rate 5/second accept comment "not ours"')
    found = read(kernel, ruleset.table)
    assert found != ruleset
    assert "limit" in diff(found, ruleset).describe()


@pytest.mark.parametrize(
    "change",
    [
        "add chain inet weir-pod regular",
        "add chain inet weir-pod more { type filter hook input priority 0; }",
        "add map inet weir-pod ports { type inet_service : verdict; }",
        "add set inet weir-pod seen { type ipv4_addr; flags dynamic, timeout; timeout 1m; }",
        "add counter inet weir-pod extra",
        "add quota inet weir-pod extra { 10 mbytes }",
        "add limit inet weir-pod extra { rate 5/second }",
        "add chain inet weir-pod nat-out { policy drop; }",
        "flush chain inet weir-pod nat-out",
        "add element inet weir-pod exclude-outbound-ports { 23 }",
        "delete element inet weir-pod exclude-outbound-ports { 22 }",
        "add rule inet weir-pod nat-out accept",
        'add rule inet weir-pod nat-out counter name "outbound-loopback" accept comment "outbound-loopback"',
        "add rule inet weir-pod nat-out tcp dport vmap { 1 : accept }",
        "add rule inet weir-pod nat-out tcp dport { 1, 2 } accept",
    ],
)
def test_any_tampering_is_seen_and_undone_in_one_step(kernel: Nft, change: str) -> None:
    ruleset = GOLDENS["exclusions"]
    kernel.load(nft.render(ruleset))
    kernel.load(change)
    found = read(kernel, ruleset.table)
    plan = diff(found, ruleset)
    assert plan
    assert plan.describe()
    kernel.load(transaction.render(plan))
    assert read(kernel, ruleset.table) == ruleset


@pytest.mark.parametrize("name", GOLDENS)
def test_every_golden_becomes_every_other_in_one_step(kernel: Nft, name: str) -> None:
    """Rulesets of one table only: a namespace is never both a pod and a node."""
    before = GOLDENS[name]
    for other, after in GOLDENS.items():
        if after.table != before.table:
            continue
        kernel.load("flush ruleset")
        kernel.load(nft.render(before))
        found = read(kernel, before.table)
        kernel.load(transaction.render(diff(found, after)))
        assert read(kernel, after.table) == after, other


@many
@given(pair=strategies.pairs(by_nft=True))
def test_any_ruleset_becomes_any_other_in_one_step(kernel: Nft, pair: tuple[Ruleset, Ruleset]) -> None:
    before, after = pair
    kernel.load("flush ruleset")
    kernel.load(nft.render(before))
    found = read(kernel, before.table)
    kernel.load(transaction.render(diff(found, after)))
    reached = read(kernel, after.table)
    assert reached == after, diff(reached, after).describe()
    # What was counted stays, by name.
    expected = counts(after) | {name: count for name, count in counts(before).items() if name in counts(after)}
    assert counts(reached) == expected


@pytest.mark.parametrize(
    ("before", "after"), list(permutations(("dual-stack", "exclusions", "transition", "ipv4-only"), 2))
)
def test_what_was_counted_stays_through_a_change(before: str, after: str) -> None:
    with Namespace.create("counts") as place, EchoServer(place) as server:
        kernel = Nft(place)
        kernel.load(nft.render(GOLDENS[before]))
        for _ in range(3):
            exchange(place, ("127.0.0.1", server.port))
        counted = counts(read(kernel, pod.POD_TABLE))
        assert counted["outbound-loopback"][0] == 3
        kernel.load(transaction.render(diff(read(kernel, pod.POD_TABLE), GOLDENS[after])))
        found = read(kernel, pod.POD_TABLE)
        assert found == GOLDENS[after]
        assert {name: count for name, count in counts(found).items() if name in counted} == {
            name: count for name, count in counted.items() if name in counts(found)
        }


def test_an_equal_ruleset_needs_no_step(kernel: Nft) -> None:
    ruleset = GOLDENS["dual-stack"]
    kernel.load(nft.render(ruleset))
    plan = diff(read(kernel, ruleset.table), ruleset)
    assert not plan
    assert transaction.render(plan) == ""


def test_removal_leaves_nothing(kernel: Nft) -> None:
    ruleset = GOLDENS["dual-stack"]
    kernel.load(nft.render(ruleset))
    kernel.load(transaction.render(diff(read(kernel, ruleset.table), None)))
    assert nft.parse(kernel.list(), ruleset.table) is None
