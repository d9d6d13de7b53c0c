"""What Weir reads and never writes, in nft's words; in parentheses, and not to be loaded, where nft has none for it."""

import json
import re
from typing import assert_never

from rulesets.model.ruleset import NFT_NAME
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
# What stands between quotes: nft has no escape for what would end it.
_QUOTED = re.compile(r"[^\x00-\x1f\x7f-\x9f\"\u2028\u2029\ud800-\udfff]{0,128}")
_WORD = re.compile(r"[a-z][a-z ]{0,40}")


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
            listed = f"{{ {', '.join(kinds)} }}" if len(kinds) > 1 else kinds[0]
            return f"fib {_SIDE[end]}addr type {unequal}{listed}"
        case ConnStates(states=states, negate=negate):
            if negate and len(states) > 1:  # a list would be one value that has all of their bits
                return f"ct state != {{ {', '.join(states)} }}"
            return f"ct state {unequal}{','.join(states)}"
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
        case Aside(statement=statement):
            return _aside_text(statement)
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
            kept = f"{key} & {~mask & FULL_MASK:#x}" if mask else key
            return f"{key} set {kept} ^ {value:#x}"
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
            return f"reject with {code}" if " " in code else f"(reject with {code})"
        case _:
            assert_never(action)


def _copied(to: MarkOf, changed: int, of: MarkOf, taken: int) -> str:
    if changed == taken == FULL_MASK:
        return f"{_KEY[to]} set {_KEY[of]}"
    if changed == FULL_MASK:
        return f"{_KEY[to]} set {_KEY[of]} & {taken:#x}"
    # nft refuses an operation whose right side isn't constant.
    return f"({_KEY[to]} set {_KEY[to]} & {~changed & FULL_MASK:#x} ^ ({_KEY[of]} & {taken:#x}))"


def quoted(text: str) -> str | None:
    """Return a text between quotes, or None where nft could not read it."""
    return f'"{text}"' if _QUOTED.fullmatch(text) else None


def _aside_text(statement: str) -> str:
    """Return a statement that counts or logs, in nft's words as far as they are known."""
    match json.loads(statement):
        case {"counter": {"packets": int(packets), "bytes": int(size)}}:
            return f"counter packets {packets} bytes {size}"
        case {"counter": str(name)} if NFT_NAME.fullmatch(name):
            return f'counter name "{name}"'
        case {"continue": None}:
            return "continue"
        case {"mangle": {"key": {"meta": {"key": "nftrace"}}, "value": int(value)}}:
            return f"meta nftrace set {value}"
        case {"log": None}:
            return "log"
        case {"log": dict(told)} if (words := _log(told)) is not None:
            return " ".join(["log", *words])
        case _:
            return f"({statement})"


def _log(told: dict[str, object]) -> list[str] | None:
    """Return what stands behind ``log``, or None where one of its settings isn't known."""
    words: list[str] = []
    for name, value in told.items():
        match name, value:
            case "prefix", str() if (prefix := quoted(value)) is not None:
                words.insert(0, f"prefix {prefix}")
            case (("level" | "flags"), str()) if _WORD.fullmatch(value):
                words.append(f"{name} {value}")
            case "flags", list() if all(isinstance(each, str) and _WORD.fullmatch(each) for each in value):
                words += [f"flags {each}" for each in value]
            case (("group" | "snaplen" | "queue-threshold"), int()):
                words.append(f"{name} {value}")
            case _:
                return None
    return words
