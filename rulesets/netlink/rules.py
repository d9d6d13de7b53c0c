"""Matches and actions as the kernel's expressions.

A header may be read only where it is that header: a test for the family or the protocol goes before, once a rule. nft
knows such a test for implied and leaves it out of its listing.
"""

from dataclasses import dataclass, field
from typing import assert_never

from rulesets.model import Rule
from rulesets.netlink import constants as c
from rulesets.netlink import expressions as e
from rulesets.netlink.attributes import host16, host32, host64
from rulesets.vocabulary import (
    FULL_MASK,
    Accept,
    Action,
    ConnMark,
    CtZone,
    Dnat,
    Dst,
    DstPort,
    Family,
    Foreign,
    InIface,
    InSet,
    Limited,
    LocalAddress,
    LocalSocket,
    Mark,
    Match,
    ModelError,
    Network,
    OfFamily,
    OneOf,
    OutIface,
    PacketMark,
    PortRange,
    Proto,
    Protocol,
    ReadAction,
    ReadMatch,
    Redirect,
    Reject,
    RejectWith,
    Sampled,
    SetConnMark,
    SetField,
    SetMark,
    Snat,
    SocketCgroup,
    SocketUser,
    Src,
    SrcPort,
    TcpFlag,
    TcpFlags,
    Trace,
    family_of,
)

_FAMILIES = {Family.IPV4: c.NFPROTO_IPV4, Family.IPV6: c.NFPROTO_IPV6}
_PROTOCOLS = {
    Protocol.TCP: c.IPPROTO_TCP,
    Protocol.UDP: c.IPPROTO_UDP,
    Protocol.ICMP: c.IPPROTO_ICMP,
    Protocol.ICMPV6: c.IPPROTO_ICMPV6,
}
_REPLIES = {
    RejectWith.TCP_RESET: (c.NFT_REJECT_TCP_RST, 0),
    RejectWith.PORT_UNREACHABLE: (c.NFT_REJECT_ICMPX_UNREACH, c.NFT_REJECT_ICMPX_PORT_UNREACH),
}
# Where the fields stand in their headers: offset and length in bytes (RFC 791, RFC 8200, RFC 9293, RFC 768).
_SOURCE = {4: (12, 4), 6: (8, 16)}
_DESTINATION = {4: (16, 4), 6: (24, 16)}
_SOURCE_PORT, _DESTINATION_PORT = (0, 2), (2, 2)
_TCP_FLAGS = (13, 1)
_FLAG_BITS = {flag: 1 << at for at, flag in enumerate(TcpFlag)}
_INTERFACE_NAME = 16  # IFNAMSIZ, net/if.h
_CONCATENATED = {4: c.NFT_REG32_01, 6: c.NFT_REG_2}  # the register behind an address that starts in the first


def expressions(rule: Rule) -> bytes:
    """Return the list of a rule's expressions. Raises `ModelError` where something in it is foreign."""
    if rule.foreign:
        raise ModelError(f"rule {rule.slug!r} holds something foreign, which can be shown but not loaded")
    writer = _Writer()
    for match in rule.matches:
        writer.match(match)
    writer.add(e.count(rule.slug))
    writer.act(rule.action)
    return b"".join(writer.parts)


