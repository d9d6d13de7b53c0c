"""What an action does to a packet."""

from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import assert_never

from rulesets.packet.values import Fate, Packet, Translation, Verdict
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
    Protocol,
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
    Trace,
)

TRANSLATIONS = Redirect | Dnat | DnatTo | Snat | Masquerade

_WITH_PORTS = (Protocol.TCP, Protocol.UDP)
_LOOPBACK = {Family.IPV4: ip_address("127.0.0.1"), Family.IPV6: ip_address("::1")}


LATE_ZONE = "a conntrack zone that is set where no connection is known, when tracking is over"
ZONE_UNTRACKED = "a conntrack zone for a packet that is not to be tracked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a rule is met: at which hook, whether connection tracking comes later, whether its table is iptables'."""

    hook: Hook
    early: bool = False
    iptables: bool = False


def carry_out(action: Action, verdict: Verdict, place: Place, *, tracked: bool) -> tuple[Verdict, bool]:
    """Return the verdict after an action, and whether the chain ends with it.

    Where the connection isn't tracked, or not yet, it has no mark. Jumps do nothing to a packet.
    """
    packet = verdict.packet
    match action:
        case Accept():
            return verdict, True
        case Redirect(port=port):
            return _redirected(verdict, place.hook, port), True
        case Dnat(port=port):
            return _to(verdict, replace(packet, destination_port=port)), True
        case DnatTo(address=address, port=new_port):
            new_port = packet.destination_port if new_port is None else new_port
            return _sent_to(verdict, place.hook, address, new_port), True
        case Snat(address=address):
            return _from(verdict, address), True
        case Masquerade():
            return replace(_from(verdict, packet.leaving_address or packet.source), masqueraded=True), True
        case Tproxy(port=port, mark=mark):
            changed = packet if mark is None else replace(packet, mark=mark.put_on(packet.mark))
            return replace(verdict, packet=changed, tproxy=port), True
        case Drop():
            return replace(verdict, fate=Fate.DROPPED), True
        case Reject(reply=RejectWith()) | RejectIcmp():
            return replace(verdict, fate=Fate.REFUSED), True
        case Foreign(verbatim=verbatim):
            return replace(verdict, fate=Fate.UNKNOWN, unknown=verbatim), True
        case CtZone() | CtZoneBoth() | NoTrack():
            return _before_tracking(action, verdict, place, tracked=tracked)
        case SetMark() | SetConnMark() | FlipMark() | SaveMark() | RestoreMark():
            return _marked(action, verdict, tracked=tracked), False
        case Continue() | Jump() | Goto() | Return() | Trace():
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


def _before_tracking(
    action: CtZone | CtZoneBoth | NoTrack, verdict: Verdict, place: Place, *, tracked: bool
) -> tuple[Verdict, bool]:
    """Tell connection tracking where to look, or not to: the first to do so is heard, and nobody once it has looked.

    nft_ct.c, nft_ct_set_zone_eval and nft_notrack_eval; xt_CT.c, xt_ct_target.
    """
    zoned = place.early and (verdict.zone, verdict.reply_zone) != (0, 0)
    if tracked or zoned:
        return verdict, False
    if isinstance(action, NoTrack):
        return replace(verdict, packet=replace(verdict.packet, state=ConnState.UNTRACKED)), False
    if verdict.packet.state is ConnState.UNTRACKED and place.iptables:
        return verdict, False
    if verdict.packet.state is ConnState.UNTRACKED or not place.early:
        # The packet would get a template for its connection, with which nothing is done any more.
        why = LATE_ZONE if not place.early else ZONE_UNTRACKED
        return replace(verdict, fate=Fate.UNKNOWN, unknown=why), True
    reply_zone = action.zone if isinstance(action, CtZoneBoth) else verdict.reply_zone
    return replace(verdict, zone=action.zone, reply_zone=reply_zone), False


def _redirected(verdict: Verdict, hook: Hook, port: int) -> Verdict:
    packet = verdict.packet
    if hook is Hook.OUTPUT:
        # nf_nat_redirect.c: a local packet goes to loopback, and is routed there.
        to, out = _LOOPBACK[packet.family], "lo"
    elif packet.interface_address is None:
        return replace(verdict, fate=Fate.DROPPED)
    else:
        to, out = packet.interface_address, ""
    return _to(verdict, replace(packet, destination=to, destination_port=port, destination_local=True), out)


def _sent_to(verdict: Verdict, hook: Hook, address: Address, port: int) -> Verdict:
    packet = verdict.packet
    local = (
        address.is_loopback
        or address == packet.interface_address
        or (address == packet.destination and packet.destination_local)
    )
    changed = replace(packet, destination=address, destination_port=port, destination_local=local)
    return _to(verdict, changed, "lo" if local and hook is Hook.OUTPUT else "")


def _to(verdict: Verdict, changed: Packet, out_interface: str = "") -> Verdict:
    """Return the verdict on a packet with another destination, by which it leaves by another interface, or not."""
    if changed.protocol not in _WITH_PORTS:
        changed = replace(changed, destination_port=verdict.packet.destination_port)
    made = replace(
        _translation(verdict.packet),
        destination=(changed.destination, changed.destination_port),
        local=changed.destination_local,
        out_interface=out_interface,
    )
    packet = replace(changed, translation=made, out_interface=out_interface or changed.out_interface)
    return replace(verdict, packet=packet, translated=True)


def _from(verdict: Verdict, source: Address) -> Verdict:
    packet = verdict.packet
    made = replace(_translation(packet), source=(source, packet.source_port))
    return replace(verdict, packet=replace(packet, source=source, translation=made), translated=True)


def _translation(packet: Packet) -> Translation:
    return packet.translation or Translation(sent=packet.ends, own=packet.hook is Hook.OUTPUT)
