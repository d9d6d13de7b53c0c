"""The way of a packet through the chains: which it meets, in which order, and what each rule does to it."""

from dataclasses import replace
from ipaddress import ip_address
from typing import assert_never

from rulesets.model import Chain, Ruleset
from rulesets.packet.matching import Undecided, holds
from rulesets.packet.values import ConnState, Fate, Met, Packet, Verdict
from rulesets.vocabulary import (
    Accept,
    Action,
    Address,
    ChainType,
    CtZone,
    Dnat,
    Family,
    Foreign,
    Hook,
    Policy,
    Redirect,
    Reject,
    RejectWith,
    SetConnMark,
    SetMark,
    Snat,
)

_LOOPBACK = {Family.IPV4: ip_address("127.0.0.1"), Family.IPV6: ip_address("::1")}


def walk(ruleset: Ruleset, packet: Packet) -> Verdict:
    """Take a packet through every chain that it meets, hook by hook and by rising priority."""
    verdict = Verdict(fate=Fate.ACCEPTED, packet=packet, rules=())
    for hook in _passage(packet):
        # A nat mapping is set up once for each direction of translation; later nat chains don't see the packet.
        mapped = False
        for chain in sorted((each for each in ruleset.chains if each.hook is hook), key=lambda each: each.priority):
            if chain.type is ChainType.NAT and (packet.state is not ConnState.NEW or packet.nat_settled or mapped):
                continue
            before = verdict
            verdict = _through(ruleset, chain, verdict)
            mapped = mapped or (chain.type is ChainType.NAT and _ends(verdict) != _ends(before))
            if verdict.fate is not Fate.ACCEPTED:
                return verdict
            if chain.type is ChainType.ROUTE and verdict.packet.mark != before.packet.mark:
                verdict = replace(verdict, rerouted=True)
    return verdict


def _ends(verdict: Verdict) -> tuple[Address, Address, int]:
    return verdict.packet.source, verdict.packet.destination, verdict.packet.destination_port


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
        destination_local=True,
        nat_settled=True,
    )


def _passage(packet: Packet) -> tuple[Hook, ...]:
    if packet.hook is Hook.OUTPUT:
        return (Hook.OUTPUT, Hook.POSTROUTING)
    if packet.destination_local:
        return (Hook.PREROUTING, Hook.INPUT)
    return (Hook.PREROUTING, Hook.FORWARD, Hook.POSTROUTING)


def _through(ruleset: Ruleset, chain: Chain, verdict: Verdict) -> Verdict:
    for rule in chain.rules:
        try:
            if not all(holds(ruleset, match, verdict.packet, chain.hook) for match in rule.matches):
                continue
        except Undecided as unknown:
            return replace(verdict, fate=Fate.UNKNOWN, unknown=str(unknown))
        met = replace(verdict, rules=(*verdict.rules, Met(chain=chain.name, slug=rule.slug)))
        verdict, ended = _carry_out(rule.action, met, chain.hook)
        if ended:
            return verdict
    return verdict if chain.policy is Policy.ACCEPT else replace(verdict, fate=Fate.DROPPED)


def _carry_out(action: Action, verdict: Verdict, hook: Hook) -> tuple[Verdict, bool]:
    """Return the verdict after an action, and whether the chain ends with it."""
    packet = verdict.packet
    match action:
        case Accept():
            return verdict, True
        case Redirect(port=port):
            return _redirected(verdict, hook, port), True
        case Dnat(port=port):
            return replace(verdict, packet=replace(packet, destination_port=port), translated=True), True
        case Snat(address=address):
            return replace(verdict, packet=replace(packet, source=address), translated=True), True
        case SetMark(mark=mark):
            return replace(verdict, packet=replace(packet, mark=mark.put_on(packet.mark))), False
        case SetConnMark(mark=mark):
            marked = replace(packet, connection_mark=mark.put_on(packet.connection_mark))
            return replace(verdict, packet=marked), False
        case CtZone(zone=zone):
            return replace(verdict, zone=zone), False
        case Reject(reply=RejectWith()):
            return replace(verdict, fate=Fate.REFUSED), True
        case Foreign(verbatim=verbatim):
            return replace(verdict, fate=Fate.UNKNOWN, unknown=verbatim), True
        case _:
            assert_never(action)


def _redirected(verdict: Verdict, hook: Hook, port: int) -> Verdict:
    packet = verdict.packet
    if hook is Hook.OUTPUT:
        # nf_nat_redirect.c: a local packet goes to loopback, and is routed there.
        to, out = _LOOPBACK[packet.family], "lo"
    elif packet.interface_address is None:
        return replace(verdict, fate=Fate.DROPPED)
    else:
        to, out = packet.interface_address, packet.out_interface
    changed = replace(packet, destination=to, destination_port=port, out_interface=out, destination_local=True)
    return replace(verdict, packet=changed, translated=True)
