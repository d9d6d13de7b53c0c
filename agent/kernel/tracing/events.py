"""Messages of nf_tables about traced packets, as values.

Sources: include/uapi/linux/netfilter/nf_tables.h (enum nft_trace_attributes), net/netfilter/nf_tables_trace.c.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from agent.kernel.attributes import attributes
from agent.kernel.tablequery import family_name
from rulesets.netlink import constants as c

_NFT_MSG_TRACE = 17
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_PLACE = 4  # struct nfgenmsg: family, version, resource
_TABLE, _CHAIN, _HANDLE, _TYPE, _VERDICT, _ID, _NETWORK, _TRANSPORT = 1, 2, 3, 4, 5, 6, 8, 9
_IIF, _OIF, _MARK, _POLICY = 10, 12, 14, 16
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2


class Unreadable(ValueError):
    """A message that no kernel sends, or one of another kernel's making."""


class Type(IntEnum):
    """What is told: that a chain has ended by its policy or by a return, or that a rule was met."""

    POLICY = 1
    RETURN = 2
    RULE = 3


class Code(IntEnum):
    """Verdicts, as the kernel numbers them (netfilter.h, nf_tables.h)."""

    RETURN = -5
    GOTO = -4
    JUMP = -3
    BREAK = -2
    CONTINUE = -1
    DROP = 0
    ACCEPT = 1
    STOLEN = 2
    QUEUE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One message. `packet` is the kernel's number for the packet, which others get later.

    `handle` is the rule's; None stands for the end of a chain's rules. `verdict` is a `Code` or a number that has
    none, `target` the chain of a jump. The headers are empty but in the first message of each chain; `mark` is 0 where
    the packet has none. Interfaces are by number, 0 for none.
    """

    family: str
    table: str
    chain: str
    type: Type
    packet: int
    handle: int | None
    verdict: int
    target: str
    network: bytes
    transport: bytes
    mark: int
    in_interface: int
    out_interface: int


def decode(datagram: bytes) -> tuple[Event, ...]:
    """Return the events of one datagram; messages of other kinds are left out. Raises `Unreadable`, nothing else."""
    return tuple(_events(datagram))


def _events(datagram: bytes) -> Iterator[Event]:
    at = 0
    while at + _HEADER.size <= len(datagram):
        length, kind, *_ = _HEADER.unpack_from(datagram, at)
        if length < _HEADER.size or at + length > len(datagram):
            raise Unreadable(f"a message of {length} bytes in {len(datagram) - at}")
        if kind == c.NFNL_SUBSYS_NFTABLES << 8 | _NFT_MSG_TRACE:
            yield _event(datagram[at + _HEADER.size : at + length])
        at += length + 3 & ~3


def _event(body: bytes) -> Event:
    if len(body) < _PLACE:
        raise Unreadable(f"a message of {len(body)} bytes has no family")
    told = attributes(body, _PLACE)
    try:
        kind = Type(_number(told, _TYPE, 4))
    except ValueError as error:
        raise Unreadable(f"of no type that is known: {error}") from None
    verdict = attributes(told.get(_VERDICT, b""))
    code = _number(told, _POLICY, 4) if _POLICY in told else _number(verdict, _VERDICT_CODE, 4)
    return Event(
        family=family_name(body[0]),
        table=_name(told, _TABLE),
        chain=_name(told, _CHAIN),
        type=kind,
        packet=_number(told, _ID, 4),
        handle=_number(told, _HANDLE, 8) if _HANDLE in told else None,
        verdict=code - (1 << 32) if code >= 1 << 31 else code,
        target=_name(verdict, _VERDICT_CHAIN) if _VERDICT_CHAIN in verdict else "",
        network=told.get(_NETWORK, b""),
        transport=told.get(_TRANSPORT, b""),
        mark=_number(told, _MARK, 4) if _MARK in told else 0,
        in_interface=_number(told, _IIF, 4) if _IIF in told else 0,
        out_interface=_number(told, _OIF, 4) if _OIF in told else 0,
    )


def _number(told: dict[int, bytes], kind: int, size: int) -> int:
    found = told.get(kind, b"")
    if len(found) != size:
        raise Unreadable(f"attribute {kind} has {len(found)} bytes instead of {size}")
    return int.from_bytes(found, "big")


def _name(told: dict[int, bytes], kind: int) -> str:
    return told.get(kind, b"").rstrip(b"\0").decode(errors="replace")
