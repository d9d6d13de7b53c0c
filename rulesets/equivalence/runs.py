"""Rules in a row that do the same, each for another network or port, as one rule that is about all of them at once.

A list of a thousand blocked addresses is a thousand rules in iptables, and one set to the packets. Together they cut
the addresses into two atoms rather than a thousand and one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise

from rulesets.equivalence.atoms import Span, joined
from rulesets.equivalence.spans import ends_of
from rulesets.model import (
    IPV4_ADDR,
    IPV6_ADDR,
    AddressRange,
    Chain,
    Count,
    Element,
    ElementValue,
    RegularChain,
    Rule,
    Ruleset,
    Set,
)
from rulesets.vocabulary import (
    Accept,
    Comment,
    Dnat,
    DnatTo,
    Drop,
    Dst,
    DstPort,
    End,
    Family,
    Goto,
    InSet,
    Masquerade,
    Match,
    PortRange,
    Ports,
    Redirect,
    Reject,
    RejectIcmp,
    Return,
    SetField,
    Snat,
    Src,
    SrcPort,
    Tproxy,
    family_of,
    host_network,
)

# With these a packet leaves the chain, so that it can't meet a second rule of the run.
_LEAVING = Accept | Dnat | DnatTo | Drop | Goto | Masquerade | Redirect | Reject | RejectIcmp | Return | Snat | Tproxy
_FIELDS = {
    (Src, Family.IPV4): SetField.SRC_V4,
    (Src, Family.IPV6): SetField.SRC_V6,
    (Dst, Family.IPV4): SetField.DST_V4,
    (Dst, Family.IPV6): SetField.DST_V6,
}
_Asked = Src | Dst | SrcPort | DstPort


@dataclass(frozen=True, kw_only=True)
class Merged:
    """A ruleset to be compared for its original, and for each chain which rules of that each rule stands for."""

    original: Ruleset
    ruleset: Ruleset
    places: dict[str, tuple[range, ...]]


def merged(ruleset: Ruleset) -> Merged:
    """Return a ruleset that treats every packet alike, with runs of rules as one rule each."""
    sets = {each.name: each for each in ruleset.sets}
    places: dict[str, tuple[range, ...]] = {}
    chains = tuple(replace(each, rules=_rules(each, sets, places)) for each in ruleset.chains)
    regular = tuple(replace(each, rules=_rules(each, sets, places)) for each in ruleset.regular)
    if all(len(rules) == 1 for some in places.values() for rules in some):
        return Merged(original=ruleset, ruleset=ruleset, places=places)
    made = replace(ruleset, chains=chains, regular=regular, sets=tuple(sets.values()))
    return Merged(original=ruleset, ruleset=made, places=places)


def unmerged(ruleset: Ruleset) -> Merged:
    """Return a ruleset as it is."""
    chains: tuple[Chain | RegularChain, ...] = (*ruleset.chains, *ruleset.regular)
    places = {each.name: tuple(range(at, at + 1) for at in range(len(each.rules))) for each in chains}
    return Merged(original=ruleset, ruleset=ruleset, places=places)


def _rules(chain: Chain | RegularChain, sets: dict[str, Set], places: dict[str, tuple[range, ...]]) -> tuple[Rule, ...]:
    """Return a chain's rules, adding the sets that they need, and the places that they stand for."""
    bare = [_without_remarks(each.matches) for each in chain.rules]
    rules: list[Rule] = []
    here: list[range] = []
    at = 0
    while at < len(bare):
        run, position = _run(chain.rules, bare, at)
        asked = [bare[number][position] for number in run] if len(run) > 1 else []
        union = _union(asked, chain.rules[at], sets)
        if union is None:
            run = range(at, at + 1)
            rules.append(chain.rules[at])
        else:
            matches = (*bare[at][:position], union, *bare[at][position + 1 :])
            rules.append(Rule(slug="", matches=matches, action=chain.rules[at].action, count=Count()))
        here.append(run)
        at = run.stop
    places[chain.name] = tuple(here)
    return tuple(rules)


def _without_remarks(matches: tuple[Match, ...]) -> tuple[Match, ...]:
    return tuple(each for each in matches if not isinstance(each, Comment))


def _run(rules: Sequence[Rule], bare: Sequence[tuple[Match, ...]], at: int) -> tuple[range, int]:
    """Return the rules from one on that differ in one place alone, where each asks for another value, and the place."""
    stop, position = at + 1, -1
    while stop < len(rules) and rules[stop].action == rules[at].action:
        found = _position(bare[at], bare[stop])
        if found < 0 or position not in (-1, found):
            break
        position, stop = found, stop + 1
    return range(at, stop), position


def _position(one: tuple[Match, ...], other: tuple[Match, ...]) -> int:
    """Return where two rules ask for different values of one field, all else being equal; -1 if it isn't so."""
    if len(one) != len(other):
        return -1
    apart = [number for number, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]]
    return apart[0] if len(apart) == 1 and _same_field(one[apart[0]], other[apart[0]]) else -1


def _same_field(one: Match, other: Match) -> bool:
    match one, other:
        case (Src(network=first, negate=False), Src(network=second, negate=False)) | (
            Dst(network=first, negate=False),
            Dst(network=second, negate=False),
        ):
            return first.version == second.version
        case (SrcPort(protocol=protocol, negate=False), SrcPort(protocol=same, negate=False)) | (
            DstPort(protocol=protocol, negate=False),
            DstPort(protocol=same, negate=False),
        ):
            return protocol is same
        case _:
            return False


def _union(asked: Sequence[Match], rule: Rule, sets: dict[str, Set]) -> Match | None:
    """Return what holds where one of some matches does; None for fewer than two, or where order or number matters."""
    of_field = [each for each in asked if isinstance(each, _Asked)]
    if len(of_field) < 2:
        return None
    spans = sorted(map(_span, of_field))
    overlap = any(last >= first for (_, last), (first, _) in pairwise(spans))
    if overlap and not isinstance(rule.action, _LEAVING):
        return None  # a packet could meet two of these rules, and the second as something else
    whole = tuple(joined(spans))
    match of_field[0]:
        case SrcPort(protocol=protocol) | DstPort(protocol=protocol) as first:
            end = End.SOURCE if isinstance(first, SrcPort) else End.DESTINATION
            return Ports(protocol=protocol, end=end, ranges=tuple(PortRange(*span) for span in whole))
        case Src(network=network) | Dst(network=network) as first:
            family = family_of(network)
            name = next(name for at in range(len(sets) + 1) if (name := f"run-{len(sets) + at}") not in sets)
            elements = tuple(Element(value=_element(span, family)) for span in whole)
            key = IPV4_ADDR if family is Family.IPV4 else IPV6_ADDR
            sets[name] = Set(name=name, key=key, interval=True, elements=elements)
            return InSet(field=_FIELDS[type(first), family], name=name)


def _span(asked: _Asked) -> Span:
    if isinstance(asked, Src | Dst):
        return ends_of(asked.network)
    return asked.ports.first, asked.ports.last


def _element(span: Span, family: Family) -> ElementValue:
    if family is Family.IPV4:
        first, last = IPv4Address(span[0]), IPv4Address(span[1])
        return host_network(first) if first == last else AddressRange(first, last)
    low, high = IPv6Address(span[0]), IPv6Address(span[1])
    return host_network(low) if low == high else AddressRange(low, high)
