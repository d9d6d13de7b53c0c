"""What holds for every capture and every ruleset."""

import json
import random
from dataclasses import fields
from ipaddress import ip_address
from typing import Any, get_args

from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings

from rulesets import nft, pod
from rulesets.capture import Capture
from rulesets.diff import ChangeKind, diff
from rulesets.model import Ruleset
from rulesets.packet import Fate, Packet, walk
from rulesets.pod import Stage
from rulesets.settings import CaptureError
from rulesets.vocabulary import (
    Action,
    ChainType,
    Family,
    Foreign,
    Hook,
    InSet,
    Match,
    OneOf,
    Policy,
    Protocol,
    ReadAction,
    ReadMatch,
    Reject,
    RejectWith,
    SetField,
    family_of,
)
from tests import strategies, transaction

quick = hypothesis_settings(
    max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)


@quick
@given(strategies.rulesets())
def test_what_is_rendered_as_json_is_parsed_as_the_same(ruleset: Ruleset) -> None:
    parsed = nft.parse(nft.render_json(ruleset), ruleset.table)
    assert parsed == ruleset
    assert parsed is not None
    assert [(each.packets, each.bytes) for each in parsed.counters] == [
        (each.packets, each.bytes) for each in ruleset.counters
    ]


@quick
@given(strategies.captures())
def test_every_capture_is_built_in_every_stage(capture: Capture) -> None:
    for stage in Stage:
        ruleset = pod.build(capture, stage=stage)
        assert nft.parse(nft.render_json(ruleset), pod.POD_TABLE) == ruleset
        assert {each.name for each in ruleset.counters} == {rule.slug for rule in ruleset.rules()}
        looked_up = {match.name for rule in ruleset.rules() for match in rule.matches if isinstance(match, InSet)}
        assert looked_up == {each.name for each in ruleset.sets}


@quick
@given(strategies.rulesets())
def test_equal_rulesets_have_no_difference(ruleset: Ruleset) -> None:
    again = nft.parse(nft.render_json(ruleset), ruleset.table)
    plan = diff(again, ruleset)
    assert not plan
    assert plan.describe() == ""
    assert transaction.render(plan) == ""


@quick
@given(strategies.pairs())
def test_a_description_names_every_change(pair: tuple[Ruleset, Ruleset]) -> None:
    actual, desired = pair
    plan = diff(actual, desired)
    said = plan.describe()
    assert bool(said) == bool(plan) == bool(plan.changes())
    for change in plan.changes():
        assert f"  {change.kind} {change.what}" in said.splitlines()
    for kind, mine, other in ((ChangeKind.ADD, desired, actual), (ChangeKind.REMOVE, actual, desired)):
        named = [change.what for change in plan.changes() if change.kind is kind]
        elsewhere = {(rule, chain.name) for chain in other.chains for rule in chain.rules}
        for chain in mine.chains:
            for rule in chain.rules:
                assert (rule, chain.name) in elsewhere or nft.render_rule(rule) in named
        slugs = {rule.slug for rule in mine.rules()}
        alone = {each.name for each in mine.counters if each not in other.counters}
        shown = {each.what for each in plan.changes() if each.kind is kind and each.where == f"table inet {plan.table}"}
        assert {f"counter {name}" for name in alone - slugs} == shown


@quick
@given(strategies.settings())
def test_order_and_repetition_mean_nothing(values: dict[str, Any]) -> None:
    try:
        capture = Capture.parse(values)
    except CaptureError:
        return
    mixed = {name: shuffled(value) for name, value in reversed(values.items())}
    assert Capture.parse(mixed) == capture
    assert pod.build(Capture.parse(mixed)) == pod.build(capture)


