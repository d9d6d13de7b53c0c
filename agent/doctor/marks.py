"""Rules of others, of nft and of both flavours of iptables, that set bits of Weir's marks or choose packets by them."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

from agent.doctor.findings import Finding, Level
from agent.errors import WeirError
from agent.kernel import iptables as programs
from agent.kernel.handle import Handle
from agent.kernel.iptables import Flavour
from agent.kernel.nftables import Tables
from agent.migration.owners import chains_by_owner, is_istios_in_pod
from agent.rivals.reading import MOST_RULES
from agent.words import counted
from rulesets import iptables, nft
from rulesets.capture import Capture
from rulesets.host import HOST_TABLE
from rulesets.model import Rule, Ruleset
from rulesets.model.ruleset import NFT_NAME
from rulesets.pod import POD_TABLE
from rulesets.vocabulary import (
    ConnMark,
    Family,
    FlipMark,
    Mark,
    MarkOf,
    ModelError,
    PacketMark,
    RestoreMark,
    SaveMark,
    SetConnMark,
    SetMark,
    SocketCgroup,
    SocketUser,
)

_SETTING = (
    "who is the proxy is told by that mark: with other bits its own connections are captured again, and with the very"
    " mark an application's go past the proxy"
)
_ASKING = "the proxy's packets, or the answers to captured ones, are treated by that rule as well"
_FAMILIES = {"ip": Family.IPV4, "ip6": Family.IPV6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Theirs:
    """Rules of somebody else's, and where they stand; `why` they couldn't be read instead."""

    place: str
    ruleset: Ruleset | None = None
    family: Family | None = None
    why: str = ""


def read(handle: Handle) -> tuple[Theirs, ...]:
    """Return the rules of others in a namespace; what can't be read is among them, with why."""
    return tuple(_read(handle))


def _read(handle: Handle) -> Iterator[Theirs]:
    sizes = {each.table: each.in_table for each in handle.base_chains() if each.table.family in ("inet", "ip", "ip6")}
    by_nft: set[Family] = set()
    with handle.inside():
        library = Tables()
    with closing(library):
        for table, rules in sizes.items():
            if table.family == "inet" and table.name in (POD_TABLE, HOST_TABLE):
                continue
            if rules > MOST_RULES:
                yield Theirs(place=f"table {table}", why=f"it has {rules} rules, more than are read")
            elif table.family in _FAMILIES and table.name in programs.TABLES:
                by_nft.add(_FAMILIES[table.family])
            elif not NFT_NAME.fullmatch(table.name):
                yield Theirs(place=f"table {table.family} {table.name!r}", why="nft itself could not read its name")
            else:
                try:
                    listed = library.read_anybodys(table)
                except WeirError as error:
                    yield Theirs(place=f"table {table}", why=_first_line(error))
                else:
                    yield from (Theirs(place=f"table {table}", ruleset=each) for each in listed.rulesets)
                    yield from (Theirs(place=f"table {table}", why=each) for each in listed.unread)
    with handle.netns.entered():
        for each in programs.look():
            if each.tables and (each.flavour is Flavour.LEGACY or each.family in by_nft):
                yield _of_iptables(each.flavour, each.family)


def _of_iptables(flavour: Flavour, family: Family) -> Theirs:
    place = f"{iptables.PROGRAMS[family]}-{flavour}"
    try:
        return Theirs(place=place, ruleset=programs.read(flavour, family), family=family)
    except WeirError as error:
        return Theirs(place=place, why=_first_line(error))


def judge(theirs: Iterable[Theirs], capture: Capture) -> Iterator[Finding]:
    """Yield one finding for each table whose rules touch Weir's marks, or can't be read; and for another agent's."""
    for each in theirs:
        if each.ruleset is None:
            yield Finding(
                check="rules-unread",
                level=Level.UNCHECKED,
                what=f"{each.place}: its rules can't be read: {each.why}",
                why="nobody can tell whether they set marks or take traffic",
                do="look at them with the program that wrote them",
            )
            continue
        agents = ("Istio",) if is_istios_in_pod(each.ruleset) else tuple(chains_by_owner(each.ruleset))
        if agents:
            yield Finding(
                check="other-agent",
                level=Level.WARNING,
                what=f"{each.place}: rules of {' and '.join(agents)} capture this namespace",
                why="two agents' rules over the same traffic: which one wins depends on priorities",
                do="let Weir take over, while connections run",
                command="weir migrate --dry-run",
            )
            continue
        yield from _touching(each, each.ruleset, capture)


