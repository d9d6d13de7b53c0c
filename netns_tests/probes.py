"""Packets to send at the crossroads, drawn so that every kind of rule is met by some and missed by others."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address

from netns_tests.crossroads import LINKS, NEIGHBOURS, link_of, neighbour_address, pod_address, second_address
from rulesets.capture import PROBE_SOURCES, Capture
from rulesets.packet import Packet
from rulesets.routing import PolicyRule, Routing
from rulesets.vocabulary import Address, Hook, Protocol, TcpFlag

__all__ = ["PORTS", "PROXY_PORTS", "RAW_PORTS", "Probe", "draw", "returns"]

PROXY_PORTS = (15001, 15006, 15008, 15053, 25001, 25006, 25008, 25053)
PORTS = (22, 53, 80, 443, 8000, 8050, 8080, 8100, 8101, 8443, 9090, *PROXY_PORTS)
_FIRST_PORT = 20000  # each probe is told from the others by its source port
RAW_PORTS = range(40000, 60000)  # those of probes that are no beginning of a connection
USERS = (0, 0, 1000, 1337)
_FAR = {
    4: ("10.99.0.2", "10.99.1.2", "10.99.2.2", "10.1.0.9", "198.51.100.7", "198.51.100.8", "203.0.113.5", "192.0.2.1"),
    6: ("fd99::2", "fd99:1::2", "fd99:2::2", "fd01::9", "2001:db8::1", "2001:db8::5", "fd00:1::9"),
}
_BY_OTHER_LINKS = {4: ("10.98.0.9", "10.97.0.9"), 6: ("fd98::9", "fd97::9")}
_PROBED = {4: ("10.0.1.2", "10.0.2.2"), 6: ("fd00:1::2",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A packet as it enters the pod's stack, and who sends it."""

    sender: str
    packet: Packet

    @property
    def begins(self) -> bool:
        """Whether it is a datagram, or begins a connection, so that somebody can get it."""
        return self.packet.protocol is Protocol.UDP or self.packet.tcp_flags == (TcpFlag.SYN,)

    def __str__(self) -> str:
        one = self.packet
        marked = f" mark {one.mark:#x}" * bool(one.mark) + f" user {one.user}" * bool(one.user)
        flags = "" if one.tcp_flags == (TcpFlag.SYN,) else " no SYN"
        way = f"{one.source} {one.source_port} to {one.destination} {one.destination_port}"
        return f"{self.sender}: {one.protocol} {way}{marked}{flags}"


def returns(packet: Packet, wanted: Routing) -> bool:
    """Tell whether a policy rule delivers the packet to the pod itself, wherever it is going."""
    rules = (rule for rule in wanted.rules if isinstance(rule, PolicyRule))
    return any(rule.family is packet.family and rule.mark.matches(packet.mark) for rule in rules)


def draw(seed: str, count: int, capture: Capture | None, wanted: Routing, *, raw: bool = True) -> list[Probe]:
    """Draw probes; the same seed gives the same. `raw=False` leaves out those that begin no connection."""
    chance = random.Random(seed)
    found: dict[Packet, Probe] = {}
    while len(found) < count:
        kind = chance.choices((_out, _in, _through, _dial), weights=(10, 6, 3, 2))[0]
        probe = kind(chance, capture or Capture())
        one = probe.packet
        if one.protocol is Protocol.TCP and raw and chance.random() < 0.1:
            one = replace(one, tcp_flags=(TcpFlag.ACK,))
        if one.hook is Hook.OUTPUT and returns(one, wanted):
            one = replace(one, out_interface="lo")
        if _is_answered(one, capture, wanted):
            found.setdefault(one, replace(probe, packet=one))
    return list(_numbered(found.values()))


def _numbered(probes: Iterable[Probe]) -> Iterator[Probe]:
    begins, goes_on = _FIRST_PORT, RAW_PORTS.start
    for probe in probes:
        raw = probe.packet.protocol is Protocol.TCP and probe.packet.tcp_flags != (TcpFlag.SYN,)
        begins, goes_on = begins + (not raw), goes_on + raw
        yield replace(probe, packet=replace(probe.packet, source_port=goes_on if raw else begins))


def _is_answered(one: Packet, capture: Capture | None, wanted: Routing) -> bool:
    """Tell whether an answer can be sent, and finds its way back. Datagrams need none."""
    if capture is None and {one.source, one.destination} & set(PROBE_SOURCES):
        return False  # at the node, what goes to the probes' source comes back to it
    if one.hook is not Hook.OUTPUT or one.protocol is Protocol.UDP:
        return True
    dialled = one.destination_local and one.source != one.destination
    if dialled:
        return any(rule.family is one.family for rule in wanted.rules)
    # A packet with the connection mark is delivered here, whatever its destination, and TCP then refuses to answer from
    # an address that isn't the namespace's (net/ipv4/route.c, ip_route_output_key_hash_rcu).
    return one.destination_local or not returns(one, wanted)