def shuffled(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    twice = [*value, *value]
    random.Random(0).shuffle(twice)
    return twice


@quick
@given(strategies.captures())
def test_what_is_excluded_is_never_captured(capture: Capture) -> None:
    ruleset = pod.build(capture)
    networks, ports = capture.exclude_outbound_networks, capture.exclude_outbound_ports
    for network in networks:
        assert goes_direct(ruleset, str(network.network_address), 40000)
    for each in ports:
        for port in {max(each.first, 1), each.last} - {53}:  # queries are captured whatever is excluded
            for address in ("192.0.2.9", "2001:db8::9"):
                assert goes_direct(ruleset, address, port)


def goes_direct(ruleset: Ruleset, address: str, port: int) -> bool:
    destination = ip_address(address)
    packet = Packet(
        hook=Hook.OUTPUT,
        source=ip_address("10.9.9.9" if destination.version == 4 else "fd09::9"),
        destination=destination,
        source_port=33333,
        destination_port=port,
        out_interface="other0",
        user=1000,
        destination_local=False,
    )
    verdict = walk(ruleset, packet)
    return verdict.fate is Fate.ACCEPTED and not verdict.translated


@quick
@given(strategies.captures())
def test_the_proxys_own_connections_are_never_redirected(capture: Capture) -> None:
    for address in ("192.0.2.9", "2001:db8::9"):
        for protocol, port in ((Protocol.TCP, 80), (Protocol.TCP, 53), (Protocol.UDP, 53)):
            packet = Packet(
                hook=Hook.OUTPUT,
                source=ip_address("10.9.9.9" if "." in address else "fd09::9"),
                destination=ip_address(address),
                protocol=protocol,
                destination_port=port,
                out_interface="eth0",
                mark=capture.proxy_mark.value,
                user=0,
                destination_local=False,
            )
            for stage in Stage:
                verdict = walk(pod.build(capture, stage=stage), packet)
                assert verdict.fate is Fate.ACCEPTED
                assert not verdict.translated


@quick
@given(strategies.captures())
def test_a_family_that_is_not_captured_never_reaches_the_proxy(capture: Capture) -> None:
    redirects = [
        rule
        for rule in pod.build(capture).rules()
        if type(rule.action).__name__ in ("Redirect", "Dnat")
        and not any(type(match).__name__ == "OfFamily" for match in rule.matches)
    ]
    assert not redirects or len(capture.captured_families) == 2


# Every variant that the model has is drawn, so that "for every ruleset" means all of them.


def parts(ruleset: Ruleset) -> set[object]:
    """Return the kinds of things in a ruleset."""
    rules = tuple(ruleset.rules())
    return {
        *(type(match) for rule in rules for match in rule.matches),
        *((type(match), "negated") for rule in rules for match in rule.matches if getattr(match, "negate", False)),
        *(match.field for rule in rules for match in rule.matches if isinstance(match, InSet)),
        *(type(rule.action) for rule in rules),
        *(rule.action.reply for rule in rules if isinstance(rule.action, Reject)),
        *((each.key, each.interval) for each in ruleset.sets),
        *(type(element.value) for each in ruleset.sets for element in each.elements),
        *("comment" for each in ruleset.sets for element in each.elements if element.comment),
        *(each for chain in ruleset.chains for each in (chain.type, chain.hook, chain.policy)),
    }


ONLY_READ = (Foreign, OneOf, *get_args(ReadMatch), *get_args(ReadAction))
WRITTEN_MATCHES = [kind for kind in get_args(Match) if kind not in ONLY_READ]
EVERY_PART: list[object] = [
    *WRITTEN_MATCHES,
    *((kind, "negated") for kind in WRITTEN_MATCHES if "negate" in getattr(kind, "__slots__", ())),
    *(kind for kind in get_args(Action) if kind not in ONLY_READ),
    *SetField,
    *RejectWith,
    *ChainType,
    *Hook,
    *Policy,
    "comment",
]


def test_generated_rulesets_have_every_variant() -> None:
    drawn: set[object] = set()

    @hypothesis_settings(quick, max_examples=700, derandomize=True, phases=[Phase.generate])
    @given(strategies.rulesets())
    def collect(ruleset: Ruleset) -> None:
        drawn.update(parts(ruleset))

    collect()
    assert set(EVERY_PART) - drawn == set()


def test_generated_captures_use_every_setting() -> None:
    drawn: set[str] = set()

    @hypothesis_settings(quick, max_examples=3000, derandomize=True, phases=[Phase.generate])
    @given(strategies.captures())
    def collect(capture: Capture) -> None:
        drawn.update(
            each.name for each in fields(Capture) if getattr(capture, each.name) != getattr(Capture(), each.name)
        )

    collect()
    assert {each.name for each in fields(Capture)} == drawn


def test_no_network_is_of_two_families() -> None:
    for family, network in ((Family.IPV4, "10.0.0.0/8"), (Family.IPV6, "fd00::/8")):
        capture = Capture.parse({"include_outbound_networks": [network]})
        assert {family_of(each) for each in capture.include_outbound_networks} == {family}


def test_json_is_one_document() -> None:
    document = json.loads(nft.render_json(pod.build(Capture())))
    assert list(document) == ["nftables"]
