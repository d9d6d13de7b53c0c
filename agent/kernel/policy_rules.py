"""Everybody's policy rules, links and addresses, and what the kernel's own routing makes of one packet: rtnetlink(7).

Reads only. All functions act in the calling thread's namespace. Sources: include/uapi/linux/fib_rules.h, rtnetlink.h,
if_link.h, neighbour.h; net/ipv4/route.c, inet_rtm_getroute.
"""

import errno
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Self

from agent.kernel.attributes import attribute, attributes
from agent.kernel.rawnetlink import Answer, RawNetlink
from agent.kernel.routing_messages import FAMILIES, route_request
from rulesets.vocabulary import Address, Family, Network, family_of

TABLE_LOCAL, TABLE_MAIN = 255, 254
LOCAL = 2  # RTN_LOCAL
LOOKUP, GOTO, NOTHING = 1, 2, 3  # FR_ACT_TO_TBL, FR_ACT_GOTO, FR_ACT_NOP
BY_ADVERTISEMENT = 9  # RTPROT_RA
_NETLINK_ROUTE, _SOL_NETLINK, _NETLINK_GET_STRICT_CHK = 0, 270, 12
_RTM_GETLINK, _RTM_GETADDR, _RTM_GETROUTE, _RTM_GETNEIGH, _RTM_GETRULE = 18, 22, 26, 30, 34
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg; fib_rule_hdr has the same bytes
_LINK = struct.Struct("=BxHiII")  # ifinfomsg
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # ndmsg
_RTM_F_LOOKUP_TABLE, _FIB_RULE_INVERT = 0x1000, 2
_NUD_USABLE = 0x02 | 0x04 | 0x08 | 0x10 | 0x80  # reachable, stale, delay, probe, permanent
_ANSWERS_NO = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENOENT)
_ACTIONS = {GOTO: "goto", NOTHING: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_TABLES = {253: "default", 254: "main", 255: "local"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleEntry:
    """One ``ip rule`` of anybody's. `table` is 0 where the rule doesn't look one up, `mask` 0 where it asks no mark.

    `selects`: whether it asks for more than is told here (a user, ports, a protocol, a tos).
    """

    family: Family
    priority: int
    action: int
    table: int = 0
    mark: int = 0
    mask: int = 0
    source: Network | None = None
    destination: Network | None = None
    in_interface: str = ""
    out_interface: str = ""
    inverted: bool = False
    selects: bool = False
    protocol: int = 0
    suppresses: bool = False

    def __str__(self) -> str:
        words = ["not" if self.inverted else "", f"from {self.source or 'all'}"]
        words += [f"to {self.destination}"] if self.destination else []
        words += [f"fwmark {self.mark:#x}/{self.mask:#x}"] if self.mask else []
        words += [f"iif {self.in_interface}"] if self.in_interface else []
        words += [f"oif {self.out_interface}"] if self.out_interface else []
        words += ["(and more)"] if self.selects else []
        lookup = f"lookup {_TABLES.get(self.table, self.table)}"
        words.append(lookup if self.action == LOOKUP else _ACTIONS.get(self.action, f"action {self.action}"))
        ip = "ip" if self.family is Family.IPV4 else "ip -6"
        return f"{ip} rule {self.priority}: {' '.join(filter(None, words))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What the kernel's routing answers: `error` is its errno (0: there is a route), `said` its words.

    `kind` is rtm_type, `interface` an index; `gateway` is None for what is on the link.
    """

    error: int = 0
    said: str = ""
    kind: int = 0
    table: int = 0
    interface: int = 0
    gateway: Address | None = None
    source: Address | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """An interface: `kind` as `ip -d link` has it, `peer` and `master` are indices, `away`: the peer is elsewhere."""

    index: int
    name: str
    kind: str = ""
    peer: int = 0
    master: int = 0
    away: bool = False
    up: bool = True


class _Strict(RawNetlink):
    """A socket on which a request for some routes brings those alone: since 4.20, all of them before."""

    def __init__(self) -> None:
        super().__init__(_NETLINK_ROUTE, feature="rtnetlink", option="CONFIG_NET")
        with suppress(OSError):
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)


class Rtnetlink:
    """A socket for questions about routing; use it in a `with` block."""

    def __init__(self) -> None:
        """Open it in the calling thread's namespace. Raises `KernelError`."""
        self._netlink = _Strict()
        # A strict one refuses to name the table of an IPv6 route (net/ipv6/route.c, inet6_rtm_valid_getroute_req).
        self._lax = RawNetlink(_NETLINK_ROUTE, feature="rtnetlink", option="CONFIG_NET")

    def __enter__(self) -> Self:
        """Use it in a block."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close both sockets."""
        self._netlink.close()
        self._lax.close()

    def rules(self) -> tuple[RuleEntry, ...]:
        """Return the policy rules of both families, in the order in which the kernel asks them."""
        found = []
        for family in Family:
            body = _ROUTE.pack(FAMILIES[family], 0, 0, 0, 0, 0, 0, 0, 0)
            answer = self._netlink.dump(_RTM_GETRULE, body, statement="ip rule show")
            found += [_rule(family, each) for each in _listed(answer, "ip rule show") if each[0] == FAMILIES[family]]
        return tuple(found)

    def links(self) -> tuple[Link, ...]:
        """Return the interfaces."""
        statement = "ip link show"
        listed = _listed(self._netlink.dump(_RTM_GETLINK, bytes(_LINK.size), statement=statement), statement)
        return tuple(map(_link, listed))

    def addresses(self) -> tuple[tuple[int, Address], ...]:
        """Return the addresses that packets may bear on a link beyond it, each with its interface's index."""
        statement = "ip address show"
        listed = _listed(self._netlink.dump(_RTM_GETADDR, bytes(_ADDRESS.size), statement=statement), statement)
        return tuple(_addresses(listed))

    def neighbours(self) -> tuple[tuple[int, Address], ...]:
        """Return whom the kernel has met on its links, each with the interface's index."""
        statement = "ip neighbour show"
        listed = _listed(self._netlink.dump(_RTM_GETNEIGH, bytes(_NEIGHBOUR.size), statement=statement), statement)
        return tuple(_neighbours(listed))

    def single_routes(self) -> tuple[tuple[int, Address], ...]:
        """Return the routes to one address on a link, of the table main, each with the interface's index."""
        return tuple(_single(self._routes(route_request(table=TABLE_MAIN), f"ip route show table {TABLE_MAIN}")))

    def reach(self, tables: Iterable[int]) -> dict[tuple[Family, int], bool]:
        """Return which of these tables hold routes, each with whether one of them is for everything."""
        found: dict[tuple[Family, int], bool] = {}
        names = {int(number): family for family, number in FAMILIES.items()}
        for table in sorted(set(tables)):
            for body in self._routes(route_request(table=table), f"ip route show table {table}"):
                if body[0] in names and _table(body) == table:
                    key = (names[body[0]], table)
                    found[key] = found.get(key, False) or not body[1]
        return found

    def advertised(self) -> frozenset[int]:
        """Return the interfaces (indices) of IPv6 default routes that a router's advertisement made."""
        listed = self._routes(route_request(protocol=BY_ADVERTISEMENT), "ip -6 route show proto ra")
        wanted = (int(FAMILIES[Family.IPV6]), 0, BY_ADVERTISEMENT)
        ours = (each for each in listed if (each[0], each[1], each[5]) == wanted)
        return frozenset(_number(attributes(each, _ROUTE.size), 4) for each in ours)

    def _routes(self, request: bytes, statement: str) -> tuple[bytes, ...]:
        return _listed(self._netlink.dump(_RTM_GETROUTE, request, statement=statement), statement)

    def route(
        self, destination: Address, *, source: Address | None = None, arriving_by: int = 0, mark: int = 0
    ) -> Route:
        """Ask how a packet would be routed: one that is sent from here, or one that arrives by an interface (index).

        Of one that arrives the kernel checks the way back as well (rp_filter): a failure is EXDEV.
        """
        family = family_of(destination)
        bits = destination.max_prefixlen
        body = _ROUTE.pack(FAMILIES[family], bits, bits if source else 0, 0, 0, 0, 0, 0, _RTM_F_LOOKUP_TABLE)
        body += attribute(1, destination.packed)
        body += attribute(2, source.packed) if source else b""
        body += attribute(3, struct.pack("=I", arriving_by)) if arriving_by else b""
        body += attribute(16, struct.pack("=I", mark)) if mark else b""
        statement = f"ip route get {destination}" + (f" from {source}" if source else "")
        answer = self._lax.ask(_RTM_GETROUTE, body, statement=statement)
        if answer.errno or not answer.messages:
            return Route(error=answer.errno or errno.ENODATA, said=answer.said)
        return _route(answer.messages[0])


def _listed(answer: Answer, statement: str) -> tuple[bytes, ...]:
    return () if answer.errno in _ANSWERS_NO else answer.expect(statement)


def _rule(family: Family, body: bytes) -> RuleEntry:
    header, told = _ROUTE.unpack_from(body), attributes(body, _ROUTE.size)
    return RuleEntry(
        family=family,
        priority=_number(told, 6),
        action=header[7],
        table=_table(body) if header[7] == LOOKUP else 0,
        mark=_number(told, 10),
        mask=_number(told, 16),
        source=_network(told.get(2), header[2]),
        destination=_network(told.get(1), header[1]),
        in_interface=_name(told.get(3)),
        out_interface=_name(told.get(17)),
        inverted=bool(header[8] & _FIB_RULE_INVERT),
        selects=bool(header[3]) or bool(told.keys() & {12, 19, 20, 22, 23, 24}),
        protocol=told.get(21, b"\0")[0],
        suppresses=told.get(14, b"\xff" * 4) != b"\xff" * 4,
    )


def _route(body: bytes) -> Route:
    header, told = _ROUTE.unpack_from(body), attributes(body, _ROUTE.size)
    via = told.get(18)  # RTA_VIA: the gateway's family may be another one
    return Route(
        kind=header[7],
        table=_table(body),
        interface=_number(told, 4),
        gateway=_address(told.get(5)) or (_address(via[2:]) if via else None),
        source=_address(told.get(7)),
    )


def _link(body: bytes) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    told = attributes(body, _LINK.size)
    about = attributes(told.get(18, b""))
    return Link(
        index=index,
        name=_name(told.get(3)),
        kind=_name(about.get(1)),
        peer=_number(told, 5),
        master=_number(told, 10),
        away=37 in told,
        up=bool(flags & 1),
    )


def _addresses(listed: tuple[bytes, ...]) -> Iterator[tuple[int, Address]]:
    for body in listed:
        _, _, _, _, index = _ADDRESS.unpack_from(body)
        told = attributes(body, _ADDRESS.size)
        found = _address(told.get(2) or told.get(1))  # IFA_LOCAL; IPv6 has IFA_ADDRESS alone
        if found is not None and not (found.is_loopback or found.is_link_local):
            yield index, found


def _neighbours(listed: tuple[bytes, ...]) -> Iterator[tuple[int, Address]]:
    for body in listed:
        _, index, state, _, _ = _NEIGHBOUR.unpack_from(body)
        found = _address(attributes(body, _NEIGHBOUR.size).get(1))
        if found is not None and state & _NUD_USABLE and not (found.is_link_local or found.is_multicast):
            yield index, found


def _single(listed: tuple[bytes, ...]) -> Iterator[tuple[int, Address]]:
    for body in listed:
        header, told = _ROUTE.unpack_from(body), attributes(body, _ROUTE.size)
        found = _address(told.get(1))
        on_link = 4 in told and 5 not in told and header[7] == 1 and _table(body) == TABLE_MAIN
        if on_link and found is not None and header[1] == found.max_prefixlen and not found.is_link_local:
            yield _number(told, 4), found


def _table(body: bytes) -> int:
    return _number(attributes(body, _ROUTE.size), 15) or body[4]


def _network(packed: bytes | None, bits: int) -> Network | None:
    found = _address(packed)
    return None if found is None else ip_network(f"{found}/{bits}", strict=False)


def _address(packed: bytes | None) -> Address | None:
    if packed is None or len(packed) not in (4, 16):
        return None
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def _number(told: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(told.get(kind, b"")[:4], sys.byteorder)


def _name(told: bytes | None) -> str:
    return (told or b"").rstrip(b"\0").decode(errors="replace")
