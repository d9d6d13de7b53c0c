"""What stands behind ``-m NAME``, as matches. `Unknown` where a part of it has no variant."""

from collections.abc import Callable

from rulesets.iptables.options import Option, Unknown, address, mark, number, port_range
from rulesets.vocabulary import (
    CGROUP,
    AddressKind,
    AddressType,
    Between,
    Comment,
    ConnDirection,
    ConnMark,
    ConnState,
    ConnStates,
    Direction,
    DstPort,
    End,
    Family,
    InIpset,
    LocalAddress,
    LocalSocket,
    Match,
    ModelError,
    NoSocket,
    NoTcpFlags,
    Owner,
    PacketMark,
    PortRange,
    Ports,
    Protocol,
    ReceivingSocket,
    SocketCgroup,
    SocketOwner,
    SocketUser,
    SrcPort,
    TcpFlag,
    TcpFlags,
)

TCP_FLAGS = (TcpFlag.FIN, TcpFlag.SYN, TcpFlag.RST, TcpFlag.PSH, TcpFlag.ACK, TcpFlag.URG)
SYN_AMONG = (TcpFlag.FIN, TcpFlag.SYN, TcpFlag.RST, TcpFlag.ACK)
ALL_PORTS = PortRange(0, 65535)
_HIGHEST_ID = 2**32 - 2


def matches_of(name: str, options: list[Option], protocol: Protocol | None, family: Family) -> list[Match]:
    """Return the matches of one module's options, in order. `protocol` is what ``-p`` says, None for none or others.

    Raises `Unknown`, and `OtherFamily` for an address of the wrong one.
    """
    if name in ("tcp", "udp"):
        if protocol is None or protocol.value != name:
            raise Unknown
        # Without options the module holds for every port. iptables prints it so for the whole range, too.
        return [_transport(each, protocol) for each in options] or [DstPort(protocol=protocol, ports=ALL_PORTS)]
    if name == "multiport":
        if protocol not in (Protocol.TCP, Protocol.UDP):
            raise Unknown
        return [_ports(each, protocol) for each in options]
    if name == "iprange":
        return [_between(each, family) for each in options]
    if name == "socket":
        return [_receiving(options)]
    reader = _READERS.get(name)
    if reader is None or not options:
        raise Unknown
    return [reader(each) for each in options]


def _transport(option: Option, protocol: Protocol) -> Match:
    match option.name:
        case "--sport" | "--source-port":
            return SrcPort(protocol=protocol, ports=port_range(option.value()), negate=option.negate)
        case "--dport" | "--destination-port":
            return DstPort(protocol=protocol, ports=port_range(option.value()), negate=option.negate)
        case "--syn" if protocol is Protocol.TCP and not option.values:
            return TcpFlags(among=SYN_AMONG, set=(TcpFlag.SYN,), negate=option.negate)
        case "--tcp-flags" if protocol is Protocol.TCP and len(option.values) == 2:
            among, wanted = map(_flags, option.values)
            if not among or not set(wanted) <= set(among):
                raise Unknown
            if not wanted:
                return NoTcpFlags(among=among, negate=option.negate)
            return TcpFlags(among=among, set=wanted, negate=option.negate)
        case _:
            raise Unknown


def _flags(text: str) -> tuple[TcpFlag, ...]:
    if text in ("NONE", "ALL"):
        return () if text == "NONE" else TCP_FLAGS
    try:
        named = {TcpFlag(name.lower()) for name in text.split(",")}
    except ValueError:
        raise Unknown from None
    return tuple(flag for flag in TcpFlag if flag in named)


def _ports(option: Option, protocol: Protocol) -> Match:
    ends = {"s": End.SOURCE, "d": End.DESTINATION, "": End.EITHER}
    names = {"--source-ports": "--sports", "--destination-ports": "--dports"}
    name = names.get(option.name, option.name)
    if name not in ("--sports", "--dports", "--ports"):
        raise Unknown
    ranges = tuple(port_range(each) for each in option.value().split(","))
    end = ends[name.removeprefix("--").removesuffix("ports")]
    return Ports(protocol=protocol, end=end, ranges=ranges, negate=option.negate)


