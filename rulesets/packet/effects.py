"""What an action does to a packet."""

from dataclasses import replace
from ipaddress import ip_address
from typing import assert_never

from rulesets.packet.values import Fate, Verdict
from rulesets.vocabulary import (
    Accept,
    Action,
    Address,
    ConnState,
    Continue,
    CtZone,
    CtZoneBoth,
    Dnat,
    DnatTo,
    Drop,
    Family,
    FlipMark,
    Foreign,
    Goto,
    Hook,
    Jump,
    MarkOf,
    Masquerade,
    NoTrack,
    Redirect,
    Reject,
    RejectIcmp,
    RejectWith,
    RestoreMark,
    Return,
    SaveMark,
    SetConnMark,
    SetMark,
    Snat,
    Tproxy,
)

TRANSLATIONS = Redirect | Dnat | DnatTo | Snat | Masquerade

_LOOPBACK = {Family.IPV4: ip_address("127.0.0.1"), Family.IPV6: ip_address("::1")}


def carry_out(action: Action, verdict: Verdict, hook: Hook, *, tracked: bool) -> tuple[Verdict, bool]:
    """Return the verdict after an action, and whether the chain ends with it.

    Where the connection isn't tracked, or not yet, it has no mark. Jumps do nothing to a packet.
    """
    packet = verdict.packet
    match action:
        case Accept():
            return verdict, True
        case Redirect(port=port):
            return _redirected(verdict, hook, port), True
        case Dnat(port=port):
            return replace(verdict, packet=replace(packet, destination_port=port), translated=True), True
        case DnatTo(address=address, port=new_port):
            return _sent_to(verdict, address, packet.destination_port if new_port is None else new_port), True
        case Snat(address=address):
            return replace(verdict, packet=replace(packet, source=address), translated=True), True
        case Masquerade():
            changed = replace(packet, source=packet.leaving_address or packet.source)
            return replace(verdict, packet=changed, translated=True, masqueraded=True), True
        case Tproxy(port=port, mark=mark):
            changed = packet if mark is None else replace(packet, mark=mark.put_on(packet.mark))
            return replace(verdict, packet=changed, tproxy=port), True
        case Drop():
            return replace(verdict, fate=Fate.DROPPED), True
        case Reject(reply=RejectWith()) | RejectIcmp():
            return replace(verdict, fate=Fate.REFUSED), True
        case Foreign(verbatim=verbatim):
            return replace(verdict, fate=Fate.UNKNOWN, unknown=verbatim), True
        case CtZone(zone=zone):
            return replace(verdict, zone=zone), False
        case CtZoneBoth(zone=zone):
            return replace(verdict, zone=zone, reply_zone=zone), False
        case NoTrack():
            return replace(verdict, packet=replace(packet, state=ConnState.UNTRACKED)), False
        case SetMark() | SetConnMark() | FlipMark() | SaveMark() | RestoreMark():
            return _marked(action, verdict, tracked=tracked), False
        case Continue() | Jump() | Goto() | Return():
            return verdict, False
        case _:
            assert_never(action)


def _marked(
    action: SetMark | SetConnMark | FlipMark | SaveMark | RestoreMark, verdict: Verdict, *, tracked: bool
) -> Verdict:
    packet = verdict.packet
    mark, connection_mark = packet.mark, packet.connection_mark
    match action:
        case SetMark(mark=new):
            mark = new.put_on(mark)
        case FlipMark(of=MarkOf.PACKET):
            mark = action.put_on(mark)
        case SetConnMark(mark=new) if tracked:
            connection_mark = new.put_on(connection_mark)
        case FlipMark(of=MarkOf.CONNECTION) if tracked:
            connection_mark = action.put_on(connection_mark)
        case SaveMark(packet_mask=ours, connection_mask=theirs) if tracked:
            connection_mark = (connection_mark & ~theirs) ^ (mark & ours)
        case RestoreMark(packet_mask=ours, connection_mask=theirs) if tracked:
            mark = (mark & ~ours) ^ (connection_mark & theirs)
        case _:
            return verdict
    return replace(verdict, packet=replace(packet, mark=mark, connection_mark=connection_mark))


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


def _sent_to(verdict: Verdict, address: Address, port: int) -> Verdict:
    packet = verdict.packet
    local = (
        address.is_loopback
        or address == packet.interface_address
        or (address == packet.destination and packet.destination_local)
    )
    changed = replace(packet, destination=address, destination_port=port, destination_local=local)
    return replace(verdict, packet=changed, translated=True)
