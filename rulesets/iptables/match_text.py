"""One match as iptables-save prints it, and the module that it belongs to."""

from typing import assert_never

from rulesets.iptables.line import PROTOCOL_NUMBERS
from rulesets.iptables.matches import ALL_PORTS, STATES, TCP_FLAGS
from rulesets.iptables.words import quoted
from rulesets.vocabulary import (
    AddressType,
    Aside,
    Between,
    Comment,
    ConnDirection,
    ConnMark,
    ConnStates,
    Dst,
    DstPort,
    End,
    Foreign,
    InIface,
    InIpset,
    InSet,
    Limited,
    LocalAddress,
    LocalSocket,
    Match,
    ModelError,
    NoSocket,
    NoTcpFlags,
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
    ReceivingSocket,
    Sampled,
    SocketCgroup,
    SocketOwner,
    SocketUser,
    Src,
    SrcPort,
    TcpFlag,
    TcpFlags,
)

_PROTOCOL_NAMES = {132: "sctp", 33: "dccp", 135: "ipv6-mh"} | {
    number: name for name, number in PROTOCOL_NUMBERS.items() if number not in (132, 33, 135)
}
_PORT_OPTIONS = {End.SOURCE: "--sports", End.DESTINATION: "--dports", End.EITHER: "--ports"}
_SIDE = {End.SOURCE: "src", End.DESTINATION: "dst"}


def implied_protocol(match: Match) -> Protocol | None:
    """Return what ``-p`` must say for a match; None when it doesn't matter."""
    match match:
        case SrcPort(protocol=protocol) | DstPort(protocol=protocol) | Ports(protocol=protocol):
            return protocol
        case TcpFlags() | NoTcpFlags():
            return Protocol.TCP
        case _:
            return None


def module_of(match: Match) -> tuple[str, int]:
    """Return the module that a match needs, and its place there: options in rising order share one ``-m``."""
    match match:
        case SrcPort(protocol=protocol):
            return protocol, 1
        case DstPort(protocol=protocol):
            return protocol, 2
        case TcpFlags() | NoTcpFlags():
            return Protocol.TCP, 3
        case LocalSocket() | NoSocket():
            return "owner", 1
        case SocketUser() | SocketOwner(owner=Owner.USER):
            return "owner", 2
        case SocketOwner():
            return "owner", 3
        case AddressType(end=End.SOURCE):
            return "addrtype", 1
        case AddressType() | LocalAddress():
            return "addrtype", 2
        case ConnStates():
            return "conntrack", 1
        case ConnDirection():
            return "conntrack", 2
        case Between(end=End.SOURCE):
            return "iprange", 1
        case Between():
            return "iprange", 2
        case Ports():
            return "multiport", 0
        case PacketMark():
            return "mark", 0
        case ConnMark():
            return "connmark", 0
        case InIpset():
            return "set", 0
        case Comment():
            return "comment", 0
        case ReceivingSocket():
            return "socket", 0
        case SocketCgroup():
            return "cgroup", 0
        case Sampled() | Limited():
            raise ModelError("Weir samples and traces with nftables alone, not with iptables")
        case OfFamily() | InSet() | OneOf() | Aside():
            raise ModelError("iptables has no match for a family or a set of nftables', and counts once a rule")
        case Src() | Dst() | InIface() | OutIface() | Proto() | OtherProto() | Foreign():
            raise AssertionError("has an option of its own")
        case _:
            assert_never(match)


def option_of(match: Match) -> str:
    """Return the option of one match with its values. Raises `ModelError` for what iptables can't express."""
    no = "! " if getattr(match, "negate", False) else ""
    match match:
        case Src(network=network):
            return f"{no}-s {network}"
        case Dst(network=network):
            return f"{no}-d {network}"
        case InIface(name=name):
            return f"{no}-i {_interface(name)}"
        case OutIface(name=name):
            return f"{no}-o {_interface(name)}"
        case Proto(protocol=protocol):
            return f"{no}-p {protocol}"
        case OtherProto(number=number):
            return f"{no}-p {_PROTOCOL_NAMES.get(number, number)}"
        case SrcPort(ports=ports):
            return f"{no}--sport {_ports(ports)}"
        case DstPort(ports=ports, negate=False) if ports == ALL_PORTS:
            return ""
        case DstPort(ports=ports):
            return f"{no}--dport {_ports(ports)}"
        case Ports(end=end, ranges=ranges):
            return f"{no}{_PORT_OPTIONS[end]} {','.join(map(_ports, ranges))}"
        case TcpFlags(among=among, set=wanted):
            return f"{no}--tcp-flags {_flags(among)} {_flags(wanted)}"
        case NoTcpFlags(among=among):
            return f"{no}--tcp-flags {_flags(among)} NONE"
        case Between(end=end, first=first, last=last):
            return f"{no}--{_SIDE[end]}-range {first}-{last}"
        case PacketMark(mark=mark) | ConnMark(mark=mark):
            return f"{no}--mark {mark}"
        case LocalSocket():
            return "--socket-exists"
        case NoSocket():
            return "! --socket-exists"
        case SocketUser(user=user):
            return f"--uid-owner {user}"
        case SocketOwner(owner=owner, first=low, last=high):
            return f"{no}--{'uid' if owner is Owner.USER else 'gid'}-owner {low if low == high else f'{low}-{high}'}"
        case SocketCgroup(cgroup=str(path)):
            return f"--path {quoted(path)}"
        case SocketCgroup(cgroup=cgroup):
            raise ModelError(f"iptables knows a cgroup by its path, not by its number {cgroup}")
        case LocalAddress():
            return f"{no}--dst-type LOCAL"
        case AddressType(end=end, kinds=kinds):
            return f"{no}--{_SIDE[end]}-type {','.join(kinds).upper()}"
        case ConnStates(states=states):
            return f"{no}--ctstate {','.join(each for each in STATES if each in states).upper()}"
        case ConnDirection(direction=direction):
            return f"--ctdir {direction.upper()}"
        case ReceivingSocket(transparent=transparent, wildcard=wildcard):
            names = (("--transparent", transparent), ("--nowildcard", wildcard))
            return " ".join(name for name, asked in names if asked)
        case InIpset(name=name, ends=ends):
            return f"{no}--match-set {name} {','.join(ends)}"
        case Comment(text=text):
            return f"--comment {quoted(text)}"
        case OfFamily() | InSet() | OneOf() | Aside() | Sampled() | Limited() | Foreign():
            raise AssertionError("refused before")
        case _:
            assert_never(match)


def _interface(name: str) -> str:
    if name.endswith("+") or name[0] in "!-":
        raise ModelError(f"iptables can't write the interface {name!r}")
    return f"{name[:-1]}+" if name.endswith("*") else name


def _ports(ports: PortRange) -> str:
    return str(ports.first) if ports.first == ports.last else f"{ports.first}:{ports.last}"


def _flags(flags: tuple[TcpFlag, ...]) -> str:
    if not set(flags) <= set(TCP_FLAGS):
        raise ModelError("iptables knows the TCP flags FIN, SYN, RST, PSH, ACK and URG only")
    return ",".join(flags).upper()
