"""Listings of everybody's tables: nothing is dropped, nothing is guessed, and packets meet what the kernel calls."""

import copy
import json
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from rulesets import nft, pod
from rulesets.capture import Capture
from rulesets.equivalence import WANTED, Differs, Equal, Unknown, prove
from rulesets.model import Ruleset
from rulesets.nft import ListingError, Tables, parse_tables
from rulesets.packet import Fate, Packet, walk, walk_together
from rulesets.vocabulary import Accept, Comment, Continue, Family, Foreign, Hook, Protocol, Reject
from tests.istio_values import istio_tables

LISTINGS = Path(__file__).parent / "listings"
GUESTS = ("guest0", "br-0")
TCP: dict[str, Any] = {"payload": {"protocol": "tcp", "field": "dport"}}
TO: dict[str, Any] = {"payload": {"protocol": "ip", "field": "daddr"}}


def read(name: str) -> Tables:
    return parse_tables((LISTINGS / f"{name}.json").read_text())


def table(*rules: Any, family: str = "inet", **chain: Any) -> Ruleset:
    """A table with one chain on output that has these rules, as statements or as whole bodies."""
    at = {"family": family, "table": "t"}
    place = {"type": "filter", "hook": "output", "prio": 0, "policy": "accept", **chain}
    bodies = [each if isinstance(each, dict) else {"expr": each} for each in rules]
    objects = [
        {"table": {"family": family, "name": "t"}},
        {"chain": {**at, "name": "c", **place}},
        {"set": {**at, "name": "known", "type": "ipv4_addr", "elem": ["10.0.0.1"]}},
        *({"rule": {**at, "chain": "c", **body}} for body in bodies),
    ]
    (found,) = parse_tables(json.dumps({"nftables": objects})).rulesets
    return found


def match(left: dict[str, Any], right: Any, operator: str = "==") -> dict[str, Any]:
    return {"match": {"op": operator, "left": left, "right": right}}


def packet(to: str = "10.0.0.1", port: int = 80) -> Packet:
    source = "10.9.9.9" if ip_address(to).version == 4 else "fd00::9"
    return Packet(
        hook=Hook.OUTPUT, source=ip_address(source), destination=ip_address(to), destination_port=port, source_port=4000
    )


def written_and_read(rulesets: tuple[Ruleset, ...]) -> tuple[Ruleset, ...]:
    """What nft would be given, read again; what is foreign equals nothing, so it is their text that is compared."""
    return tuple(again for each in rulesets for again in parse_tables(nft.render_json(each)).rulesets)


def fates(ruleset: Ruleset, *packets: Packet) -> list[Fate]:
    return [walk(ruleset, each).fate for each in packets]


@pytest.mark.parametrize("name", ["docker", "firewalld", "iptables-nft", "istio", "kube-proxy"])
def test_every_rule_of_every_listing_becomes_one(name: str) -> None:
    found, listed = read(name), json.loads((LISTINGS / f"{name}.json").read_text())["nftables"]
    rules = [rule for each in found.rulesets for rule in each.rules()]
    assert not found.unread
    assert len(rules) == sum("rule" in each for each in listed)
    assert repr(written_and_read(found.rulesets)) == repr(found.rulesets)


def test_istios_listing_is_what_its_tables_mean() -> None:
    found, wanted = read("istio").rulesets, istio_tables(virtual_interfaces=GUESTS)
    for one, other in zip(found, wanted, strict=True):
        assert {each.name: each for each in one.ordered()} == {each.name: each for each in other.ordered()}
    rules = pod.build(Capture.parse({"virtual_interfaces": list(GUESTS)}))
    assert isinstance(prove(rules, found, expected=tuple(WANTED)), Equal)


def test_kube_proxys_chains_keep_their_names_and_maps_are_foreign() -> None:
    (found,) = read("kube-proxy").rulesets
    assert found.family is Family.IPV4
    assert not found.is_iptables
    assert "service-NWBZK7IH-kube-system/kube-dns/udp/dns" in {each.name for each in found.regular}
    assert [json.loads(each.verbatim).keys() for each in found.objects] == [{"map"}] * 3
    assert fates(found, packet("10.96.0.1"), packet("fd00::1")) == [Fate.UNKNOWN, Fate.ACCEPTED]


def test_a_table_of_one_family_is_met_by_that_family_alone() -> None:
    found = table([{"drop": None}], family="ip6")
    assert fates(found, packet("10.0.0.1"), packet("fd00::1")) == [Fate.ACCEPTED, Fate.DROPPED]


