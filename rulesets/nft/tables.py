"""All tables of an ``nft -j list ruleset``, as anybody may have written them.

Whatever a packet may meet becomes a rule, in its place: a part of one that has no variant is `Foreign`, with its JSON.
Tables of the families ``inet``, ``ip`` and ``ip6`` are read; ``arp`` no packet of either family meets.
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from rulesets.model import Chain, Counter, KeyType, RegularChain, Rule, Ruleset, Set
from rulesets.model.ruleset import NFT_NAME
from rulesets.nft.listing import ListingError, element_of
from rulesets.nft.read_json import Json
from rulesets.nft.rules import Rules, foreign
from rulesets.nft.statements import MISSHAPEN, Unknown
from rulesets.vocabulary import ChainType, Family, Foreign, Hook, ModelError, Policy

_FAMILIES = {"inet": None, "ip": Family.IPV4, "ip6": Family.IPV6}
_PLACE = {"family", "table", "name", "handle"}
_FLAG = re.compile(r"[a-z0-9]{1,20}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """The tables of a listing that could be read, in its order, and why the others could not.

    `compat` names the tables with parts that only iptables can read: libnftables prints them without their content.
    """

    rulesets: tuple[Ruleset, ...] = ()
    unread: tuple[str, ...] = ()
    compat: tuple[str, ...] = ()


def parse_tables(listing: str) -> Tables:
    """Return every table of a listing. Takes time and memory by its length.

    Raises `ListingError` for what is no listing, and for a chain that leads to itself or to where there is none.
    """
    try:
        tables = _sorted(json.loads(listing)["nftables"])
        return _read(tables)
    except ListingError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ListingError(f"not an nft listing in JSON: {error!r}") from None


@dataclass(slots=True)
class _Listed:
    """What a listing has of one table, and in which order."""

    family: str
    name: str
    body: Json
    objects: list[tuple[str, Json]] = field(default_factory=list)
    rules: list[Json] = field(default_factory=list)

    def __str__(self) -> str:
        return f"table {self.family} {self.name}"


def _sorted(objects: list[Json]) -> dict[tuple[str, str], _Listed]:
    tables: dict[tuple[str, str], _Listed] = {}
    for each in objects:
        for kind, body in each.items():
            if kind == "metainfo":
                continue
            if not isinstance(body, dict):
                raise ListingError(f"not an nft listing in JSON: {kind} is {body!r}")
            family, name = str(body["family"]), str(body["name" if kind == "table" else "table"])
            if kind == "table" and (family, name) in tables:
                raise ListingError(f"table {family} {name} comes twice")
            if kind == "table":
                tables[family, name] = _Listed(family, name, body)
            elif (family, name) not in tables:
                raise ListingError(f"table {family} {name} is not in the listing, and has a {kind}")
            elif kind == "rule":
                tables[family, name].rules.append(body)
            else:
                tables[family, name].objects.append((kind, body))
    return tables


def _read(tables: dict[tuple[str, str], _Listed]) -> Tables:
    rulesets: list[Ruleset] = []
    unread: list[str] = []
    compat: list[str] = []
    for each in tables.values():
        if each.family == "arp":
            continue
        if each.family not in _FAMILIES:
            unread.append(f"{each}: only tables of the families inet, ip and ip6 are read")
            continue
        try:
            names = [each.name, *(str(body["name"]) for _, body in each.objects)]
            odd = next((name for name in names if not NFT_NAME.fullmatch(name)), None)
            if odd is not None:
                unread.append(f"{each}: holds the name {odd!r}, which nft itself could not read")
                continue
            rulesets.append(_Reader(each).ruleset())
            compat += [str(each)] if any(map(_is_compat, each.rules)) else []
        except ModelError as error:
            raise ListingError(f"{each}: {error}") from None
    return Tables(rulesets=tuple(rulesets), unread=tuple(unread), compat=tuple(compat))


class _Reader:
    """Reads one table."""

    def __init__(self, listed: _Listed) -> None:
        self.listed = listed
        self.chains: dict[str, Chain | RegularChain] = {}
        self.elsewhere: set[str] = set()
        self.sets: dict[str, Set] = {}
        self.counters: dict[str, Counter] = {}
        self.objects: list[Foreign] = []
        self.foreign: list[Foreign] = []
        # A set that rules add to holds by now what no listing says.
        self.growing = {name for rule in listed.rules for name in _grown_by(rule)}
        for kind, body in listed.objects:
            self._take(kind, body)

    def ruleset(self) -> Ruleset:
        """Return the table; where its rules in Weir's own form are more than the model allows, as others'."""
        try:
            return self._ruleset(own=True)
        except ModelError:
            return self._ruleset(own=False)

    def _ruleset(self, *, own: bool) -> Ruleset:
        read = Rules(sets=self.sets, counters=self.counters.keys(), elsewhere=self.elsewhere, own=own)
        rules: dict[str, list[Rule]] = {name: [] for name in self.chains}
        elsewhere = list(self.foreign)
        for body in self.listed.rules:
            chain = str(body["chain"])
            if chain in rules:
                rules[chain].append(read.rule(body))
            elif chain in self.elsewhere:
                elsewhere.append(foreign({"rule": body}))
            else:
                raise ListingError(f"{self.listed}: a rule stands in chain {chain!r}, which isn't in the listing")
        filled = [dataclasses.replace(each, rules=tuple(rules[name])) for name, each in self.chains.items()]
        return Ruleset(
            table=self.listed.name,
            family=_FAMILIES[self.listed.family],
            theirs=True,
            flags=self._flags(),
            comment=str(self.listed.body.get("comment", "")),
            chains=tuple(each for each in filled if isinstance(each, Chain)),
            regular=tuple(each for each in filled if isinstance(each, RegularChain)),
            sets=tuple(self.sets.values()),
            counters=tuple(self.counters.values()),
            objects=tuple(self.objects),
            foreign=tuple(elsewhere),
            order=tuple(self.chains),
        )

    def _flags(self) -> tuple[str, ...]:
        flags = self.listed.body.get("flags", [])
        told = tuple(str(each) for each in (flags if isinstance(flags, list) else [flags]))
        if not all(map(_FLAG.fullmatch, told)):
            raise ListingError(f"{self.listed}: its flags are {flags!r}")
        return told

    def _take(self, kind: str, body: Json) -> None:
        """Read one object. One that only rules refer to can stay as it is; a chain that is called can't be passed."""
        name = str(body["name"])
        if kind == "chain":
            if name in self.chains or name in self.elsewhere:
                raise ListingError(f"{self.listed}: chain {name!r} comes twice")
            try:
                self.chains[name] = _chain(body)
            except MISSHAPEN:
                self.elsewhere.add(name)
                self.foreign.append(foreign({kind: body}))
            return
        try:
            if kind == "set" and name not in self.growing and name not in self.sets:
                self.sets[name] = _set(body)
            elif kind == "counter" and name not in self.counters:
                self.counters[name] = _counter(body)
            else:
                self.objects.append(foreign({kind: body}))
        except MISSHAPEN:
            self.objects.append(foreign({kind: body}))


