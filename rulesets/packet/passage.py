"""The way of a packet through the chains: which it meets, and in which order."""

from collections.abc import Iterator
from dataclasses import replace

from rulesets.model import Chain, Rule, Ruleset
from rulesets.packet.effects import TRANSLATIONS, carry_out
from rulesets.packet.matching import holds
from rulesets.packet.undecided import Undecided
from rulesets.packet.values import Fate, Met, Packet, Verdict
from rulesets.vocabulary import ChainType, ConnState, Continue, Goto, Hook, Jump, Policy, Protocol, Return

_ICMP = (Protocol.ICMP, Protocol.ICMPV6)
_CONNTRACK_PRIORITY = -200  # NF_IP_PRI_CONNTRACK, include/uapi/linux/netfilter_ipv4.h
_Frame = tuple[str, Iterator[tuple[int, Rule]]]


def walk(ruleset: Ruleset, packet: Packet) -> Verdict:
    """Take a packet through every chain that it meets, hook by hook and by rising priority."""
    return walk_together((ruleset,), packet)


def walk_together(rulesets: tuple[Ruleset, ...], packet: Packet) -> Verdict:
    """Take a packet through the chains of several rulesets that are in force at once.

    Of two chains at one place with one priority that of the earlier ruleset comes first; in the kernel it is whichever
    was loaded first.
    """
    met = [(each, chain) for each in rulesets if each.family in (None, packet.family) for chain in each.chains]
    met.sort(key=lambda pair: pair[1].priority)
    verdict = Verdict(fate=Fate.ACCEPTED, packet=packet, rules=())
    hook: Hook | None = packet.hook
    while hook is not None:
        # A nat mapping is set up once for each direction of translation; later nat chains don't see the packet.
        mapped = False
        for ruleset, chain in met:
            if chain.hook is not hook or (chain.type is ChainType.NAT and (mapped or not _asks_nat(verdict.packet))):
                continue
            before = verdict.packet.mark
            verdict, mapped = _through(ruleset, chain, verdict)
            if verdict.fate is not Fate.ACCEPTED:
                return verdict
            if chain.type is ChainType.ROUTE and verdict.packet.mark != before:
                verdict = replace(verdict, rerouted=True)
        hook = _next(hook, verdict.packet)
    return verdict


def looped(verdict: Verdict) -> Packet:
    """Return the packet that comes in by ``lo`` when the one that a walk sent out went there.

    It keeps its mark and its connection, translation included; the sending socket is no longer known.
    """
    out = verdict.packet
    return replace(
        out,
        hook=Hook.PREROUTING,
        in_interface="lo",
        out_interface="",
        user=None,
        group=None,
        cgroups=(),
        destination_local=True,
        nat_settled=True,
    )


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


def _through(ruleset: Ruleset, chain: Chain, verdict: Verdict) -> tuple[Verdict, bool]:
    """Return the verdict after a chain, and whether it gave the connection a mapping."""
    early = chain.priority < _CONNTRACK_PRIORITY and chain.hook in (Hook.PREROUTING, Hook.OUTPUT)
    way: list[_Frame] = [(chain.name, enumerate(chain.rules, 1))]
    while way:
        name, left = way[-1]
        number, rule = next(left, (0, None))
        if rule is None:
            way.pop()
            continue
        seen = _not_yet_tracked(verdict.packet) if early else verdict.packet
        try:
            if not _matches(ruleset, rule, seen, chain.hook):
                continue
        except Undecided as unknown:
            return replace(verdict, fate=Fate.UNKNOWN, unknown=str(unknown)), False
        verdict = replace(verdict, rules=(*verdict.rules, Met(chain=name, slug=rule.slug, number=number)))
        match rule.action:
            case Return():
                way.pop()
            case Jump(chain=target):
                way.append((target, _rules(ruleset, target)))
            case Goto(chain=target):
                way[-1] = (target, _rules(ruleset, target))
            case action:
                tracked = seen.state not in (ConnState.INVALID, ConnState.UNTRACKED)
                verdict, ended = carry_out(action, verdict, chain.hook, tracked=tracked)
                if ended:
                    return verdict, isinstance(action, TRANSLATIONS)
    return verdict if chain.policy is Policy.ACCEPT else replace(verdict, fate=Fate.DROPPED), False


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
    if isinstance(rule.action, Continue):
        return False
    raise unknown
