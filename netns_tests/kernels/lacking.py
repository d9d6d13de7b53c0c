"""Kernels that aren't here: a stub at the socket answers as one would that lacks something, and passes on all else.

Whatever Weir asks goes through `RawNetlink`, so nothing of Weir is replaced but the descriptor it sends to; what the
stub lets through is carried out by the real kernel, and read back by libnftables.
"""

import errno
import itertools
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from agent.kernel import brief
from agent.kernel.attributes import attributes
from agent.kernel.rawnetlink import NETLINK_NETFILTER, NETLINK_SOCK_DIAG, RawNetlink
from netns_tests.kernel_tables import flat
from rulesets.netlink import constants as c

__all__ = ["LACKS", "Lack", "lacking"]

Expression = tuple[str, dict[int, bytes]]

NFNETLINK_CONNTRACK = 1 << 8
RTM_NEWROUTE, RTM_NEWRULE = 24, 32
SOCK_DIAG_TCP, SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 18, 20, 21
_HEADER = struct.Struct("=IHHII")
_NLMSG_ERROR, _NLM_F_CAPPED = 2, 0x100


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """A feature by its name in the table, the messages that need it, and what a kernel without it answers to them."""

    feature: str
    protocol: int
    needed: Callable[[int, bytes], bool]
    code: int


def _of_rules(found: Callable[[list[Expression]], bool]) -> Callable[[int, bytes], bool]:
    """Return whether a message is a rule with such expressions."""

    def needed(kind: int, body: bytes) -> bool:
        return kind == _nft(c.NFT_MSG_NEWRULE) and found(list(_expressions(body)))

    return needed


def _expressions(body: bytes) -> Iterator[Expression]:
    for _, each in flat(attributes(body, 4)[c.NFTA_RULE_EXPRESSIONS], set()):
        told = attributes(each)
        yield told[c.NFTA_EXPR_NAME].rstrip(b"\0").decode(), attributes(told.get(c.NFTA_EXPR_DATA, b""))


