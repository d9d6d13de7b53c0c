"""The way of a packet through the chains: which it meets, and in which order."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from rulesets.model import Chain, Rule, Ruleset
from rulesets.packet.effects import TRANSLATIONS, Place, carry_out
from rulesets.packet.following import translated
from rulesets.packet.matching import holds
from rulesets.packet.stations import Station, stations
from rulesets.packet.undecided import Undecided
from rulesets.packet.values import Fate, Met, Packet, Verdict
from rulesets.vocabulary import ChainType, ConnState, Continue, Goto, Hook, Jump, Policy, Protocol, Return, Trace

_ICMP = (Protocol.ICMP, Protocol.ICMPV6)
_Frame = tuple[str, Iterator[tuple[int, Rule]]]
Route = Callable[[Verdict], Packet | None]


def walk(ruleset: Ruleset, packet: Packet) -> Verdict:
    """Take a packet through every chain that it meets, hook by hook and by rising priority."""
    return walk_together((ruleset,), packet)


def walk_together(rulesets: tuple[Ruleset, ...], packet: Packet, *, route: Route | None = None) -> Verdict:
    """Take a packet through the chains of several rulesets that are in force at once.

    `route` is asked where the kernel looks up a route on the way: when the packet has arrived, after a ``route`` chain
    changed its mark, and after its destination was changed on its way out. It returns the packet with the interface
    that it leaves by, and whether it is delivered here; None where there is no route, and the packet is dropped.
    """
    met = stations(enumerate(rulesets), packet.family)
    verdict = Verdict(fate=Fate.ACCEPTED, packet=packet, rules=())
    hook: Hook | None = packet.hook
    while hook is not None:
        # A nat mapping is set up once for each direction of translation; later nat chains don't see the packet.
        mapped = False
        for station in met[hook]:
            chain, asks_nat = station.chain, not mapped and _asks_nat(verdict.packet)
            there = verdict.packet.destination
            if chain is None:
                if not asks_nat:
                    verdict = replace(verdict, packet=translated(verdict.packet, hook))
                if hook is Hook.OUTPUT and verdict.packet.destination != there:
                    verdict = _routed(verdict, route)
                continue
            if chain.type is ChainType.NAT and not asks_nat:
                continue
            before = verdict.packet.mark
            verdict, mapped_here = _through(rulesets[station.ruleset], station, chain, verdict)
            mapped = mapped or mapped_here
            if verdict.fate is Fate.ACCEPTED and chain.type is ChainType.ROUTE and verdict.packet.mark != before:
                verdict = _routed(replace(verdict, rerouted=True), route)
            if mapped_here and hook is Hook.OUTPUT and verdict.packet.destination != there:
                verdict = _routed(verdict, route)
            if verdict.fate is not Fate.ACCEPTED:
                return verdict
        if hook is Hook.PREROUTING and not verdict.packet.nat_settled:
            verdict = _routed(verdict, route)
            if verdict.fate is not Fate.ACCEPTED:
                return verdict
        hook = _next(hook, verdict.packet)
    return verdict


def _routed(verdict: Verdict, route: Route | None) -> Verdict:
    if route is None:
        return verdict
    packet = route(verdict)
    return replace(verdict, fate=Fate.DROPPED) if packet is None else replace(verdict, packet=packet)


def _next(hook: Hook, packet: Packet) -> Hook | None:
    match hook:
        case Hook.PREROUTING:
            return Hook.INPUT if packet.destination_local else Hook.FORWARD
        case Hook.FORWARD | Hook.OUTPUT:
            return Hook.POSTROUTING
        case Hook.INPUT | Hook.POSTROUTING:
            return None


def _asks_nat(packet: Packet) -> bool:
    """Tell whether the kernel asks nat chains about a packet: about the first of a connection (nf_nat_inet_fn)."""
    related = packet.state is ConnState.RELATED and packet.protocol not in _ICMP
    return (packet.state is ConnState.NEW or related) and not packet.nat_settled


def _through(ruleset: Ruleset, station: Station, chain: Chain, verdict: Verdict) -> tuple[Verdict, bool]:
    """Return the verdict after a chain, and whether it gave the connection a mapping."""
    place = Place(hook=chain.hook, early=station.early, iptables=ruleset.family is not None)
    way: list[_Frame] = [(chain.name, enumerate(chain.rules, 1))]
    while way:
        name, left = way[-1]
        number, rule = next(left, (0, None))
        if rule is None:
            way.pop()
            continue
        seen = _not_yet_tracked(verdict.packet) if place.early else verdict.packet
        try:
            if not _matches(ruleset, rule, seen, chain.hook):
                continue
        except Undecided as unknown:
            return replace(
                verdict, fate=Fate.UNKNOWN, unknown=str(unknown), stopped=_met(name, rule, number, station)
            ), False
        verdict = replace(verdict, rules=(*verdict.rules, _met(name, rule, number, station)))
        match rule.action:
            case Return():
                way.pop()
            case Jump(chain=target):
                way.append((target, _rules(ruleset, target)))
            case Goto(chain=target):
                way[-1] = (target, _rules(ruleset, target))
            case action:
                tracked = seen.state not in (ConnState.INVALID, ConnState.UNTRACKED)
                verdict, ended = carry_out(action, verdict, place, tracked=tracked)
                if ended:
                    return verdict, isinstance(action, TRANSLATIONS)
    if chain.policy is Policy.ACCEPT:
        return verdict, False
    return replace(verdict, fate=Fate.DROPPED, stopped=_met(chain.name, None, 0, station)), False


def _met(chain: str, rule: Rule | None, number: int, station: Station) -> Met:
    hook = station.chain.hook if station.chain else None
    return Met(chain=chain, slug=rule.slug if rule else "", number=number, ruleset=station.ruleset, hook=hook)


def _rules(ruleset: Ruleset, chain: str) -> Iterator[tuple[int, Rule]]:
    found = ruleset.regular_chain(chain)
    return enumerate(found.rules if found else (), 1)


def _not_yet_tracked(packet: Packet) -> Packet:
    """Return a packet as chains before connection tracking see it; over loopback it brings its connection along."""
    if packet.nat_settled or packet.state is ConnState.UNTRACKED:
        return packet
    return replace(packet, state=ConnState.INVALID)


def _matches(ruleset: Ruleset, rule: Rule, packet: Packet, hook: Hook) -> bool:
    """Tell whether all matches hold; raises `Undecided` where that depends on one that can't be known, and matters."""
    unknown: Undecided | None = None
    for match in rule.matches:
        try:
            if not holds(ruleset, match, packet, hook):
                return False
        except Undecided as undecided:
            unknown = undecided
    if unknown is None:
        return True
    if isinstance(rule.action, Continue | Trace):
        return False
    raise unknown
