"""Single statements of others' rules, from an nft JSON listing, as matches and actions.

What Weir writes itself is read by `rulesets.nft.statements`; here is what it never writes. A statement is read only as
what nft lists back in the same words when it is loaded again; what isn't, such as ``ct state == new`` for ``ct state
new``, stays as it was listed, like all that has no variant.
"""

import json
import re
from ipaddress import ip_address

from rulesets.model.ruleset import NFT_NAME
from rulesets.nft.read_json import CONNECTION_MARK, PACKET_MARK, Json
from rulesets.nft.statements import Unknown, action_of, bitwise, match_of
from rulesets.vocabulary import (
    CGROUP,
    FULL_MASK,
    INTERFACE,
    Action,
    AddressKind,
    AddressType,
    Aside,
    Between,
    ConnDirection,
    ConnMark,
    ConnState,
    ConnStates,
    CtZoneBoth,
    Direction,
    Dnat,
    DnatTo,
    Drop,
    Dst,
    End,
    FlipMark,
    Goto,
    InIface,
    InSet,
    Jump,
    MarkOf,
    Masquerade,
    Match,
    NoTcpFlags,
    NoTrack,
    OfFamily,
    OneOf,
    OtherProto,
    OutIface,
    Owner,
    PacketMark,
    PortRange,
    Ports,
    Proto,
    Protocol,
    Redirect,
    RejectIcmp,
    RestoreMark,
    Return,
    SaveMark,
    Snat,
    SocketCgroup,
    SocketOwner,
    SocketUser,
    Src,
    TcpFlag,
)

_TCP_FLAGS: Json = {"payload": {"protocol": "tcp", "field": "flags"}}
_CT_STATE: Json = {"ct": {"key": "state"}}
_ZONE: Json = {"ct": {"key": "zone"}}
_TRACE: Json = {"meta": {"key": "nftrace"}}
_ENDS = {"saddr": End.SOURCE, "daddr": End.DESTINATION, "sport": End.SOURCE, "dport": End.DESTINATION}
# What nft prints by name, of the protocols that have no variant (getprotobyname(3), so by the machine's list).
_PROTOCOLS = {"igmp": 2, "gre": 47, "esp": 50, "ah": 51, "comp": 108, "sctp": 132, "udplite": 136, "dccp": 33}
_RANDOM = {"random", "fully-random"}
_OWNERS = {"skuid": Owner.USER, "skgid": Owner.GROUP}
# Of what anonymous sets are read: the fields whose values nft lists alone as it does among others.
_LISTED = (
    OfFamily | Proto | OtherProto | Src | Dst | Between | InIface | OutIface | PacketMark | ConnMark | SocketUser
    | SocketOwner | ConnStates
)  # fmt: skip
_WORD = re.compile(r"[a-z][a-z0-9-]{0,40}")


def their_match(statement: Json) -> Match:
    """Return the match of one statement; raises `Unknown` (or what a wrong shape raises) for any other."""
    match statement:
        case {"match": {"op": str(operator), "left": dict(left), "right": right, **rest}} if not rest:
            found = _compared(operator, left, right) or match_of(statement)
        case _:
            raise Unknown(statement)
    match found:
        case InIface(name=name) | OutIface(name=name) if not INTERFACE.fullmatch(name):
            raise Unknown(statement)
        case SocketCgroup(cgroup=str(path)) if not CGROUP.fullmatch(path):
            raise Unknown(statement)
        case InSet(name=name) if not NFT_NAME.fullmatch(name):
            raise Unknown(statement)
        case _:
            return found