def _number(told: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(told.get(kind, b""), "big")


def _zones(expressions: list[Expression]) -> bool:
    return any(
        name == "ct" and c.NFTA_CT_SREG in told and _number(told, c.NFTA_CT_KEY) == c.NFT_CT_ZONE
        for name, told in expressions
    )


def _users(expressions: list[Expression]) -> bool:
    return any(name == "meta" and _number(told, c.NFTA_META_KEY) == c.NFT_META_SKUID for name, told in expressions)


def _tcp_flags(expressions: list[Expression]) -> bool:
    """The byte of the flags, without which a SYN can't be told."""
    at = (c.NFT_PAYLOAD_TRANSPORT_HEADER, 13)
    return any(
        name == "payload" and (_number(told, c.NFTA_PAYLOAD_BASE), _number(told, c.NFTA_PAYLOAD_OFFSET)) == at
        for name, told in expressions
    )


def _wildcards(expressions: list[Expression]) -> bool:
    """A comparison of fewer bytes than a whole name has (IFNAMSIZ)."""
    names = {c.NFT_META_IIFNAME, c.NFT_META_OIFNAME}
    return any(
        name == "meta"
        and _number(told, c.NFTA_META_KEY) in names
        and len(attributes(after.get(c.NFTA_CMP_DATA, b"")).get(c.NFTA_DATA_VALUE, bytes(16))) < 16
        for (name, told), (_, after) in itertools.pairwise(expressions)
    )


def _rejects(expressions: list[Expression]) -> bool:
    return any(name == "reject" for name, _ in expressions)


def _nft(message: int) -> int:
    return c.NFNL_SUBSYS_NFTABLES << 8 | message


def _is_set(kind: int, body: bytes) -> bool:
    return kind == _nft(c.NFT_MSG_NEWSET)


def _is_pairs(kind: int, body: bytes) -> bool:
    """A set whose key is longer than any one value: an address of four bytes and a port in four."""
    return _is_set(kind, body) and _number(attributes(body, 4), c.NFTA_SET_KEY_LEN) == 8


def _asks(*kinds: int) -> Callable[[int, bytes], bool]:
    return lambda kind, body: kind in kinds


def _routes(kind: int, family: int) -> Callable[[int, bytes], bool]:
    return lambda asked, body: asked == kind and body[0] == family


LACKS = {
    each.feature: each
    for each in (
        Lack(
            feature="nf_tables",
            protocol=NETLINK_NETFILTER,
            needed=lambda kind, body: kind >> 8 == c.NFNL_SUBSYS_NFTABLES or kind == c.NFNL_MSG_BATCH_BEGIN,
            code=errno.EINVAL,
        ),
        # net/netfilter/nft_ct.c, nft_ct_set_init; nft_meta.c, nft_meta_get_init: a key that isn't built in.
        Lack(
            feature="connection zones",
            protocol=NETLINK_NETFILTER,
            needed=_of_rules(_zones),
            code=errno.EOPNOTSUPP,
        ),
        Lack(
            feature="user of a socket",
            protocol=NETLINK_NETFILTER,
            needed=_of_rules(_users),
            code=errno.EOPNOTSUPP,
        ),
        # No kernel with nf_tables is known that lacks these two: what it would say is a guess.
        Lack(feature="TCP flags", protocol=NETLINK_NETFILTER, needed=_of_rules(_tcp_flags), code=errno.EOPNOTSUPP),
        Lack(
            feature="wildcards of interfaces",
            protocol=NETLINK_NETFILTER,
            needed=_of_rules(_wildcards),
            code=errno.EINVAL,
        ),
        # nf_tables_api.c, nft_select_set_ops: no kind of set fits.
        Lack(
            feature="sets of networks and port ranges",
            protocol=NETLINK_NETFILTER,
            needed=_is_set,
            code=errno.EOPNOTSUPP,
        ),
        Lack(feature="sets of address and port", protocol=NETLINK_NETFILTER, needed=_is_pairs, code=errno.EOPNOTSUPP),
        # nf_tables_api.c, nft_expr_type_get: no such expression.
        Lack(
            feature="reject in prerouting",
            protocol=NETLINK_NETFILTER,
            needed=_of_rules(_rejects),
            code=errno.ENOENT,
        ),
        # nfnetlink.c, nfnetlink_rcv_msg: no such subsystem.
        Lack(
            feature="conntrack entries over netlink",
            protocol=NETLINK_NETFILTER,
            needed=lambda kind, body: kind & 0xFF00 == NFNETLINK_CONNTRACK,
            code=errno.EINVAL,
        ),
        # net/core/sock_diag.c and net/ipv4/inet_diag.c.
        Lack(
            feature="listing of TCP sockets",
            protocol=NETLINK_SOCK_DIAG,
            needed=_asks(SOCK_DIAG_TCP),
            code=errno.ENOENT,
        ),
        Lack(
            feature="listing of UDP sockets",
            protocol=NETLINK_SOCK_DIAG,
            needed=_asks(SOCK_DIAG_BY_FAMILY),
            code=errno.ENOENT,
        ),
        Lack(
            feature="ending of sockets",
            protocol=NETLINK_SOCK_DIAG,
            needed=_asks(SOCK_DESTROY),
            code=errno.EOPNOTSUPP,
        ),
        # net/ipv4/fib_frontend.c and net/ipv6/ip6_fib.c without policy rules: every route goes to the main table.
        Lack(
            feature="local routes in a table of their own",
            protocol=socket.NETLINK_ROUTE,
            needed=_routes(RTM_NEWROUTE, socket.AF_INET),
            code=0,
        ),
        Lack(
            feature="IPv6 local routes in a table of their own",
            protocol=socket.NETLINK_ROUTE,
            needed=_routes(RTM_NEWROUTE, socket.AF_INET6),
            code=0,
        ),
        # net/core/fib_rules.c, fib_nl_newrule: nobody has rules of this family.
        Lack(
            feature="policy rules with a protocol number",
            protocol=socket.NETLINK_ROUTE,
            needed=_routes(RTM_NEWRULE, socket.AF_INET),
            code=errno.EAFNOSUPPORT,
        ),
        Lack(
            feature="IPv6 policy rules with a protocol number",
            protocol=socket.NETLINK_ROUTE,
            needed=_routes(RTM_NEWRULE, socket.AF_INET6),
            code=errno.EAFNOSUPPORT,
        ),
    )
}


class Stub:
    """A netlink socket of a kernel that lacks something."""

    def __init__(self, kernel: socket.socket, lack: Lack) -> None:
        self._kernel = kernel
        self._lack = lack
        self._answers: list[bytes] = []

    def send(self, data: bytes) -> int:
        """Answer what needs the feature, and pass the rest on: all but the rest of a batch, which fails as a whole."""
        messages = tuple(_messages(data))
        self._answers = [_refusal(each, self._lack.code) for each in messages if self._needs(each)]
        rest = b"".join(each for each in messages if not self._needs(each))
        if rest and not (self._answers and self._kernel.proto == NETLINK_NETFILTER):
            self._kernel.send(rest)
        return len(data)

    def recv_into(self, buffer: memoryview, size: int = 0, flags: int = 0) -> int:
        """Return the kernel's answer, or the stub's."""
        if not self._answers:
            return self._kernel.recv_into(buffer, size, flags)
        answer = self._answers.pop(0)
        buffer[: len(answer)] = answer
        return len(answer)

    def recvmsg_into(self, buffers: list[bytearray]) -> tuple[int, list[Any], int, Any]:
        """Return the kernel's answer, or the stub's."""
        if not self._answers:
            return self._kernel.recvmsg_into(buffers)
        return self.recv_into(memoryview(buffers[0])), [], 0, None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernel, name)

    def _needs(self, message: bytes) -> bool:
        kind = _HEADER.unpack_from(message)[1]
        return self._kernel.proto == self._lack.protocol and self._lack.needed(kind, message[_HEADER.size :])


def _messages(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        length = _HEADER.unpack_from(data, at)[0]
        yield data[at : at + length]
        at += length + 3 & ~3


def _refusal(message: bytes, code: int) -> bytes:
    body = struct.pack("=i", -code) + message[: _HEADER.size]
    sequence = _HEADER.unpack_from(message)[3]
    return _HEADER.pack(_HEADER.size + len(body), _NLMSG_ERROR, _NLM_F_CAPPED, sequence, os.getpid()) + body


@contextmanager
def lacking(feature: str) -> Iterator[None]:
    """Have every netlink socket that Weir opens from here on be one of a kernel that lacks a feature."""
    opened, received = RawNetlink.__init__, brief.receive
    stubs: dict[int, Stub] = {}

    def stubbed(self: RawNetlink, *args: Any, **values: Any) -> None:
        opened(self, *args, **values)
        stub = stubs[self._socket.fileno()] = Stub(self._socket, LACKS[feature])
        self._socket = stub  # type: ignore[assignment]

    def receive(descriptor: int, buffer: bytearray) -> int:
        stub = stubs.get(descriptor)
        if stub is None:
            return received(descriptor, buffer)
        return stub.recv_into(memoryview(buffer), 0, socket.MSG_DONTWAIT)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RawNetlink, "__init__", stubbed)
        patched.setattr(brief, "receive", receive)
        yield
