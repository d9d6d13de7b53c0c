"""Single statements of an nft JSON listing as matches and actions.

The marks need care: nft prints one masked write as ``|`` over ``&``, as either alone, or with other constants that come
to the same, and a masked test as a prefix where the mask's bits are the highest. Both are read by what they compute.
"""

from ipaddress import ip_address, ip_network

from rulesets.nft.read_json import CONNECTION_MARK, PACKET_MARK
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
    InIface,
    InSet,
    Limited,
    LocalAddress,
    LocalSocket,
    Mark,
    Match,
    Network,
    OfFamily,
    OutIface,
    PacketMark,
    PortRange,
    Proto,
    Protocol,
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
)


class Unknown(Exception):
    """A statement that Weir never writes."""


# What a reader raises for a statement of the right kind and a wrong shape.
MISSHAPEN = (Unknown, KeyError, ValueError, TypeError, AttributeError, RecursionError)


def match_of(expression: dict[str, object]) -> Match:
    """Return the match of one expression; raises `Unknown` (or what a wrong shape raises) for any other."""
    match expression:
        case {"match": {"op": ">=", "left": {"meta": {"key": "skuid"}}, "right": 0}}:
            return LocalSocket()
        case {"limit": {"rate": int(rate), "burst": int(burst), "per": "second", **rest}} if not rest:
            return Limited(per_second=rate, burst=burst)
        case {"match": {"op": "==" | "!=" as operator, "left": dict(left), "right": right, **rest}} if not rest:
            return _compared(left, right, negate=operator == "!=")
        case _:
            raise Unknown(expression)