def _compared(operator: str, left: Json, right: object) -> Match | None:
    """Return what only others ask for; None where it may be what Weir writes."""
    match operator, right:
        case "in", str() | list() if left == _CT_STATE:
            return ConnStates(states=tuple(ConnState(str(each)) for each in _several(right)))
        case "!=", str() if left == _CT_STATE:
            return ConnStates(states=(ConnState(right),), negate=True)
        case (("in" | "!"), str() | list()) if left == _TCP_FLAGS:
            among = {TcpFlag(str(each)) for each in _several(right)}
            return NoTcpFlags(among=tuple(each for each in TcpFlag if each in among), negate=operator == "in")
        case (("==" | "!="), {"set": list(values), **rest}) if not rest:
            return _one_of(left, values, negate=operator == "!=")
        case (("==" | "!="), _):
            return _equal(left, right, negate=operator == "!=")
        case _:
            return None


def _several(shown: object) -> list[object]:
    return shown if isinstance(shown, list) else [shown]


def _equal(left: Json, right: object, *, negate: bool) -> Match | None:
    match left, right:
        case {"ct": {"key": "direction"}}, str() if not negate and left == {"ct": {"key": "direction"}}:
            return ConnDirection(direction=Direction(right))
        case {"meta": {"key": "iif" | "oif" as key}}, str():
            kind = InIface if key == "iif" else OutIface
            return kind(name=right, negate=negate, by_index=True)
        case {"meta": {"key": "l4proto"}}, int() if not isinstance(right, bool) and 0 <= right < 256:
            return OtherProto(number=right, negate=negate)
        case {"meta": {"key": "l4proto"}}, str() if right in _PROTOCOLS:
            return OtherProto(number=_PROTOCOLS[right], negate=negate)
        case {"meta": {"key": "skuid" | "skgid" as key}}, _:
            return _owner(_OWNERS[str(key)], right, negate=negate)
        case {"fib": {"result": "type", "flags": ["saddr"] | "saddr"}}, str():
            return AddressType(end=End.SOURCE, kinds=(AddressKind(right),), negate=negate)
        case {"fib": {"result": "type", "flags": ["daddr"] | "daddr"}}, str() if right != "local":
            return AddressType(end=End.DESTINATION, kinds=(AddressKind(right),), negate=negate)
        case {"payload": {"protocol": "ip" | "ip6" as ip, "field": "saddr" | "daddr" as side}}, {"range": [low, high]}:
            first, last = ip_address(str(low)), ip_address(str(high))
            if first.version != (4 if ip == "ip" else 6):
                raise Unknown(right)
            return Between(end=_ENDS[str(side)], first=first, last=last, negate=negate)
        case _:
            return None


def _owner(owner: Owner, right: object, *, negate: bool) -> Match | None:
    match right:
        case {"range": [int(first), int(last)]} if 0 <= first <= last < 2**32 - 1:
            found = SocketOwner(owner=owner, first=first, last=last)
        case int() if 0 <= right < 2**32 - 1 and owner is Owner.GROUP:
            found = SocketOwner(owner=owner, first=right, last=right)
        case int() if 0 <= right < 2**32 - 1 and not negate:
            return None  # as Weir writes it
        case _:
            raise Unknown(right)
    if negate:
        raise Unknown(right)  # of a packet without a socket nft's doesn't hold, and iptables' does
    return found


def _one_of(left: Json, values: list[object], *, negate: bool) -> Match:
    match left:
        case {"payload": {"protocol": "tcp" | "udp" as protocol, "field": "sport" | "dport" as side}}:
            ranges = tuple(_port_range(each) for each in values)
            return Ports(protocol=Protocol(protocol), end=_ENDS[str(side)], ranges=ranges, negate=negate)
        case {"fib": {"result": "type", "flags": ["saddr" | "daddr" as side]}}:
            kinds = tuple(AddressKind(str(each)) for each in values)
            if len(kinds) < 2:
                raise Unknown(values)
            return AddressType(end=_ENDS[str(side)], kinds=kinds, negate=negate)
        case _:
            operator = "in" if left == _CT_STATE else "=="
            every = [their_match({"match": {"op": operator, "left": left, "right": each}}) for each in values]
            if negate and any(isinstance(each, SocketUser | SocketOwner) for each in every):
                raise Unknown(values)
            if not all(isinstance(each, _LISTED) for each in every):
                raise Unknown(values)
            return OneOf(matches=tuple(every), negate=negate)