def _grown_by(rule: Json) -> Iterator[str]:
    expressions = rule.get("expr", [])
    for each in expressions if isinstance(expressions, list) else []:
        match each:
            case {"set": {"set": str(name)}}:
                yield name.removeprefix("@")
            case _:
                pass


def _is_compat(rule: Json) -> bool:
    expressions = rule.get("expr", [])
    return isinstance(expressions, list) and any(isinstance(each, dict) and "xt" in each for each in expressions)


def _only(body: Json, known: set[str]) -> None:
    unknown = body.keys() - known - _PLACE
    if unknown:
        raise Unknown(unknown)


def _chain(body: Json) -> Chain | RegularChain:
    name, comment = str(body["name"]), str(body.get("comment", ""))
    if body.keys() <= _PLACE | {"comment"}:
        return RegularChain(name=name, comment=comment)
    _only(body, {"type", "hook", "prio", "policy", "comment"})
    priority = body["prio"]
    if not isinstance(priority, int) or isinstance(priority, bool):
        raise Unknown(body)
    return Chain(
        name=name,
        type=ChainType(str(body["type"])),
        hook=Hook(str(body["hook"])),
        priority=priority,
        policy=Policy(str(body.get("policy", Policy.ACCEPT))),
        comment=comment,
    )


def _counter(body: Json) -> Counter:
    _only(body, {"packets", "bytes"})
    packets, size = body["packets"], body["bytes"]
    if not (isinstance(packets, int) and isinstance(size, int)):
        raise Unknown(body)
    return Counter(name=str(body["name"]), packets=packets, bytes=size)


def _set(body: Json) -> Set:
    _only(body, {"type", "flags", "elem", "comment", "size"})
    flags, types, elements = body.get("flags", []), body["type"], body.get("elem", [])
    size, comment = body.get("size"), body.get("comment", "")
    if flags not in ([], ["interval"], "interval") or not isinstance(elements, list):
        raise Unknown(flags)
    if not (size is None or isinstance(size, int)) or not isinstance(comment, str):
        raise Unknown(size)
    return Set(
        name=str(body["name"]),
        key=KeyType(" . ".join(map(str, types)) if isinstance(types, list) else str(types)),
        interval=bool(flags),
        elements=tuple(element_of(each) for each in elements),
        comment=comment,
        size=size,
    )
