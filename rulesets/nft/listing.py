"""``nft -j list`` output as a `Ruleset` (libnftables-json(5)).

What this doesn't know becomes `Foreign`: kept verbatim, equal to nothing, never dropped, never guessed. nft prints one
rule in many ways; every way in which it prints what Weir writes is read back as the same value.
"""

import dataclasses
import json
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import TypeVar

from rulesets.model import (
    AddressPort,
    AddressRange,
    Chain,
    Counter,
    Element,
    ElementValue,
    KeyType,
    Rule,
    Ruleset,
    Set,
)
from rulesets.model.ruleset import OBJECT_NAME
from rulesets.nft.read_json import Json
from rulesets.nft.statements import Unknown, action_of, match_of
from rulesets.vocabulary import Action, ChainType, Foreign, Hook, InSet, Match, ModelError, Policy, PortRange

_T = TypeVar("_T")
_PLACE = {"family", "table", "name", "handle"}


class ListingError(ValueError):
    """The text is not an nft listing in JSON."""


def parse(listing: str, table: str) -> Ruleset | None:
    """Return the ``inet`` table of this name out of a listing, or None when it isn't in it.

    Raises `ListingError` when the text is no nft JSON.
    """
    try:
        objects = json.loads(listing)["nftables"]
        pairs = [(kind, body) for each in objects for kind, body in each.items() if kind != "metainfo"]
        ours = [(kind, body) for kind, body in pairs if _belongs(kind, body, table)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ListingError(f"not an nft listing in JSON: {error!r}") from None
    if not any(kind == "table" for kind, _ in ours):
        return None
    reader = _Reader(table)
    for kind, body in ours:
        reader.take(kind, body)
    try:
        return reader.ruleset()
    except ModelError:
        # Together they are something that the model has no place for, such as two chains of one name.
        return Ruleset(table=table, foreign=tuple(_foreign({kind: body}) for kind, body in ours))


def _belongs(kind: str, body: Json, table: str) -> bool:
    return body["family"] == "inet" and body["name" if kind == "table" else "table"] == table


def _foreign(what: object) -> Foreign:
    return Foreign(verbatim=json.dumps(what, sort_keys=True))


class _Reader:
    """Collects the objects of one listing."""

    def __init__(self, table: str) -> None:
        self.table = table
        self.chains: dict[str, Chain] = {}
        self.rules: dict[str, list[tuple[str, list[Json]]]] = {}
        self.sets: dict[str, Set] = {}
        self.counters: dict[str, Counter] = {}
        self.foreign: list[Foreign] = []

    def take(self, kind: str, body: Json) -> None:
        """Read one object; what it holds beyond what Weir writes makes it foreign."""
        readers: dict[str, Callable[[Json], None]] = {
            "table": self._table,
            "chain": self._chain,
            "set": self._set,
            "counter": self._counter,
            "rule": self._rule,
        }
        try:
            readers[kind](body)
        except (Unknown, KeyError, ValueError, TypeError, AttributeError):
            self.foreign.append(_foreign({kind: body}))

    def ruleset(self) -> Ruleset:
        """Return all that was read."""
        chains = (
            dataclasses.replace(chain, rules=tuple(self._read_rule(*each) for each in self.rules.get(name, ())))
            for name, chain in self.chains.items()
        )
        return Ruleset(
            table=self.table,
            chains=tuple(chains),
            sets=tuple(self.sets.values()),
            counters=tuple(self.counters.values()),
            foreign=tuple(self.foreign),
        )

    def _read_rule(self, slug: str, expressions: list[Json]) -> Rule:
        rule = _rule(slug, expressions)
        looked_up = {match.name for match in rule.matches if isinstance(match, InSet)}
        if rule.foreign or (slug in self.counters and looked_up <= self.sets.keys()):
            return rule
        # It refers to something that is foreign itself, such as a set whose elements time out.
        return Rule(slug=slug, matches=(_foreign(expressions),), action=rule.action)

    def _table(self, body: Json) -> None:
        # Who owns the table, and whether it outlives its owner, is not a matter of rules. A dormant table's chains are
        # not called at all.
        flags = body.get("flags", [])
        if "dormant" in (flags if isinstance(flags, list) else [flags]):
            raise Unknown(flags)

    def _chain(self, body: Json) -> None:
        _only(body, {"type", "hook", "prio", "policy"})
        name = _name(body)
        priority = body["prio"]
        if not isinstance(priority, int) or name in self.chains:
            raise Unknown(body)
        self.chains[name] = Chain(
            name=name,
            type=ChainType(str(body["type"])),
            hook=Hook(str(body["hook"])),
            priority=priority,
            policy=Policy(str(body["policy"])),
        )

    def _counter(self, body: Json) -> None:
        _only(body, {"packets", "bytes"})
        packets, size = body["packets"], body["bytes"]
        if not (isinstance(packets, int) and isinstance(size, int)):
            raise Unknown(body)
        name = _name(body)
        if name in self.counters:
            raise Unknown(name)
        self.counters[name] = Counter(name=name, packets=packets, bytes=size)

    def _set(self, body: Json) -> None:
        _only(body, {"type", "flags", "elem"})
        flags = body.get("flags", [])
        if flags not in ([], ["interval"], "interval"):
            raise Unknown(flags)
        types = body["type"]
        key = KeyType(" . ".join(map(str, types)) if isinstance(types, list) else str(types))
        elements = body.get("elem", [])
        if not isinstance(elements, list):
            raise Unknown(elements)
        read = tuple(element_of(each) for each in elements)
        name = _name(body)
        if name in self.sets:
            raise Unknown(name)
        self.sets[name] = Set(name=name, key=key, interval=bool(flags), elements=read)

    def _rule(self, body: Json) -> None:
        _only(body, {"chain", "expr", "comment"})
        chain, expressions = str(body["chain"]), body["expr"]
        if chain not in self.chains or not isinstance(expressions, list):
            raise Unknown(body)
        self.rules.setdefault(chain, []).append((str(body.get("comment", "")), expressions))


def _name(body: Json) -> str:
    name = body["name"]
    if not isinstance(name, str) or not OBJECT_NAME.fullmatch(name):
        raise Unknown(name)
    return name


def _only(body: Json, known: set[str]) -> None:
    """Refuse an object with an attribute that Weir never writes: reading it without would hide a difference."""
    unknown = body.keys() - known - _PLACE
    if unknown:
        raise Unknown(unknown)


def _rule(slug: str, expressions: list[Json]) -> Rule:
    """Return the rule of an expression list: matches, the counter of the slug's name, one action.

    Anything that stands where Weir writes something else is kept as a foreign match or action, in its place.
    """
    *before, last = expressions or [{"nothing": None}]
    matches: list[Match] = []
    counted = False
    for each in before:
        if each == {"counter": slug} and not counted:
            counted = True
        elif counted:
            matches.append(_foreign(each))  # Weir counts last, so this belongs to no rule of its own
        else:
            matches.append(_known(match_of, each))
    if not counted:
        matches.append(Foreign(verbatim="no counter of its own"))
    action: Action = _known(action_of, last)
    try:
        return Rule(slug=slug, matches=tuple(matches), action=action)
    except ValueError:
        return Rule(slug=slug, matches=(_foreign(expressions),), action=action)


def _known(read: Callable[[Json], _T], expression: Json) -> _T | Foreign:
    try:
        if len(expression) != 1:
            raise Unknown(expression)
        return read(expression)
    except (Unknown, KeyError, ValueError, TypeError, AttributeError):
        return _foreign(expression)


def element_of(shown: object) -> Element:
    """Return an element of a set; raises `Unknown` (or what a wrong shape raises) where it has more than a comment."""
    comment = ""
    if isinstance(shown, dict) and "elem" in shown:
        body = shown["elem"]
        if body.keys() - {"val", "comment"}:
            raise Unknown(shown)
        shown, comment = body["val"], str(body.get("comment", ""))
    return Element(value=_element_value(shown), comment=comment)


def _element_value(shown: object) -> ElementValue:
    match shown:
        case bool():
            raise Unknown(shown)
        case int():
            return PortRange(shown, shown)
        case str():
            return ip_network(shown)
        case {"prefix": {"addr": str(address), "len": int(length)}}:
            return ip_network(f"{address}/{length}")
        case {"range": [int(first), int(last)]}:
            return PortRange(first, last)
        case {"range": [str(low), str(high)]}:
            return AddressRange(ip_address(low), ip_address(high))
        case {"concat": [str(address), int(port)]}:
            return AddressPort(ip_address(address), port)
        case _:
            raise Unknown(shown)