def _compared(left: dict[str, object], right: object, *, negate: bool) -> Match:
    match left, right:
        case {"meta": {"key": "nfproto", **more}}, str() if not negate and not more:
            return OfFamily(family=Family(right))
        case {"meta": {"key": "l4proto"}}, str():
            return Proto(protocol=Protocol(right), negate=negate)
        case {"meta": {"key": "iifname"}}, str():
            return InIface(name=right, negate=negate)
        case {"meta": {"key": "oifname"}}, str():
            return OutIface(name=right, negate=negate)
        case {"meta": {"key": "skuid"}}, int() if not negate:
            return SocketUser(user=right)
        case {"socket": {"key": "cgroupv2", "level": int(level)}}, int() | str() if not negate:
            # Only where whoever lists puts level and number in: nft leaves the one out and makes a path of the other,
            # of any file under /sys/fs/cgroup that has the number (1.0.6).
            return SocketCgroup(level=level, cgroup=right)
        case {"numgen": {"mode": "random", "mod": int(number), "offset": 0}}, 0 if not negate:
            return Sampled(one_in=number)
        case {"fib": {"result": "type", "flags": ["daddr"] | "daddr"}}, "local":
            return LocalAddress(negate=negate)
        case (({"payload": dict()} | {"concat": list()}), str()) if right.startswith("@"):
            return InSet(field=_field(left), name=right[1:], negate=negate)
        case {"payload": {"protocol": "ip" | "ip6" as ip, "field": "saddr" | "daddr" as side}}, _:
            network = _network(ip, right)
            return Src(network=network, negate=negate) if side == "saddr" else Dst(network=network, negate=negate)
        case {"payload": {"protocol": "tcp" | "udp" as l4, "field": "sport" | "dport" as side}}, _:
            kind = SrcPort if side == "sport" else DstPort
            return kind(protocol=Protocol(l4), ports=_ports(right), negate=negate)
        case {"payload": {"protocol": "tcp", "field": "flags"}}, _:
            # Without a mask nft compares the whole byte, and it leaves out a mask of every flag.
            return TcpFlags(among=tuple(TcpFlag), set=_flags(right), negate=negate)
        case {"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, among]}, _:
            return TcpFlags(among=_flags(among), set=_flags(right), negate=negate)
        case _:
            return _compared_mark(left, right, negate=negate)


def _compared_mark(left: dict[str, object], right: object, *, negate: bool) -> Match:
    match left, right:
        case {"&": [dict(key), int(mask)]}, int(value):
            mark = Mark(value, mask)
        case key, int(value):
            mark = Mark(value)
        case key, {"prefix": {"addr": int(value), "len": int(length)}} if 0 < length <= 32:
            mark = Mark(value, FULL_MASK << (32 - length) & FULL_MASK)
        case _:
            raise Unknown(left)
    if key == PACKET_MARK:
        return PacketMark(mark=mark, negate=negate)
    if key == CONNECTION_MARK:
        return ConnMark(mark=mark, negate=negate)
    raise Unknown(left)


def _field(left: dict[str, object]) -> SetField:
    parts = left.get("concat", [left])
    assert isinstance(parts, list)  # noqa: S101 (for the type checker: the caller's pattern says so)
    return SetField(" . ".join(f"{part['payload']['protocol']} {part['payload']['field']}" for part in parts))


def _network(ip: str, shown: object) -> Network:
    match shown:
        case {"prefix": {"addr": str(address), "len": int(length)}}:
            network = ip_network(f"{address}/{length}")
        case str():
            network = ip_network(shown)
        case _:
            raise Unknown(shown)
    if network.version != (4 if ip == "ip" else 6):
        raise Unknown(shown)
    return network


def _ports(shown: object) -> PortRange:
    match shown:
        case int():
            return PortRange(shown, shown)
        case {"range": [int(first), int(last)]}:
            return PortRange(first, last)
        case _:
            raise Unknown(shown)


def _flags(shown: object) -> tuple[TcpFlag, ...]:
    if isinstance(shown, int) and 0 < shown < 1 << len(TcpFlag):
        # nft 1.0.6 prints several flags as one number where there is no mask.
        return tuple(flag for bit, flag in enumerate(TcpFlag) if shown >> bit & 1)
    names = {TcpFlag(str(name)) for name in (shown if isinstance(shown, list) else [shown])}
    return tuple(flag for flag in TcpFlag if flag in names)


def action_of(expression: dict[str, object]) -> Action:
    """Return the action of one expression; raises `Unknown` (or what a wrong shape raises) for any other."""
    match expression:
        case {"accept": None}:
            return Accept()
        case {"redirect": {"port": int(port), **rest}} if not rest:
            return Redirect(port=port)
        case {"dnat": {"port": int(port), **rest}} if not rest:
            return Dnat(port=port)
        case {"snat": {"family": "ip" | "ip6", "addr": str(address), **rest}} if not rest:
            return Snat(address=ip_address(address))
        case {"reject": {"type": "tcp reset"}}:
            return Reject(reply=RejectWith.TCP_RESET)
        case {"reject": {"type": "icmpx", "expr": "port-unreachable"}}:
            return Reject(reply=RejectWith.PORT_UNREACHABLE)
        case {"mangle": {"key": {"ct": {"key": "zone", "dir": "original"}}, "value": int(zone)}}:
            return CtZone(zone=zone)
        case {"mangle": {"key": {"meta": {"key": "nftrace"}}, "value": 1}}:
            return Trace()
        case {"mangle": {"key": dict(key), "value": value}} if key == PACKET_MARK:
            return SetMark(mark=_written_mark(key, value))
        case {"mangle": {"key": dict(key), "value": value}} if key == CONNECTION_MARK:
            return SetConnMark(mark=_written_mark(key, value))
        case _:
            raise Unknown(expression)


def _written_mark(key: dict[str, object], value: object) -> Mark:
    """Return the mark that an expression over the old mark writes.

    Every nest of ``&``, ``|`` and ``^`` with constants is ``(old & kept) ^ flipped`` (nft_bitwise, net/netfilter). It
    writes a masked value where it flips no bit that it keeps.
    """
    kept, flipped = bitwise(key, value)
    if kept & flipped or kept == FULL_MASK:
        raise Unknown(value)
    return Mark(flipped, ~kept & FULL_MASK)


def bitwise(key: dict[str, object], value: object) -> tuple[int, int]:
    """Return what an expression over the old mark keeps of it, and what it then turns over."""
    match value:
        case int():
            return 0, value
        case {"&": [inner, int(operand)]}:
            kept, flipped = bitwise(key, inner)
            return kept & operand, flipped & operand
        case {"|": [inner, int(operand)]}:
            kept, flipped = bitwise(key, inner)
            return kept & ~operand, flipped & ~operand | operand
        case {"^": [inner, int(operand)]}:
            kept, flipped = bitwise(key, inner)
            return kept, flipped ^ operand
        case _ if value == key:
            return FULL_MASK, 0
        case _:
            raise Unknown(value)
