"""The encoded batch: whole, the same each time, of every kind of thing. What the kernel makes of it: netns_tests/."""

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings

from rulesets.diff import Plan
from rulesets.model import (
    INET_SERVICE,
    IPV4_ADDR,
    IPV4_ADDR_PORT,
    IPV6_ADDR,
    IPV6_ADDR_PORT,
    Chain,
    Counter,
    Rule,
    Ruleset,
    Set,
)
from rulesets.netlink import Batch, Verb, encode
from rulesets.netlink import constants as c
from rulesets.netlink.rules import expressions
from rulesets.vocabulary import (
    Accept,
    Action,
    ChainType,
    Foreign,
    Hook,
    Limited,
    Match,
    ModelError,
    OneOf,
    Policy,
    ReadAction,
    ReadMatch,
    RejectWith,
    Sampled,
    SetField,
)
from tests import scenarios, strategies, transaction, variants

GOLDENS = {each.name: each.ruleset for each in scenarios.anywhere()}
POD = GOLDENS["dual-stack"]
OWNED = ("owner", "persist")
ORPHAN = ("persist",)


def fresh(ruleset: Ruleset) -> Batch:
    return encode(Plan(actual=None, desired=ruleset))


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, sequence number and body (after struct nfgenmsg) of every message; refuses what doesn't add up."""
    at = 0
    while at < len(data):
        length, kind, flags, sequence, port = struct.unpack_from("=IHHII", data, at)
        assert 20 <= length <= len(data) - at
        assert length % 4 == 0
        assert port == 0
        yield kind, flags, sequence, data[at + 20 : at + length]
        at += length
    assert at == len(data)


