"""The ends of a packet, out of its first bytes as the kernel tells them."""

from dataclasses import dataclass
from ipaddress import ip_address

from rulesets.vocabulary import Address

_PROTOCOLS = {0: "hop-by-hop", 1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
_WITH_PORTS = (6, 17, 33, 132, 136)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """Who sends a packet to whom. `protocol` is its name, or its number; ports are 0 where there are none."""

    protocol: str
    source: Address
    source_port: int
    destination: Address
    destination_port: int

    def __str__(self) -> str:
        """Return it as ``tcp 10.0.0.1:4711 -> [fd00::2]:80``."""
        ends = ((self.source, self.source_port), (self.destination, self.destination_port))
        return f"{self.protocol} {' -> '.join(shown(*each) for each in ends)}"


def shown(address: Address, port: int) -> str:
    """Return an address with its port, if it has one."""
    if not port:
        return str(address)
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


def ends_of(network: bytes, transport: bytes) -> Ends | None:
    """Return the ends that headers name; None where they are too short, or of another family."""
    version = network[0] >> 4 if network else 0
    if version == 4 and len(network) >= 20:
        protocol, source, destination = network[9], network[12:16], network[16:20]
    elif version == 6 and len(network) >= 40:
        protocol, source, destination = network[6], network[8:24], network[24:40]
    else:
        return None
    ports = (0, 0)
    if protocol in _WITH_PORTS and len(transport) >= 4:
        ports = int.from_bytes(transport[:2], "big"), int.from_bytes(transport[2:4], "big")
    return Ends(
        protocol=_PROTOCOLS.get(protocol, str(protocol)),
        source=ip_address(source),
        source_port=ports[0],
        destination=ip_address(destination),
        destination_port=ports[1],
    )
