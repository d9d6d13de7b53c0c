"""Whether single packets fare alike on two sides, by `walk` alone: what the proof's answers are held against."""

from dataclasses import replace
from itertools import pairwise

from rulesets.equivalence import Difference, What
from rulesets.model import Rule, Ruleset
from rulesets.packet import Fate, Packet, Verdict, looped, walk_together
from rulesets.vocabulary import ChainType, Hook, Reject, RejectIcmp

__all__ = ["apart", "confirmed"]

Side = tuple[Ruleset, ...]


def apart(a: Side, b: Side, packet: Packet, other: Packet | None = None) -> set[What]:
    """Return in what two sides treat a packet differently. `other` is the second side's, where they differ already."""
    other = packet if other is None else other
    one, two = walk_together(a, packet), walk_together(b, other)
    if Fate.UNKNOWN in (one.fate, two.fate):
        return set()
    if (one.fate, _told(a, one)) != (two.fate, _told(b, two)):
        return {What.FATE}
    if one.fate is not Fate.ACCEPTED:
        # What comes back in by lo was sent, and left its connection there.
        marked = packet.nat_settled and one.packet.connection_mark != two.packet.connection_mark
        return {What.CONNECTION_MARK} if marked else set()
    found = set()
    if _target(one) != _target(two):
        found.add(What.TARGET)
    if one.packet.mark != two.packet.mark:
        found.add(What.MARK)
    if one.packet.connection_mark != two.packet.connection_mark:
        found.add(What.CONNECTION_MARK)
    if (one.zone, one.reply_zone, one.packet.state) != (two.zone, two.reply_zone, two.packet.state):
        found.add(What.ZONE)
    if _route_mark(a, packet, one) != _route_mark(b, other, two):
        found.add(What.ROUTE)
    if packet.hook is other.hook is Hook.OUTPUT and one.packet.out_interface == two.packet.out_interface == "lo":
        found.discard(What.CONNECTION_MARK)  # it can be marked on either side of lo
        found |= apart(a, b, looped(one), looped(two))
    return found


def confirmed(a: Side, b: Side, difference: Difference) -> bool:
    """Tell whether walking a witness shows its difference, and what comes in by loopback is what was sent."""
    passages = difference.witness.passages
    for before, after in pairwise(passages):
        for side, sent, came in ((a, before[0], after[0]), (b, before[1], after[1])):
            if came.in_interface == "lo" and came != looped(walk_together(side, sent)):
                return False
    return difference.what in apart(a, b, *passages[-1])


def _target(verdict: Verdict) -> tuple[object, ...]:
    packet = verdict.packet
    ends = (packet.source, packet.source_port, packet.destination, packet.destination_port)
    return (*ends, verdict.tproxy, verdict.masqueraded)


def _told(side: Side, verdict: Verdict) -> str:
    """Return what the sender of a refused packet is told."""
    if verdict.fate is not Fate.REFUSED:
        return ""
    met = verdict.rules[-1]
    rules = [_rule(each, met.chain, met.number) for each in side]
    action = next(each.action for each in rules if each is not None and each.slug == met.slug)
    if isinstance(action, Reject):
        return str(action.reply)
    return action.code if isinstance(action, RejectIcmp) else ""


def _rule(ruleset: Ruleset, chain: str, number: int) -> Rule | None:
    found = ruleset.chain(chain) or ruleset.regular_chain(chain)
    return found.rules[number - 1] if found and len(found.rules) >= number else None


def _route_mark(side: Side, packet: Packet, verdict: Verdict) -> int:
    """Return the mark that the packet's route was last looked up with."""
    if packet.hook is Hook.OUTPUT:
        if not verdict.rerouted:
            return packet.mark
        last = max(each.priority for ruleset in side for each in ruleset.chains if each.type is ChainType.ROUTE)
        return _until(side, packet, Hook.OUTPUT, last).packet.mark
    return _until(side, packet, Hook.PREROUTING, 2**31).packet.mark


def _until(side: Side, packet: Packet, hook: Hook, priority: int) -> Verdict:
    cut = tuple(
        replace(each, chains=tuple(chain for chain in each.chains if chain.hook is hook and chain.priority <= priority))
        for each in side
    )
    return walk_together(cut, packet)