def attributes(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        assert 4 <= length <= len(data) - at
        payload = data[at + 4 : at + length]
        if kind & c.NLA_F_NESTED:
            attributes(payload)
        found.append((kind & ~c.NLA_F_NESTED, payload))
        assert not any(data[at + length : at + (length + 3 & ~3)])
        at += length + 3 & ~3
    assert at == len(data)
    return found


def names(rule: Rule) -> list[str]:
    """The names of a rule's expressions in the kernel."""
    each = (dict(attributes(body)) for _, body in attributes(expressions(rule)))
    return [found[c.NFTA_EXPR_NAME].rstrip(b"\0").decode() for found in each]


def kinds(batch: Batch) -> list[str]:
    return [f"{each.verb} {type(each.thing).__name__}" for each in batch.messages]


def test_the_variants_are_all_that_there_is() -> None:
    """What follows, and the kernel's tests, go by these lists: a new match or action must be put into them."""
    assert {type(each) for each in variants.MATCHES} == set(get_args(Match)) - set(get_args(ReadMatch)) - {
        Foreign,
        OneOf,
        Limited,
        Sampled,
    }
    placed = {type(action) for *_, action in variants.PLACED}
    written = set(get_args(Action)) - set(get_args(ReadAction)) - {Foreign}
    assert {type(each) for each in variants.ANYWHERE} | placed == written
    ruleset = variants.ruleset()
    held = [match for rule in ruleset.rules() for match in rule.matches]
    assert {each.field for each in held if hasattr(each, "field")} == set(SetField)
    with_negation = {type(each) for each in held if hasattr(each, "negate")}
    assert {type(each) for each in held if getattr(each, "negate", False)} == with_negation
    assert {rule.action.reply for rule in ruleset.rules() if hasattr(rule.action, "reply")} == set(RejectWith)
    assert {each.hook for each in ruleset.chains} == set(Hook)
    assert {each.type for each in ruleset.chains} == set(ChainType)
    assert {each.policy for each in ruleset.chains} == set(Policy)
    assert {(each.key, each.interval) for each in ruleset.sets} == {
        (key, interval)
        for key in (IPV4_ADDR, IPV6_ADDR, INET_SERVICE, IPV4_ADDR_PORT, IPV6_ADDR_PORT)
        for interval in (False, True)
        if not (interval and " . " in key)
    }
    assert any(not each.elements for each in ruleset.sets)
    assert any(element.comment for each in ruleset.sets for element in each.elements)


@pytest.mark.parametrize("match", variants.MATCHES, ids=str)
def test_each_match_is_encoded_of_its_own(match: Match) -> None:
    """No two of them come to the same bytes, and none to nothing."""
    plain = expressions(Rule(slug="x", matches=(), action=Accept()))
    written = expressions(Rule(slug="x", matches=(match,), action=Accept()))
    assert len(written) > len(plain)
    assert written.endswith(plain)
    others = [each for each in variants.MATCHES if each != match]
    assert all(expressions(Rule(slug="x", matches=(each,), action=Accept())) != written for each in others)


@pytest.mark.parametrize("action", variants.ANYWHERE, ids=str)
def test_each_action_is_encoded_of_its_own(action: Action) -> None:
    written = expressions(Rule(slug="x", matches=(), action=action))
    others = [each for each in variants.ANYWHERE if each != action]
    assert all(expressions(Rule(slug="x", matches=(), action=each)) != written for each in others)


def test_what_one_match_implies_is_not_tested_again() -> None:
    together = [names(Rule(slug="x", matches=each, action=Accept())) for each in variants.TOGETHER]
    family, read = ["meta", "cmp"], ["payload", "cmp"]
    count = ["objref", "immediate"]
    assert together[0] == [*family, *read, *read, *read, *count]
    assert together[1] == [*family, *read, *family, *read, "payload", "bitwise", "cmp", *count]


@pytest.mark.parametrize("name", [*GOLDENS, "everything"])
def test_a_batch_adds_up(name: str) -> None:
    ruleset = GOLDENS.get(name) or variants.ruleset()
    batch = fresh(ruleset)
    found = list(messages(batch.data))
    for _, _, _, body in found:
        attributes(body)
    assert [sequence for _, _, sequence, _ in found] == list(range(len(batch)))
    assert [kind for kind, *_ in found][:: len(found) - 1] == [c.NFNL_MSG_BATCH_BEGIN, c.NFNL_MSG_BATCH_END]
    assert [sequence for _, flags, sequence, _ in found if flags & c.NLM_F_ACK] == [batch.acknowledged]
    told = [each.thing for each in batch.messages if each.verb is Verb.ADD]
    assert [each for each in told if isinstance(each, Rule)] == list(ruleset.rules())
    assert [each for each in told if isinstance(each, Chain)] == list(ruleset.chains)
    assert [each for each in told if isinstance(each, Counter)] == list(ruleset.counters)
    assert list(dict.fromkeys(each for each in told if isinstance(each, Set))) == list(ruleset.sets)


@settings(deadline=None, database=None)
@given(pair=strategies.pairs())
def test_any_change_adds_up_and_is_empty_when_nothing_changes(pair: tuple[Ruleset, Ruleset]) -> None:
    for plan in (Plan(actual=pair[0], desired=pair[1]), Plan(actual=None, desired=pair[1])):
        batch = encode(plan)
        assert bool(batch) == bool(plan) == bool(transaction.render(plan))
        for _, _, _, body in messages(batch.data):
            attributes(body)
        for each in batch.messages:
            assert each.statement.split()[:3:2] == [str(each.verb), "inet"]
        assert all(each.statement in transaction_lines(plan) for each in batch.messages if each.verb is not Verb.ADD)


def transaction_lines(plan: Plan) -> list[str]:
    return transaction.render(plan).splitlines()


def test_the_same_plan_is_encoded_once() -> None:
    again = replace(POD)
    assert again is not POD
    assert fresh(again) is fresh(POD)


def test_what_counters_start_from_is_no_part_of_a_plan_but_of_its_batch() -> None:
    used = Ruleset(
        table=POD.table,
        chains=POD.chains,
        counters=tuple(Counter(name=each.name, packets=7, bytes=9) for each in POD.counters),
    )
    assert used == POD
    assert fresh(used).data != fresh(POD).data
    assert fresh(used).data.count(struct.pack(">Q", 9)) == len(POD.counters)
    # A table that is made anew goes on from what was read.
    replaced = encode(Plan(actual=used, desired=POD), flags=OWNED)
    assert replaced.data.count(struct.pack(">Q", 9)) == len(POD.counters)


def test_the_last_message_is_acknowledged_for_kernels_that_do_not_acknowledge_the_end() -> None:
    plan = Plan(actual=None, desired=POD)
    new, old = encode(plan), encode(plan, end_acknowledged=False)
    assert (new.acknowledged, old.acknowledged) == (len(new) - 1, len(old) - 2)
    assert len(new.data) == len(old.data)


def test_a_batch_can_be_bound_to_a_generation() -> None:
    batch = fresh(POD)
    (_, _, _, body), *rest = messages(batch.at(0x01020304))
    assert attributes(body) == [(c.NFNL_BATCH_GENID, b"\1\2\3\4")]
    assert rest == list(messages(batch.data))[1:]
    assert Batch().at(1) == b""


@pytest.mark.parametrize(
    ("found", "flags", "begins"),
    [
        ((), (), []),
        (OWNED, OWNED, []),
        (OWNED[::-1], OWNED, []),
        (ORPHAN, OWNED, []),
        ((), OWNED, ["delete NoneType", "add NoneType"]),
        (("owner",), OWNED, ["delete NoneType", "add NoneType"]),
        (("dormant",), (), ["delete NoneType", "add NoneType"]),
        (("owner",), (), ["delete NoneType", "add NoneType"]),
        (OWNED, (), ["delete NoneType", "add NoneType"]),
        (ORPHAN, (), ["delete NoneType", "add NoneType"]),
    ],
)
def test_flags_are_kept_adopted_or_made_anew(found: tuple[str, ...], flags: tuple[str, ...], begins: list[str]) -> None:
    unchanged = encode(Plan(actual=POD, desired=POD), flags=flags, found=found)
    assert kinds(unchanged)[: len(begins)] == begins
    assert bool(unchanged) == (found[::-1] != flags != found)
    changed = encode(Plan(actual=GOLDENS["dns-off"], desired=POD), flags=flags, found=found)
    assert kinds(changed)[: len(begins)] == begins
    if (found, flags) == (ORPHAN, OWNED):
        assert kinds(unchanged) == ["add NoneType"]
        assert kinds(changed)[-1] == "add NoneType"
    assert ("flush NoneType" in kinds(changed)) == ("delete NoneType" not in begins)


def test_removal_is_one_message_and_nothing_from_nothing_is_none() -> None:
    assert kinds(encode(Plan(actual=POD, desired=None))) == ["delete NoneType"]
    assert encode(Plan(actual=POD, desired=None)).messages[0].statement == "delete table inet weir-pod"
    assert not encode(Plan(actual=None, desired=None))


def test_a_long_set_is_cut_where_an_attribute_ends() -> None:
    ruleset = scenarios.build("long", _LONG).ruleset
    batch = fresh(ruleset)
    for _, _, _, body in messages(batch.data):
        attributes(body)
    cut = [each for each in batch.messages if each.elements]
    assert len(cut) > 1
    (whole,) = (each for each in ruleset.sets if each.name == "exclude-outbound-networks-v4")
    assert sum((each.elements for each in cut), ()) == whole.elements
    assert "and " in cut[0].statement
    assert len(cut[0].statement) < 1000


_LONG = f"exclude_outbound_networks = {[f'10.{high}.{low}.0/25' for high in range(40) for low in range(250)]}"


def test_statements_are_those_of_nft() -> None:
    said = {each.statement for each in fresh(GOLDENS["exclusions"]).messages}
    assert "add table inet weir-pod" in said
    assert "add counter inet weir-pod outbound-loopback { }" in said
    assert "add chain inet weir-pod nat-out { type nat hook output priority -101; policy accept; }" in said
    assert any(each.startswith("add set inet weir-pod exclude-outbound-ports { type inet_service;") for each in said)
    assert any(each.startswith("add element inet weir-pod exclude-outbound-ports { ") for each in said)
    assert (
        'add rule inet weir-pod nat-out oifname "lo" counter name "outbound-to-self" accept comment "outbound-to-self"'
        in said
    )


def test_what_is_foreign_is_refused() -> None:
    rule = Rule(slug="x", matches=(Foreign(verbatim="{}"),), action=Accept())
    with pytest.raises(ModelError, match="foreign"):
        expressions(rule)


def test_every_constant_is_in_use() -> None:
    """None is left over, and none is a bare number elsewhere."""
    import agent.kernel
    import rulesets.netlink as room

    rooms = (room.__path__[0], agent.kernel.__path__[0])
    sources = "".join(path.read_text() for each in rooms for path in room_files(each))
    unused = [name for name in vars(c) if name.isupper() and f"c.{name}" not in sources]
    assert unused == []


def room_files(folder: str) -> list[Path]:
    return [path for path in Path(folder).glob("*.py") if path.name != "constants.py"]