def _port_range(shown: object) -> PortRange:
    match shown:
        case int() if not isinstance(shown, bool):
            return PortRange(shown, shown)
        case {"range": [int(first), int(last)]}:
            return PortRange(first, last)
        case _:
            raise Unknown(shown)


def aside_of(statement: Json) -> Aside | None:
    """Return a statement that does nothing to the packet, nor to whether its rule goes on; None for any other."""
    match statement:
        case {"counter": _} | {"log": _} | {"last": _} | {"continue": None}:
            pass
        case {"mangle": {"key": key}} if key == _TRACE:
            pass
        case _:
            return None
    return Aside(statement=json.dumps(statement, sort_keys=True))


def their_action(statement: Json) -> Action:
    """Return the action of one statement; raises `Unknown` (or what a wrong shape raises) for any other."""
    match statement:
        case {"drop": None}:
            return Drop()
        case {"return": None}:
            return Return()
        case {"jump": {"target": str(chain), **rest}} if not rest:
            return Jump(chain=chain)
        case {"goto": {"target": str(chain), **rest}} if not rest:
            return Goto(chain=chain)
        case {"notrack": None}:
            return NoTrack()
        case {"masquerade": None}:
            return Masquerade()
        case {"masquerade": {"flags": flags, **rest}} if not rest and set(_several(flags)) <= {
            "random",
            "fully-random",
        }:
            return Masquerade(random="random" in _several(flags), fully_random="fully-random" in _several(flags))
        case {"dnat": {"addr": str(address), **rest}} if rest.keys() <= {"family", "port"}:
            port = rest.get("port")
            return _sound_port(DnatTo(address=ip_address(address), port=_port(port) if "port" in rest else None))
        case {"snat": {"addr": str(address), **rest}} if rest.keys() <= {"family"}:
            return Snat(address=ip_address(address))
        case {"reject": {"type": "icmp" | "icmpx" | "icmpv6" as kind, "expr": str(code)}} if _WORD.fullmatch(code):
            plain = (kind, code) == ("icmpx", "port-unreachable")
            return action_of(statement) if plain else RejectIcmp(code=f"{kind} {code}")
        case {"mangle": {"key": key, "value": int(zone)}} if key == _ZONE and 0 < zone < 65536:
            return CtZoneBoth(zone=zone)
        case {"mangle": {"key": dict(key), "value": value}} if key in (PACKET_MARK, CONNECTION_MARK):
            return _copied(key, value) or _turned(key, value) or action_of(statement)
        case _:
            return _sound_port(action_of(statement))


def _port(shown: object) -> int:
    if not isinstance(shown, int):
        raise Unknown(shown)
    return shown


def _sound_port(action: Action) -> Action:
    match action:
        case Redirect(port=port) | Dnat(port=port) | DnatTo(port=int(port)) if not 0 < port < 65536:
            raise Unknown(action)
        case _:
            return action


def _copied(key: Json, value: object) -> Action | None:
    """Return the copy of one mark to the other, some of its bits if a mask says so."""
    to_packet = key == PACKET_MARK
    other = CONNECTION_MARK if to_packet else PACKET_MARK
    match value:
        case {"&": [source, int(mask)]} if source == other and 0 <= mask <= FULL_MASK:
            taken = mask
        case _ if value == other:
            taken = FULL_MASK
        case _:
            return None
    return RestoreMark(connection_mask=taken) if to_packet else SaveMark(packet_mask=taken)


def _turned(key: Json, value: object) -> Action | None:
    kept, flipped = bitwise(key, value)
    if not kept & flipped:
        return None
    of = MarkOf.PACKET if key == PACKET_MARK else MarkOf.CONNECTION
    return FlipMark(of=of, value=flipped, mask=~kept & FULL_MASK)
