"""What Weir reads and never writes, as nft's JSON (libnftables-json(5)); None where nft has no statement for it."""

import json
from typing import assert_never

from rulesets.vocabulary import (
    FULL_MASK,
    AddressType,
    Aside,
    Between,
    Comment,
    ConnDirection,
    ConnStates,
    Continue,
    CtZoneBoth,
    DnatTo,
    Drop,
    End,
    FlipMark,
    Goto,
    InIpset,
    Jump,
    MarkOf,
    Masquerade,
    NoSocket,
    NoTcpFlags,
    NoTrack,
    OtherProto,
    Owner,
    PortRange,
    Ports,
    ReadAction,
    ReadMatch,
    ReceivingSocket,
    RejectIcmp,
    RestoreMark,
    Return,
    SaveMark,
    SocketOwner,
    Tproxy,
    family_of,
)

Json = dict[str, object]
PACKET_MARK: Json = {"meta": {"key": "mark"}}
CONNECTION_MARK: Json = {"ct": {"key": "mark"}}
_KEY = {MarkOf.PACKET: PACKET_MARK, MarkOf.CONNECTION: CONNECTION_MARK}
_SIDE = {End.SOURCE: "s", End.DESTINATION: "d"}


def payload(protocol: str, field: str) -> Json:
    """Return a field of a header."""
    return {"payload": {"protocol": protocol, "field": field}}


def compared(left: Json, right: object, operator: str = "==") -> Json:
    """Return the statement that goes on where a field is this."""
    return {"match": {"op": operator, "left": left, "right": right}}


def ports_json(ports: PortRange) -> object:
    """Return a port, or a range of ports."""
    return ports.first if ports.first == ports.last else {"range": [ports.first, ports.last]}


def match_json(match: ReadMatch) -> Json | None:
    """Return one match as nft's JSON; None where nft has none, or for what is no statement."""
    operator = "!=" if getattr(match, "negate", False) else "=="
    match match:
        case OtherProto(number=number):
            return compared({"meta": {"key": "l4proto"}}, number, operator)
        case Ports(end=End.EITHER):
            return None
        case Ports(protocol=protocol, end=end, ranges=ranges):
            some: Json = {"set": [ports_json(each) for each in ranges]}
            return compared(payload(protocol, f"{_SIDE[end]}port"), some, operator)
        case Between(end=end, first=first, last=last):
            ip = "ip" if first.version == 4 else "ip6"
            return compared(payload(ip, f"{_SIDE[end]}addr"), {"range": [str(first), str(last)]}, operator)
        case AddressType(end=end, kinds=kinds):
            asked: Json = {"fib": {"result": "type", "flags": [f"{_SIDE[end]}addr"]}}
            return compared(asked, kinds[0] if len(kinds) == 1 else {"set": list(kinds)}, operator)
        case ConnStates(states=states, negate=negate):
            state: Json = {"ct": {"key": "state"}}
            if negate:
                return compared(state, states[0] if len(states) == 1 else {"set": list(states)}, "!=")
            return compared(state, states[0] if len(states) == 1 else list(states), "in")
        case ConnDirection(direction=direction):
            return compared({"ct": {"key": "direction"}}, direction)
        case SocketOwner(negate=True):
            return None
        case SocketOwner(owner=owner, first=first_id, last=last_id):
            whose: Json = {"meta": {"key": "skuid" if owner is Owner.USER else "skgid"}}
            return compared(whose, first_id if first_id == last_id else {"range": [first_id, last_id]})
        case NoTcpFlags(among=among, negate=negate):
            flags = among[0] if len(among) == 1 else list(among)
            return compared(payload("tcp", "flags"), flags, "in" if negate else "!")
        case Aside(statement=statement):
            said: Json = json.loads(statement)
            return said
        case NoSocket() | ReceivingSocket() | InIpset() | Comment():
            return None
        case _:
            assert_never(match)


def action_json(action: ReadAction) -> Json | None:
    """Return one action as nft's JSON; None where nft has none."""
    match action:
        case Jump(chain=chain):
            return {"jump": {"target": chain}}
        case Goto(chain=chain):
            return {"goto": {"target": chain}}
        case Return():
            return {"return": None}
        case Drop():
            return {"drop": None}
        case Continue(beside=beside):
            return None if beside else {"continue": None}
        case DnatTo(address=address, port=port):
            to: Json = {"family": "ip" if family_of(address) == "ipv4" else "ip6", "addr": str(address)}
            return {"dnat": to if port is None else {**to, "port": port}}
        case Masquerade(random=random, fully_random=fully):
            chosen = [name for name, wanted in (("random", random), ("fully-random", fully)) if wanted]
            return {"masquerade": {"flags": chosen} if chosen else None}
        case FlipMark(of=of, value=value, mask=mask):
            kept = {"&": [_KEY[of], ~mask & FULL_MASK]} if mask else _KEY[of]
            return {"mangle": {"key": _KEY[of], "value": {"^": [kept, value]}}}
        case SaveMark(packet_mask=ours, connection_mask=theirs):
            return _copied(MarkOf.CONNECTION, theirs, MarkOf.PACKET, ours)
        case RestoreMark(packet_mask=ours, connection_mask=theirs):
            return _copied(MarkOf.PACKET, ours, MarkOf.CONNECTION, theirs)
        case CtZoneBoth(zone=zone):
            return {"mangle": {"key": {"ct": {"key": "zone"}}, "value": zone}}
        case NoTrack():
            return {"notrack": None}
        case RejectIcmp(code=code) if " " in code:
            kind, _, reason = code.partition(" ")
            return {"reject": {"type": kind, "expr": reason}}
        case Tproxy() | RejectIcmp():
            return None
        case _:
            assert_never(action)


def _copied(to: MarkOf, changed: int, of: MarkOf, taken: int) -> Json | None:
    if changed != FULL_MASK:
        return None  # nft refuses an operation whose right side isn't constant
    value = _KEY[of] if taken == FULL_MASK else {"&": [_KEY[of], taken]}
    return {"mangle": {"key": _KEY[to], "value": value}}