def _between(option: Option, family: Family) -> Match:
    ends = {"--src-range": End.SOURCE, "--dst-range": End.DESTINATION}
    first, dash, last = option.value().partition("-")
    if option.name not in ends:
        raise Unknown
    low = address(first, family)
    high = address(last, family) if dash else low
    try:
        return Between(end=ends[option.name], first=low, last=high, negate=option.negate)
    except ModelError:
        raise Unknown from None


def _receiving(options: list[Option]) -> Match:
    for each in options:
        each.plain()
    names = {each.name for each in options}
    if names - {"--transparent", "--nowildcard"}:
        raise Unknown
    return ReceivingSocket(transparent="--transparent" in names, wildcard="--nowildcard" in names)


def _owner(option: Option) -> Match:
    if option.name == "--socket-exists" and not option.values:
        return NoSocket() if option.negate else LocalSocket()
    owners = {"--uid-owner": Owner.USER, "--gid-owner": Owner.GROUP}
    if option.name not in owners:
        raise Unknown
    first, dash, last = option.value().partition("-")
    low = number(first, _HIGHEST_ID)
    high = number(last, _HIGHEST_ID) if dash else low
    owner = owners[option.name]
    if owner is Owner.USER and low == high and not option.negate:
        return SocketUser(user=low)
    if low > high:
        raise Unknown
    return SocketOwner(owner=owner, first=low, last=high, negate=option.negate)


def _packet_mark(option: Option) -> Match:
    if option.name != "--mark":
        raise Unknown
    return PacketMark(mark=mark(option.value()), negate=option.negate)


def _connection_mark(option: Option) -> Match:
    if option.name != "--mark":
        raise Unknown
    return ConnMark(mark=mark(option.value()), negate=option.negate)


def _conntrack(option: Option) -> Match:
    match option.name:
        case "--ctstate" | "--state":
            try:
                named = {ConnState(name.lower()) for name in option.value().split(",")}
            except ValueError:
                raise Unknown from None
            return ConnStates(states=tuple(each for each in STATES if each in named), negate=option.negate)
        case "--ctdir" if not option.negate:
            try:
                return ConnDirection(direction=Direction(option.value().lower()))
            except ValueError:
                raise Unknown from None
        case _:
            raise Unknown


STATES = (ConnState.INVALID, ConnState.NEW, ConnState.RELATED, ConnState.ESTABLISHED, ConnState.UNTRACKED)


def _addrtype(option: Option) -> Match:
    ends = {"--src-type": End.SOURCE, "--dst-type": End.DESTINATION}
    if option.name not in ends:
        raise Unknown
    try:
        named = {AddressKind(name.lower()) for name in option.value().split(",")}
    except ValueError:
        raise Unknown from None
    kinds = tuple(each for each in AddressKind if each in named)
    if option.name == "--dst-type" and kinds == (AddressKind.LOCAL,):
        return LocalAddress(negate=option.negate)
    return AddressType(end=ends[option.name], kinds=kinds, negate=option.negate)


def _set(option: Option) -> Match:
    if option.name != "--match-set" or len(option.values) != 2:
        raise Unknown
    name, ends = option.values
    return InIpset(name=name, ends=tuple(ends.split(",")), negate=option.negate)


def _comment(option: Option) -> Match:
    if option.name != "--comment" or option.negate:
        raise Unknown
    return Comment(text=option.value())


def _cgroup(option: Option) -> Match:
    if option.name != "--path" or option.negate or not CGROUP.fullmatch(option.value()):
        raise Unknown
    path = option.value()
    return SocketCgroup(level=path.count("/") + 1, cgroup=path)


_READERS: dict[str, Callable[[Option], Match]] = {
    "owner": _owner,
    "mark": _packet_mark,
    "connmark": _connection_mark,
    "conntrack": _conntrack,
    "state": _conntrack,
    "addrtype": _addrtype,
    "set": _set,
    "comment": _comment,
    "cgroup": _cgroup,
}