def _version(chance: random.Random) -> int:
    return chance.choice((4, 6))


def _protocol(chance: random.Random) -> Protocol:
    return Protocol.TCP if chance.random() < 0.75 else Protocol.UDP


def _port(chance: random.Random) -> int:
    return chance.choice((53, 53, 53, 53, 80, 80, 8080, *PORTS))


def _marks(capture: Capture) -> tuple[int, ...]:
    proxy, connection = capture.proxy_mark, capture.connection_mark
    # Also with bits that are no business of ours, and with one bit that makes it another mark.
    others = (proxy.value ^ _lowest(proxy.mask), 0x539, 0x111, ~proxy.mask & 0xF000F000)
    return (0, 0, 0, proxy.value, proxy.value, proxy.put_on(0x12345678), connection.value, *others)


def _lowest(mask: int) -> int:
    return mask & -mask


def _out(chance: random.Random, capture: Capture) -> Probe:
    """Draw a packet of a local process."""
    version = _version(chance)
    own = ["127.0.0.1" if version == 4 else "::1", second_address(version), *(pod_address(x, version) for x in LINKS)]
    own += ["127.0.0.2"] * (version == 4)
    near = [neighbour_address(link, version) for link in LINKS]
    sources = [each for each in (*PROBE_SOURCES, *capture.probe_sources) if each.version == version]
    far = [*_FAR[version], *_FAR[version], *_BY_OTHER_LINKS[version], *_PROBED[version] * 2, *sources]
    destination = ip_address(str(chance.choice(chance.choice((own, near, far, far)))))
    packet = _packet(chance, destination, _protocol(chance), chance.choice(_marks(capture)), chance.choice(USERS))
    return Probe(sender="pod", packet=packet)


def _packet(chance: random.Random, destination: Address, protocol: Protocol, mark: int, user: int) -> Packet:
    link = link_of(destination)
    source = destination if link == "lo" else pod_address(link, destination.version)
    return Packet(
        hook=Hook.OUTPUT,
        source=source,
        destination=destination,
        protocol=protocol,
        destination_port=_port(chance),
        out_interface=link,
        mark=mark,
        user=user,
        destination_local=link == "lo",
    )


def _in(chance: random.Random, capture: Capture) -> Probe:
    """Draw a packet that arrives and is for the pod. Marks don't travel from one namespace to another."""
    version, protocol = _version(chance), _protocol(chance)
    link = chance.choice(("eth0", "eth0", *LINKS))
    here = [pod_address(link, version)]
    if link == "eth0":
        # Addresses of other links are routed by eth0 too, where the link's own isn't net's.
        here += [second_address(version), pod_address("guest0", version), pod_address("br-0", version)]
    if NEIGHBOURS[link] == "net":
        sources = [each for each in (*PROBE_SOURCES, *capture.probe_sources) if each.version == version]
        source = ip_address(str(chance.choice([*_FAR[version], *sources, neighbour_address(link, version)])))
    else:
        source = neighbour_address(link, version)
    packet = Packet(
        hook=Hook.PREROUTING,
        source=source,
        destination=chance.choice(here),
        protocol=protocol,
        destination_port=_port(chance),
        in_interface=link,
        interface_address=pod_address(link, version),
    )
    return Probe(sender=NEIGHBOURS[link], packet=packet)


def _through(chance: random.Random, capture: Capture) -> Probe:
    """Draw a packet that the pod forwards: from the guest to the net, or the other way."""
    version, protocol = _version(chance), _protocol(chance)
    if chance.random() < 0.6:
        sender, link = "guest", chance.choice(("guest0", "br-0"))
        beyond = "10.55.0.9" if version == 4 else "fd55::9"
        destination = ip_address(chance.choice(_FAR[version]) if link == "guest0" else beyond)
    else:
        sender, link = "net", "eth0"
        destination = neighbour_address(chance.choice(("guest0", "br-0")), version)
    source = neighbour_address(link, version)
    packet = Packet(
        hook=Hook.PREROUTING,
        source=source,
        destination=destination,
        protocol=protocol,
        destination_port=_port(chance),
        in_interface=link,
        out_interface=link_of(destination),
        interface_address=pod_address(link, version),
        destination_local=False,
    )
    return Probe(sender=sender, packet=packet)


def _dial(chance: random.Random, capture: Capture) -> Probe:
    """Draw what the proxy sends to the application in a client's name."""
    version = _version(chance)
    packet = _packet(chance, pod_address("eth0", version), Protocol.TCP, capture.proxy_mark.value, 1337)
    source = ip_address(chance.choice(_FAR[version]))
    return Probe(sender="pod", packet=replace(packet, source=source))