@dataclass(slots=True)
class _Writer:
    """Collects one rule's expressions, and knows of which family and protocol its packets are by then."""

    parts: list[bytes] = field(default_factory=list)
    family: Family | None = None
    protocol: Protocol | None = None

    def add(self, *parts: bytes) -> None:
        self.parts += parts

    def match(self, match: Match) -> None:
        if isinstance(match, ReadMatch):
            raise ModelError(f"Weir never writes {match}")
        operator = c.NFT_CMP_NEQ if getattr(match, "negate", False) else c.NFT_CMP_EQ
        match match:
            case OfFamily(family=family):
                self._need_family(family)
            case Proto(protocol=protocol, negate=False):
                self._need_protocol(protocol)
            case Proto(protocol=protocol):
                self.add(e.meta_load(c.NFT_META_L4PROTO), e.compare(operator, bytes((_PROTOCOLS[protocol],))))
            case Src(network=network):
                self._network(_SOURCE[network.version], network, operator)
            case Dst(network=network):
                self._network(_DESTINATION[network.version], network, operator)
            case SrcPort(protocol=protocol, ports=ports):
                self._ports(protocol, _SOURCE_PORT, ports, operator)
            case DstPort(protocol=protocol, ports=ports):
                self._ports(protocol, _DESTINATION_PORT, ports, operator)
            case InIface(name=name):
                self.add(e.meta_load(c.NFT_META_IIFNAME), e.compare(operator, _interface(name)))
            case OutIface(name=name):
                self.add(e.meta_load(c.NFT_META_OIFNAME), e.compare(operator, _interface(name)))
            case PacketMark(mark=mark):
                self._mark(e.meta_load(c.NFT_META_MARK), mark, operator)
            case ConnMark(mark=mark):
                self._mark(e.ct_load(c.NFT_CT_MARK), mark, operator)
            case SocketUser(user=user):
                self.add(e.meta_load(c.NFT_META_SKUID), e.compare(operator, host32(user)))
            case SocketCgroup(level=level, cgroup=int(number)):
                self.add(e.socket_cgroup_load(level), e.compare(operator, host64(number)))
            case SocketCgroup(cgroup=path):
                raise ModelError(f"cgroup {path!r} is not looked up yet: the kernel knows cgroups by number alone")
            case LocalSocket():
                self.add(e.meta_load(c.NFT_META_SKUID), e.to_network_order(4), e.compare(c.NFT_CMP_GTE, bytes(4)))
            case LocalAddress():
                self.add(e.fib_destination_type(), e.compare(operator, host32(c.RTN_LOCAL)))
            case InSet(field=of, name=name, negate=negate):
                self._load_field(of)
                self.add(e.look_up(name, negate=negate))
            case TcpFlags(among=among, set=wanted):
                self._need_protocol(Protocol.TCP)
                self.add(e.payload_load(c.NFT_PAYLOAD_TRANSPORT_HEADER, *_TCP_FLAGS))
                self.add(e.mask(_flags(among), bytes(1)), e.compare(operator, _flags(wanted)))
            case Sampled(one_in=number):
                self.add(e.by_chance(number), e.compare(c.NFT_CMP_EQ, bytes(4)))
            case Limited(per_second=number, burst=burst):
                self.add(e.limit(number, burst))
            case OneOf():
                raise ModelError(f"Weir never writes {match}")
            case Foreign():
                raise AssertionError("refused before")
            case _:
                assert_never(match)

    def act(self, action: Action) -> None:
        if isinstance(action, ReadAction):
            raise ModelError(f"Weir never writes {action}")
        match action:
            case Accept():
                self.add(e.verdict(c.NF_ACCEPT))
            case Redirect(port=port):
                self.add(e.load(_port(port)), e.redirect_to_port())
            case Dnat(port=port):
                self.add(e.load(_port(port)), e.nat_to_port())
            case Snat(address=address):
                self.add(e.load(address.packed), e.nat_from_address(_FAMILIES[family_of(address)]))
            case SetMark(mark=mark):
                self._change(e.meta_load(c.NFT_META_MARK), mark, e.meta_set(c.NFT_META_MARK))
            case SetConnMark(mark=mark):
                self._change(e.ct_load(c.NFT_CT_MARK), mark, e.ct_set(c.NFT_CT_MARK))
            case CtZone(zone=zone):
                self.add(e.load(host16(zone)), e.ct_set(c.NFT_CT_ZONE, direction=c.IP_CT_DIR_ORIGINAL))
            case Reject(reply=reply):
                self.add(e.reject(*_REPLIES[reply]))
            case Trace():
                self.add(e.load(bytes((1,))), e.meta_set(c.NFT_META_NFTRACE))
            case Foreign():
                raise AssertionError("refused before")
            case _:
                assert_never(action)

    def _need_family(self, family: Family) -> None:
        if self.family is not family:
            self.add(e.meta_load(c.NFT_META_NFPROTO), e.compare(c.NFT_CMP_EQ, bytes((_FAMILIES[family],))))
            self.family = family

    def _need_protocol(self, protocol: Protocol) -> None:
        if self.protocol is not protocol:
            self.add(e.meta_load(c.NFT_META_L4PROTO), e.compare(c.NFT_CMP_EQ, bytes((_PROTOCOLS[protocol],))))
            self.protocol = protocol

    def _network(self, place: tuple[int, int], network: Network, operator: int) -> None:
        self._need_family(family_of(network))
        offset, length = place
        address, bits = network.network_address.packed, network.prefixlen
        if bits and bits % 8 == 0:
            # As nft does: whole bytes are compared without a mask.
            self.add(e.payload_load(c.NFT_PAYLOAD_NETWORK_HEADER, offset, bits // 8))
            self.add(e.compare(operator, address[: bits // 8]))
            return
        self.add(e.payload_load(c.NFT_PAYLOAD_NETWORK_HEADER, offset, length))
        self.add(e.mask(network.netmask.packed, bytes(length)), e.compare(operator, address))

    def _ports(self, protocol: Protocol, place: tuple[int, int], ports: PortRange, operator: int) -> None:
        self._need_protocol(protocol)
        self.add(e.payload_load(c.NFT_PAYLOAD_TRANSPORT_HEADER, *place))
        first, last = _port(ports.first), _port(ports.last)
        if first == last:
            self.add(e.compare(operator, first))
        elif operator == c.NFT_CMP_NEQ:
            self.add(e.outside(first, last))
        else:
            self.add(e.compare(c.NFT_CMP_GTE, first), e.compare(c.NFT_CMP_LTE, last))

    def _mark(self, load: bytes, mark: Mark, operator: int) -> None:
        self.add(load)
        if mark.mask != FULL_MASK:
            self.add(e.mask(host32(mark.mask), bytes(4)))
        self.add(e.compare(operator, host32(mark.value)))

    def _change(self, load: bytes, mark: Mark, store: bytes) -> None:
        if mark.mask == FULL_MASK:
            self.add(e.load(host32(mark.value)), store)
        else:
            self.add(load, e.mask(host32(~mark.mask & FULL_MASK), host32(mark.value)), store)

    def _load_field(self, of: SetField) -> None:
        match of:
            case SetField.SRC_V4 | SetField.SRC_V6:
                version, place = (4, _SOURCE[4]) if of is SetField.SRC_V4 else (6, _SOURCE[6])
            case SetField.TCP_DST_PORT:
                self._need_protocol(Protocol.TCP)
                self.add(e.payload_load(c.NFT_PAYLOAD_TRANSPORT_HEADER, *_DESTINATION_PORT))
                return
            case SetField.DST_V4 | SetField.DST_V4_TCP_DST_PORT:
                version, place = 4, _DESTINATION[4]
            case SetField.DST_V6 | SetField.DST_V6_TCP_DST_PORT:
                version, place = 6, _DESTINATION[6]
            case _:
                assert_never(of)
        self._need_family(Family.IPV4 if version == 4 else Family.IPV6)
        with_port = of in (SetField.DST_V4_TCP_DST_PORT, SetField.DST_V6_TCP_DST_PORT)
        if with_port:
            self._need_protocol(Protocol.TCP)
        self.add(e.payload_load(c.NFT_PAYLOAD_NETWORK_HEADER, *place))
        if with_port:
            self.add(e.payload_load(c.NFT_PAYLOAD_TRANSPORT_HEADER, *_DESTINATION_PORT, _CONCATENATED[version]))


def _port(port: int) -> bytes:
    return port.to_bytes(2, "big")


def _flags(flags: tuple[TcpFlag, ...]) -> bytes:
    return bytes((sum(_FLAG_BITS[flag] for flag in flags),))


def _interface(name: str) -> bytes:
    """Return what is compared: a whole name with its zeros, or only what stands before a trailing ``*``."""
    return name[:-1].encode() if name.endswith("*") else name.encode().ljust(_INTERFACE_NAME, b"\0")