def _touching(theirs: Theirs, ruleset: Ruleset, capture: Capture) -> Iterator[Finding]:
    sets = [(rule, said) for rule in ruleset.rules() if (said := _sets(rule, capture))]
    asks = [(rule, said) for rule in ruleset.rules() if not _sets(rule, capture) and (said := _asks(rule, capture))]
    unread = [rule for rule in ruleset.rules() if any("mark" in each.verbatim for each in rule.foreign)]
    for some, why in ((sets, _SETTING), (asks, _ASKING)):
        if some:
            rule, said = some[0]
            more = f", and {counted(len(some) - 1, 'more rule')}" if len(some) > 1 else ""
            yield Finding(
                check="mark-collision",
                level=Level.WARNING,
                what=f"{theirs.place}: `{_text(rule, theirs)}` {said}{more}",
                why=why,
                do="give one of both other bits (the settings proxy_mark and connection_mark)",
            )
    if unread:
        yield Finding(
            check="rules-unread",
            level=Level.UNCHECKED,
            what=f"{theirs.place}: `{_text(unread[0], theirs)}` has a mark, and can't be read whole",
            why="nobody can tell which bits of marks it sets or asks for",
            do="compare them with the settings proxy_mark and connection_mark",
        )


def _sets(rule: Rule, capture: Capture) -> str:
    """Return how a rule's action changes bits of Weir's marks, in words; empty where it doesn't."""
    match rule.action:
        case SetMark(mark=mark) if _tells_the_proxy(rule, mark, capture):
            return ""
        case SetMark(mark=mark):
            return _overlap("sets", MarkOf.PACKET, mark.mask, capture)
        case SetConnMark(mark=mark):
            return _overlap("sets", MarkOf.CONNECTION, mark.mask, capture)
        case FlipMark(of=of, mask=mask, value=value):
            return _overlap("sets", of, mask | value, capture)
        case SaveMark(connection_mask=mask):
            return _overlap("sets", MarkOf.CONNECTION, mask, capture)
        case RestoreMark(packet_mask=mask):
            return _overlap("sets", MarkOf.PACKET, mask, capture)
        case _:
            return ""


def _tells_the_proxy(rule: Rule, mark: Mark, capture: Capture) -> bool:
    """Tell whether it gives the proxy's mark to what one user's or service's sockets send: so a proxy is told."""
    ours = capture.proxy_mark
    whole = mark.mask & ours.mask == ours.mask and mark.value & ours.mask == ours.value
    return whole and any(isinstance(each, SocketUser | SocketCgroup) for each in rule.matches)


def _overlap(verb: str, of: MarkOf, mask: int, capture: Capture) -> str:
    # The packet mark is the proxy's, and that of answers; the connection mark is only the latter.
    ours = capture.connection_mark.mask | (capture.proxy_mark.mask if of is MarkOf.PACKET else 0)
    shared = mask & ours
    return f"{verb} bits {shared:#x} of the {of} mark, which are Weir's" if shared else ""


def _asks(rule: Rule, capture: Capture) -> str:
    """Return by which of Weir's marks a rule chooses packets, in words; empty where it doesn't."""
    for match in rule.matches:
        if isinstance(match, PacketMark) and not match.negate:
            for name, mark in (("proxy", capture.proxy_mark), ("connection", capture.connection_mark)):
                if _agree(match.mark, mark):
                    return f"chooses packets with the {name} mark {mark}"
        if isinstance(match, ConnMark) and not match.negate and _agree(match.mark, capture.connection_mark):
            return f"chooses connections with the mark {capture.connection_mark}"
    return ""


def _agree(theirs: Mark, ours: Mark) -> bool:
    shared = theirs.mask & ours.mask
    return bool(shared & (theirs.value | ours.value)) and (theirs.value ^ ours.value) & shared == 0


def _text(rule: Rule, theirs: Theirs) -> str:
    try:
        if theirs.family is not None:
            return iptables.render_rule(rule, theirs.family)
        return nft.render_rule(rule)
    except ModelError:
        return " ".join(each.verbatim for each in rule.foreign) or rule.slug


def _first_line(error: WeirError) -> str:
    return str(error).partition("\n")[0]