@pytest.mark.parametrize(
    ("statements", "dropped"),
    [
        ([match(TO, {"set": ["10.0.0.1", {"range": ["10.0.0.2", "10.0.0.3"]}]})], ["10.0.0.1", "10.0.0.3"]),
        ([match(TO, {"set": ["10.0.0.1", {"prefix": {"addr": "10.0.0.2", "len": 31}}]}, "!=")], ["10.0.0.4"]),
        ([match(TO, "@known")], ["10.0.0.1"]),
        ([match(TCP, {"set": [80, {"range": [8000, 8080]}]}), match(TO, "10.0.0.3")], ["10.0.0.3"]),
        ([{"log": {"prefix": "seen"}}, {"counter": {"packets": 1, "bytes": 2}}], ["10.0.0.1", "10.0.0.3", "10.0.0.4"]),
    ],
)
def test_a_packet_meets_what_a_rule_asks_for(statements: list[dict[str, Any]], dropped: list[str]) -> None:
    found = table([*statements, {"drop": None}])
    addresses = ["10.0.0.1", "10.0.0.3", "10.0.0.4"]
    assert not next(found.rules()).foreign
    wanted = [Fate.DROPPED if each in dropped else Fate.ACCEPTED for each in addresses]
    assert fates(found, *map(packet, addresses)) == wanted
    assert fates(found, packet("fd00::1")) == [Fate.DROPPED if len(dropped) == 3 else Fate.ACCEPTED]
    assert isinstance(prove(found, found), Equal)
    assert isinstance(prove(found, table()), Differs)


@pytest.mark.parametrize(
    "statements",
    [
        [{"limit": {"rate": 5, "per": "second"}}, {"drop": None}],
        [{"set": {"op": "add", "elem": {"payload": {"protocol": "ip", "field": "daddr"}}, "set": "@known"}}],
        [match({"ct": {"key": "state"}}, "new"), {"drop": None}],
        [match({"meta": {"key": "iifname"}}, 'a" accept'), {"drop": None}],
        [match(TO, "@unknown"), {"drop": None}],
        [match(TCP, {"set": [{"elem": {"val": 80, "timeout": 5}}]}), {"drop": None}],
        [match({"meta": {"key": "skuid"}}, 5, "!="), {"drop": None}],
        [{"mangle": {"key": {"meta": {"key": "mark"}}, "value": 1}}, {"drop": None}],
        [{"vmap": {"key": TCP, "data": {"set": [[80, {"drop": None}]]}}}],
        [{"redirect": {"port": 0}}],
        [{"xt": None}],
        [{"new": {"thing": 1}}],
        [{"drop": None, "accept": None}],
        [{"drop": None}, {"accept": None}],
        ["drop"],
        [None],
    ],
    ids=str,
)
def test_what_is_not_known_is_kept_verbatim_and_never_called_equal(statements: list[Any]) -> None:
    found = table(statements)
    (rule,) = found.rules()
    assert rule.foreign
    said = [json.loads(each.verbatim) for each in rule.foreign]
    assert any(each in said or statements in said or [each] in said for each in statements)
    assert json.loads(nft.render_json(found))["nftables"][-1]["rule"]["expr"] == statements
    assert "(" in nft.render_rule(rule)
    if not isinstance(rule.action, Continue):
        assert isinstance(prove(found, found), Unknown)


def test_a_set_that_rules_add_to_is_not_what_it_was_when_it_was_listed() -> None:
    adding = {"set": {"op": "add", "elem": TO, "set": "@known"}}
    found = table([adding], [match(TO, "@known"), {"drop": None}])
    assert not found.sets
    assert [rule.foreign != () for rule in found.rules()] == [True, True]


def test_comments_are_reasons_or_remarks() -> None:
    found = table(
        {"expr": [{"accept": None}], "comment": "a-slug"},
        {"expr": [{"drop": None}], "comment": 'a "quoted" remark\n'},
    )
    one, other = found.rules()
    assert (one.slug, one.matches, one.action) == ("a-slug", (), Accept())
    assert (other.slug, other.matches) == ("", (Comment(text='a "quoted" remark\n'),))
    assert nft.render_rule(one) == 'accept comment "a-slug"'
    assert nft.render_rule(other).startswith("(a ")
    assert json.loads(nft.render_json(found))["nftables"][-1]["rule"]["comment"] == 'a "quoted" remark\n'


def test_chains_of_one_priority_stay_in_the_order_in_which_they_were_made() -> None:
    """Both are nat chains: the first that translates a connection decides."""
    at = {"family": "inet", "table": "t"}
    place = {"type": "nat", "hook": "output", "prio": -100}
    objects: list[dict[str, Any]] = [{"table": {"family": "inet", "name": "t"}}]
    for name, port in (("z", 1), ("a", 2)):
        rule = {"expr": [match(TCP, 80), {"redirect": {"port": port}}]}
        objects += [{"chain": {**at, "name": name, **place}}, {"rule": {**at, "chain": name, **rule}}]
    (found,) = parse_tables(json.dumps({"nftables": objects})).rulesets
    assert [each.name for each in found.chains] == ["z", "a"]
    assert walk(found, packet()).packet.destination_port == 1


