"""An example packet: one value for every variable, and the packets that come of it on both sides, in words."""

from dataclasses import dataclass
from typing import Any

from rulesets.equivalence.answers import cheapest
from rulesets.equivalence.examples import packet_of, valued
from rulesets.equivalence.nodes import Node
from rulesets.equivalence.space import Kind, Role, Space, Way
from rulesets.equivalence.story import Moment, Scene
from rulesets.packet import Packet
from rulesets.vocabulary import ConnState, Family, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """A packet that two rulesets treat differently, and what went before on its connection.

    `passages` has each packet as it entered the stack, the connection's first one at the beginning: under the first
    side's rules, and under the second's. It is the last one of them that shows the difference.
    """

    kind: Kind
    moment: Moment
    passages: tuple[tuple[Packet, Packet], ...]
    oddity: tuple[int, ...]

    @property
    def first(self) -> Packet:
        """The connection's first packet."""
        return self.passages[0][0]

    @property
    def packet(self) -> Packet:
        """The packet that shows the difference, as it enters the first side's stack."""
        return self.passages[-1][0]

    def __str__(self) -> str:
        began = words(self.first, self.kind.way)
        if self.moment is Moment.FIRST:
            return f"{began}, back in by lo" if len(self.passages) > 1 else began
        return f"{self.moment} {words(self.packet, None)}, on {began}"


def words(packet: Packet, way: Way | None) -> str:
    """Describe a packet: its ends, protocol, state and way, and all else that is out of the ordinary."""
    ports = packet.protocol in (Protocol.TCP, Protocol.UDP)
    ends = [
        (f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}") if ports else str(address)
        for address, port in (
            (packet.source, packet.source_port),
            (packet.destination, packet.destination_port),
        )
    ]
    flags = " ".join(packet.tcp_flags)
    plain = "syn" if packet.state is ConnState.NEW else "ack"
    said = [
        f"{ends[0]} to {ends[1]} {packet.protocol}",
        packet.state,
        way,
        flags if packet.protocol is Protocol.TCP and flags != plain else "",
        f"in by {packet.in_interface}" if packet.in_interface not in ("", "eth0") else "",
        f"out by {packet.out_interface}" if packet.out_interface not in ("", "eth0") and way is not Way.TO_SELF else "",
        f"mark {packet.mark:#x}" if packet.mark else "",
        f"connection mark {packet.connection_mark:#x}" if packet.connection_mark else "",
        f"user {packet.user}" if packet.user not in (None, 1000) else "",
        f"group {packet.group}" if packet.group not in (None, 1000) else "",
        "of no socket" if packet.user is None and way in (Way.OUT, Way.TO_SELF) else "",
        f"cgroup {packet.cgroups[-1]}" if packet.cgroups else "",
        _of_interface(packet, way),
    ]
    return ", ".join(str(each) for each in said if each)


def _of_interface(packet: Packet, way: Way | None) -> str:
    if way not in (Way.IN, Way.THROUGH) or packet.interface_address == packet.destination:
        return ""
    if packet.interface_address is None:
        return "by an interface without an address"
    return f"by an interface whose first address is {packet.interface_address}"


def find(space: Space, scene: Scene, where: Node) -> Witness:
    """Return the plainest witness of a scene, where it shall be."""
    costs = [each.costs for each in space.variables]
    scenes, chosen = [scene], [cheapest(where, costs)]
    while (before := scenes[-1].before) is not None:
        last, (earlier, there) = scenes[-1], before
        back = {to: of for of, to in last.renamed.items()}
        for variable, atom in chosen[-1].items():
            if last.same_packet or space.variables[variable].role is not Role.LATER:
                there = space.diagrams.both(there, space.diagrams.among(back.get(variable, variable), 1 << atom))
        scenes.append(earlier)
        chosen.append(cheapest(there, costs))
    oddity = sum(costs[variable][atom] for atoms in chosen for variable, atom in atoms.items())
    scenes, chosen = scenes[::-1], chosen[::-1]
    passages = []
    values: dict[int, Any] = {}
    first_atoms = {
        variable: atom
        for atoms in chosen
        for variable, atom in atoms.items()
        if space.variables[variable].role is Role.FIRST
    }
    for number, (each, atoms) in enumerate(zip(scenes, chosen, strict=True)):
        if number and not each.same_packet:
            left = {to: values[of] for of, to in each.renamed.items()}
            values = {at: value for at, value in values.items() if space.variables[at].role is not Role.LATER} | left
        values = valued(space, first_atoms | atoms, values, number)
        passages.append((packet_of(space, each.headers[0], values), packet_of(space, each.headers[1], values)))
    return Witness(
        kind=space.kind,
        moment=scene.moment,
        passages=tuple(passages),
        oddity=(len(scenes), oddity, *_rarity(space.kind)),
    )


def _rarity(kind: Kind) -> tuple[int, ...]:
    return (
        kind.state is not ConnState.NEW,
        list(Protocol).index(kind.protocol),
        kind.family is not Family.IPV4,
        list(Way).index(kind.way),
    )
