"""Reading the rules that stand before Weir's, and working out what they take."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from agent.errors import WeirError
from agent.kernel import iptables as programs
from agent.kernel.handle import Handle
from agent.kernel.iptables import Flavour
from agent.kernel.nftables import Tables
from agent.kernel.tablequery import BaseChain, TableName
from agent.rivals import earlier_chains, legacy_tables
from agent.targets import Rival
from rulesets import iptables, nft
from rulesets.equivalence import Decided, Taken, What, taken
from rulesets.model import Ruleset
from rulesets.model.ruleset import NFT_NAME
from rulesets.vocabulary import (
    Action,
    Dnat,
    DnatTo,
    Drop,
    Family,
    ModelError,
    NoTrack,
    Redirect,
    Reject,
    RejectIcmp,
    SocketCgroup,
    SocketUser,
    Tproxy,
)
from rulesets.vocabulary.words import sent

MOST_RULES = 5_000
"""Of a table that has more nobody waits for what they take."""

_NODES = 200_000  # of a diagram: 100 MB
_IPTABLES = {"ip": Family.IPV4, "ip6": Family.IPV6}
_COUNTED = re.compile(r"packets=\d+, bytes=\d+")


def rivals(handle: Handle, ours: Ruleset) -> tuple[Rival, ...]:
    """Return whose rules take from `ours`, or may, those that do first. What can't be read is among them, with why."""
    earlier, legacy = earlier_chains(handle, ours), legacy_tables(handle)
    if not earlier and not legacy:
        return ()
    theirs, unread = [], []
    for each in _read(handle, earlier, legacy):
        if isinstance(each, Rival):
            unread.append(each)
        else:
            theirs.append(each)
    key = _COUNTED.sub("", repr((theirs, ours)))
    return (*_taking(_Asked(key=key, theirs=tuple(theirs), ours=ours)), *unread)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Theirs:
    """Somebody else's rules, and whose; `family` is None for tables that are nft's."""

    name: str
    ruleset: Ruleset
    family: Family | None = None


def _read(
    handle: Handle, earlier: tuple[BaseChain, ...], legacy: tuple[tuple[Family, tuple[str, ...]], ...]
) -> Iterator[_Theirs | Rival]:
    native = []
    by_iptables: dict[Family, None] = {}
    for table, rules in {each.table: each.in_table for each in earlier}.items():
        if rules > MOST_RULES:
            yield Rival(place=f"table {table}", why=f"it has {rules} rules, more than are compared")
        elif table.family in _IPTABLES and table.name in programs.TABLES:
            by_iptables[_IPTABLES[table.family]] = None
        else:
            native.append(table)
    flavours = [(Flavour.NFT, each) for each in by_iptables] + [(Flavour.LEGACY, family) for family, _ in legacy]
    for flavour, family in flavours:
        name = f"{iptables.PROGRAMS[family]}-{flavour}"
        try:
            with handle.netns.entered():  # without the handle's lock: a program may take its time
                yield _Theirs(name=name, ruleset=programs.read(flavour, family), family=family)
        except WeirError as error:
            yield Rival(place=name, why=f"its rules can't be read: {_first_line(error)}")
    if native:
        yield from _native(handle, native)


def _native(handle: Handle, tables: list[TableName]) -> Iterator[_Theirs | Rival]:
    with handle.inside():
        library = Tables()
    try:
        for each in tables:
            yield from _table(library, each)
    finally:
        library.close()


def _table(library: Tables, table: TableName) -> Iterator[_Theirs | Rival]:
    name = f"table {table}"
    if not NFT_NAME.fullmatch(table.name):
        yield Rival(place=f"table {table.family} {table.name!r}", why="nft itself could not read its name")
        return
    try:
        read = library.read_anybodys(table)
    except WeirError as error:
        yield Rival(place=name, why=f"its rules can't be read: {_first_line(error)}")
        return
    # The chains of a dormant table aren't called.
    yield from (_Theirs(name=name, ruleset=each) for each in read.rulesets if "dormant" not in each.flags)
    yield from (Rival(place=name, why=each) for each in read.unread)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A question whose answer is kept: equal for equal rules, whatever they have counted and hold that is foreign."""

    key: str
    theirs: tuple[_Theirs, ...] = field(compare=False)
    ours: Ruleset = field(compare=False)


@lru_cache(maxsize=32)
def _taking(asked: _Asked) -> tuple[Rival, ...]:
    """Return what is taken: of like namespaces it is worked out once."""
    found = taken(tuple(each.ruleset for each in asked.theirs), asked.ours, most_nodes=_NODES)
    told = [_rival(each, asked.theirs) for each in found.taken if not _tells_the_proxy(each)]
    return (*told, *(Rival(place="rules of others", why=each) for each in found.unread))


def _tells_the_proxy(each: Taken) -> bool:
    """Tell whether a rule gives the proxy's mark to what one user's or service's sockets send: so a proxy is told."""
    theirs, ours = each.by.rule, each.decided.rule
    return (
        not each.unknown
        and theirs is not None
        and any(isinstance(match, SocketUser | SocketCgroup) for match in theirs.matches)
        and ours is not None
        and ours.slug == "outbound-from-proxy"
    )


def _rival(each: Taken, theirs: tuple[_Theirs, ...]) -> Rival:
    whose = theirs[each.of] if 0 <= each.of < len(theirs) else None
    return Rival(
        place=_place(each.by, whose),
        rule=_text(each.by, whose),
        packet=str(each.witness),
        fate="" if each.unknown else _fate(each),
        why=f"nobody can tell: {each.unknown}" if each.unknown else "",
    )


def _place(by: Decided, whose: _Theirs | None) -> str:
    if whose is None or not by.chain:
        return "rules of others"
    return f"{whose.name}, {by.chain}, {f'rule {by.number}' if by.number else 'policy'}"


def _text(by: Decided, whose: _Theirs | None) -> str:
    if by.rule is None or whose is None:
        return "drop" if by.chain else ""
    try:
        return nft.render_rule(by.rule) if whose.family is None else iptables.render_rule(by.rule, whose.family)
    except ModelError:
        return nft.render_rule(by.rule)


def _fate(each: Taken) -> str:
    """Return what becomes of a packet, to be read after it."""
    if each.decided.rule is not None and each.decided.place != each.by.place and _captures(each.decided.rule.action):
        return "is captured, and isn't to be"
    action = each.by.rule.action if each.by.rule else None
    match action:
        case _ if each.what is What.FATE and isinstance(action, Reject | RejectIcmp):
            return "is refused"
        case _ if each.what is What.FATE and (action is None or isinstance(action, Drop)):
            return "is dropped"
        case Redirect() | Dnat() | DnatTo() | Tproxy():
            return f"is {sent(action)}"
        case NoTrack():
            return "goes past the proxy, untracked"
        case _:
            return "goes past the proxy"


def _captures(action: Action) -> bool:
    return isinstance(action, Redirect | Dnat)


def _first_line(error: WeirError) -> str:
    return str(error).partition("\n")[0]