def test_several_tables_are_met_by_priority() -> None:
    early = table([match(TCP, 80), {"reject": {"type": "tcp reset"}}], prio=-10)
    late = table([{"accept": None}], family="ip")
    assert walk_together((late, early), packet()).fate is Fate.REFUSED
    assert isinstance(next(early.rules()).action, Reject)
    assert isinstance(prove((late, early), (early,)), Equal)


def test_a_chain_that_is_called_elsewhere_is_foreign_with_its_rules() -> None:
    found = table([{"drop": None}], hook="ingress", dev="eth0")
    assert not found.chains
    assert [list(json.loads(each.verbatim)) for each in found.foreign] == [["chain"], ["rule"]]
    assert isinstance(prove(found, found), Unknown)


def hostile() -> Iterator[tuple[str, str]]:
    yield "not an nft listing", "{"
    yield "not an nft listing", "[" * 100_000
    yield "not an nft listing", '{"nftables": [{"rule": 3}]}'
    yield "not an nft listing", '{"nftables": [{"table": {"family": "inet"}}]}'
    yield "comes twice", json.dumps({"nftables": [{"table": {"family": "ip", "name": "t"}}] * 2})
    lost = {"rule": {"family": "ip", "table": "t", "chain": "c", "expr": []}}
    yield "is not in the listing, and has a rule", json.dumps({"nftables": [lost]})
    yield "isn't in the listing", json.dumps({"nftables": [{"table": {"family": "ip", "name": "t"}}, lost]})
    odd = {"table": {"family": "ip", "name": "t", "flags": ["owner; }"]}}
    yield "its flags are", json.dumps({"nftables": [odd]})


@pytest.mark.parametrize(("message", "text"), list(hostile()), ids=lambda each: repr(each[:40]))
def test_what_is_no_listing_is_an_error(message: str, text: str) -> None:
    with pytest.raises(ListingError, match=message):
        parse_tables(text)


@pytest.mark.parametrize("name", ["a b", 'x"', "", "-1", "x" * 256, "é", "a\n"])
def test_a_name_that_nft_could_not_read_leaves_the_table_unread(name: str) -> None:
    found = parse_tables(json.dumps({"nftables": [{"table": {"family": "inet", "name": name}}]}))
    assert not found.rulesets
    assert len(found.unread) == 1


@pytest.mark.parametrize(
    "junk", [None, True, -1, 2**80, "x", [], {}, [{}], {"range": [1]}, {"prefix": {"len": -(10**9)}}]
)
def test_junk_anywhere_is_kept_or_an_error(junk: Any) -> None:
    document = json.loads((LISTINGS / "istio.json").read_text())["nftables"]
    wanted, done = read("istio").rulesets, set[tuple[str, str, str]]()
    for number, each in enumerate(document):
        for at, expression in enumerate(each.get("rule", {}).get("expr", ())):
            ((kind, body),) = expression.items()
            for key in body if isinstance(body, dict) and kind != "counter" else ():
                if (kind, key, str(body[key])) in done:
                    continue
                done.add((kind, key, str(body[key])))
                changed = copy.deepcopy(document)
                changed[number]["rule"]["expr"][at][kind][key] = junk
                try:
                    found = parse_tables(json.dumps({"nftables": changed})).rulesets
                except ListingError:
                    assert kind == "jump"
                    continue
                assert found != wanted, f"{kind} {key}"
                assert repr(written_and_read(found)) == repr(found), f"{kind} {key}"


def test_long_listings_are_read_whole() -> None:
    """100,000 elements, 20,000 rules and as many chains; how long it takes stands in docs."""
    at = {"family": "ip", "table": "t"}
    count = 20_000
    elements = [f"10.{each >> 16}.{each >> 8 & 255}.{each & 255}" for each in range(100_000)]
    objects: list[dict[str, Any]] = [{"table": {"family": "ip", "name": "t"}}]
    objects.append({"set": {**at, "name": "s", "type": "ipv4_addr", "elem": elements}})
    objects += [{"chain": {**at, "name": f"c{each}"}} for each in range(count)]
    jumps = [{"jump": {"target": f"c{each + 1}"}} for each in range(count - 1)]
    objects += [{"rule": {**at, "chain": f"c{each}", "expr": [jump]}} for each, jump in enumerate(jumps)]
    (found,) = parse_tables(json.dumps({"nftables": objects})).rulesets
    assert len(found.sets[0].elements) == 100_000
    assert len(tuple(found.rules())) == count - 1
    objects.append({"rule": {**at, "chain": f"c{count - 1}", "expr": [{"jump": {"target": "c0"}}]}})
    with pytest.raises(ListingError, match="leads back to itself"):
        parse_tables(json.dumps({"nftables": objects}))


def test_something_foreign_says_what_it_is() -> None:
    (rule,) = table([match({"ct": {"key": "status"}}, "dnat", "in"), {"accept": None}]).rules()
    (part,) = rule.foreign
    assert isinstance(part, Foreign)
    assert part.verbatim == '{"match": {"left": {"ct": {"key": "status"}}, "op": "in", "right": "dnat"}}'
    assert packet().protocol is Protocol.TCP
