"""Rules and packets in words."""

from typing import assert_never

from rulesets.packet import Packet
from rulesets.vocabulary import (
    Accept,
    Action,
    Continue,
    CtZone,
    CtZoneBoth,
    Dnat,
    DnatTo,
    Drop,
    FlipMark,
    Foreign,
    Goto,
    Jump,
    Masquerade,
    NoTrack,
    Protocol,
    Redirect,
    Reject,
    RejectIcmp,
    RestoreMark,
    Return,
    SaveMark,
    SetConnMark,
    SetMark,
    Snat,
    Tproxy,
    Trace,
)
from rulesets.vocabulary.words import sent

PORTLESS = (Protocol.ICMP, Protocol.ICMPV6)


def did(action: Action) -> str:
    """Return what a rule's action did to the packet, in words."""
    match action:
        case Accept():
            return "leaves this chain"
        case Redirect() | Dnat() | DnatTo() | Snat() | Masquerade() | Tproxy():
            return f"is {sent(action)}"
        case Drop():
            return "is dropped"
        case Reject(reply=reply):
            return f"is refused ({reply})"
        case RejectIcmp():
            return "is refused"
        case NoTrack():
            return "isn't tracked"
        case CtZone(zone=zone) | CtZoneBoth(zone=zone):
            return f"is tracked in zone {zone}"
        case SetMark(mark=mark):
            return f"gets the packet mark {mark}"
        case SetConnMark(mark=mark):
            return f"its connection gets the mark {mark}"
        case FlipMark():
            return "has bits of a mark turned"
        case SaveMark():
            return "its mark becomes the connection's"
        case RestoreMark():
            return "gets the connection's mark"
        case Continue():
            return "goes on"
        case Trace():
            return "is traced"
        case Jump(chain=chain):
            return f"goes through chain {chain}"
        case Goto(chain=chain):
            return f"goes to chain {chain}"
        case Return():
            return "goes back"
        case Foreign(verbatim=verbatim):
            return f"nobody can tell: {verbatim}"
        case _:
            assert_never(action)


def described(packet: Packet) -> str:
    """Return a packet in words: its ends, protocol, state and marks."""
    ends = (packet.source, packet.source_port), (packet.destination, packet.destination_port)
    written = (end(address, 0 if packet.protocol in PORTLESS else port) for address, port in ends)
    marks = [f"packet mark {packet.mark:#x}"] if packet.mark else []
    marks += [f"connection mark {packet.connection_mark:#x}"] if packet.connection_mark else []
    by = f"in by {packet.in_interface}" if packet.in_interface else f"out by {packet.out_interface}"
    protocol = "icmp" if packet.protocol in PORTLESS else str(packet.protocol)
    return ", ".join([f"{' to '.join(written)} {protocol}", str(packet.state), by, *marks])


def end(address: object, port: int) -> str:
    """Return an address with its port as one writes them, IPv6 in brackets; without the port where it is 0."""
    text = f"[{address}]" if ":" in str(address) and port else str(address)
    return f"{text}:{port}" if port else text
