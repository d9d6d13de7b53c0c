"""What Weir reads and never writes, in nft's words; in parentheses, and not to be loaded, where nft has none for it."""

from typing import assert_never

from rulesets.vocabulary import (
    FULL_MASK,
    AddressType,
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
)

_KEY = {MarkOf.PACKET: "meta mark", MarkOf.CONNECTION: "ct mark"}
_SIDE = {End.SOURCE: "s", End.DESTINATION: "d"}


def match_text(match: ReadMatch) -> str:
    """Return one match as nft writes it."""
    unequal = "!= " if getattr(match, "negate", False) else ""
    match match:
        case OtherProto(number=number):
            return f"meta l4proto {unequal}{number}"
        case Ports(protocol=protocol, end=End.EITHER, ranges=ranges):
            return f"({protocol} sport or dport {unequal}{{ {', '.join(map(str, ranges))} }})"
        case Ports(protocol=protocol, end=end, ranges=ranges):
            return f"{protocol} {_SIDE[end]}port {unequal}{{ {', '.join(map(str, ranges))} }}"
        case Between(end=end, first=first, last=last):
            return f"{'ip' if first.version == 4 else 'ip6'} {_SIDE[end]}addr {unequal}{first}-{last}"
        case AddressType(end=end, kinds=kinds):
            return f"fib {_SIDE[end]}addr type {unequal}{{ {', '.join(kinds)} }}"
        case ConnStates(states=states):
            return f"ct state {unequal}{{ {', '.join(states)} }}"
        case ConnDirection(direction=direction):
            return f"ct direction {direction}"
        case SocketOwner(owner=owner, first=first_id, last=last_id, negate=negate):
            ids = str(first_id) if first_id == last_id else f"{first_id}-{last_id}"
            text = f"meta {'skuid' if owner is Owner.USER else 'skgid'} {unequal}{ids}"
            return f"({text}, or no socket)" if negate else text
        case NoSocket():
            return "(no socket)"
        case ReceivingSocket(transparent=transparent, wildcard=wildcard):
            return f"({'transparent ' if transparent else ''}{'wildcard ' if wildcard else ''}socket)"
        case NoTcpFlags(among=among, negate=negate):
            return f"tcp flags & ({'|'.join(among)}) {'!=' if negate else '=='} 0x0"
        case InIpset(name=name, ends=ends):
            return f"({unequal}ipset {name} {','.join(ends)})"
        case Comment(text=text):
            return f"({text})"
        case _:
            assert_never(match)


def action_text(action: ReadAction) -> str:
    """Return one action as nft writes it."""
    match action:
        case Jump(chain=chain):
            return f"jump {chain}"
        case Goto(chain=chain):
            return f"goto {chain}"
        case Return():
            return "return"
        case Drop():
            return "drop"
        case Continue(beside=beside):
            return f"({beside})" if beside else "continue"
        case DnatTo(address=address, port=port):
            if address.version == 4:
                return f"dnat ip to {address}" if port is None else f"dnat ip to {address}:{port}"
            return f"dnat ip6 to {address}" if port is None else f"dnat ip6 to [{address}]:{port}"
        case Masquerade(random=random, fully_random=fully):
            return " ".join(["masquerade", *(["random"] if random else []), *(["fully-random"] if fully else [])])
        case FlipMark(of=of, value=value, mask=mask):
            key = _KEY[of]
            return f"{key} set {key} & {~mask & FULL_MASK:#x} ^ {value:#x}"
        case SaveMark(packet_mask=ours, connection_mask=theirs):
            return _copied(MarkOf.CONNECTION, theirs, MarkOf.PACKET, ours)
        case RestoreMark(packet_mask=ours, connection_mask=theirs):
            return _copied(MarkOf.PACKET, ours, MarkOf.CONNECTION, theirs)
        case CtZoneBoth(zone=zone):
            return f"ct zone set {zone}"
        case NoTrack():
            return "notrack"
        case Tproxy(port=port, address=address, mark=mark):
            to = "" if address is None else str(address) if address.version == 4 else f"[{address}]"
            return f"(tproxy to {to}:{port}{'' if mark is None else f' mark {mark}'})"
        case RejectIcmp(code=code):
            return f"(reject with {code})"
        case _:
            assert_never(action)


def _copied(to: MarkOf, changed: int, of: MarkOf, taken: int) -> str:
    if changed == taken == FULL_MASK:
        return f"{_KEY[to]} set {_KEY[of]}"
    # nft refuses an operation whose right side isn't constant.
    return f"({_KEY[to]} set {_KEY[to]} & {~changed & FULL_MASK:#x} ^ ({_KEY[of]} & {taken:#x}))"
