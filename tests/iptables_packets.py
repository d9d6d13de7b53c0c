"""Generated packets of what a ruleset mentions, so that they find its rules."""

from ipaddress import ip_address

from hypothesis import strategies as st

from rulesets.model import (
    AddressPort,
    AddressRange,
    Ruleset,
)
from rulesets.packet import ConnState, Direction, Packet, Receiver
from rulesets.vocabulary import (
    Address,
    Between,
    ConnMark,
    Dst,
    DstPort,
    Family,
    Hook,
    InIface,
    OutIface,
    PacketMark,
    PortRange,
    Ports,
    Protocol,
    SocketOwner,
    SocketUser,
    Src,
    SrcPort,
    TcpFlag,
    family_of,
)

_booleans = st.booleans()


def _mentioned(ruleset: Ruleset) -> tuple[list[Address], list[int], list[int], list[int], list[str]]:
    """Return the addresses, ports, marks, users and interfaces that rules and sets name, ends of ranges included."""
    addresses: list[Address] = [ip_address("10.0.0.1"), ip_address("fd00::1")]
    ports, marks, users, names = [0, 53], [0], [0], ["", "lo", "eth0"]
    for match in (each for rule in ruleset.rules() for each in rule.matches):
        match match:
            case Src(network=network) | Dst(network=network):
                addresses += [network.network_address, network.broadcast_address]
            case Between(first=first, last=last):
                addresses += [first, last]
            case SrcPort(ports=each) | DstPort(ports=each):
                ports += [each.first, each.last]
            case Ports(ranges=ranges):
                ports += [port for each in ranges for port in (each.first, each.last)]
            case PacketMark(mark=mark) | ConnMark(mark=mark):
                marks += [mark.value, mark.value | (~mark.mask & 0xFFFFFFFF)]
            case SocketUser(user=user):
                users.append(user)
            case SocketOwner(first=low, last=high):
                users += [low, high]
            case InIface(name=name) | OutIface(name=name):
                names.append(name.rstrip("*"))
            case _:
                pass
    for value in (element.value for each in ruleset.sets for element in each.elements):
        match value:
            case PortRange(first=low, last=high):
                ports += [low, high]
            case AddressPort(address=address, port=port):
                addresses.append(address)
                ports.append(port)
            case AddressRange(first=first, last=last):
                addresses += [first, last]
            case network:
                addresses += [network.network_address, network.broadcast_address]
    return addresses, ports, marks, users, names


def packets(ruleset: Ruleset, family: Family) -> st.SearchStrategy[Packet]:
    """Draw packets of what the rules mention."""
    addresses, ports, marks, users, names = _mentioned(ruleset)
    address = st.sampled_from([each for each in addresses if family_of(each) is family])
    port, mark, name = st.sampled_from(ports), st.sampled_from(marks), st.sampled_from(names)
    user = st.one_of(st.none(), st.sampled_from(users))
    flags = st.lists(st.sampled_from(TcpFlag), unique=True).map(lambda some: tuple(f for f in TcpFlag if f in some))
    return st.builds(
        Packet,
        hook=st.sampled_from([Hook.PREROUTING, Hook.OUTPUT]),
        source=address,
        destination=address,
        protocol=st.sampled_from(Protocol),
        source_port=port,
        destination_port=port,
        in_interface=name,
        out_interface=name,
        mark=mark,
        connection_mark=mark,
        tcp_flags=st.one_of(st.just((TcpFlag.SYN,)), flags),
        user=user,
        group=user,
        destination_local=_booleans,
        source_local=_booleans,
        state=st.one_of(st.just(ConnState.NEW), st.sampled_from(ConnState)),
        direction=st.sampled_from(Direction),
        interface_address=st.one_of(st.none(), address),
        receiver=st.sampled_from(Receiver),
    )
