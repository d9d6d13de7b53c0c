"""An imaginary packet as it enters the stack of a namespace: what was asked for, and what was left to choose."""

import socket
from dataclasses import replace

from agent.errors import ConfigError
from agent.explain.asked import Asked
from agent.explain.places import FAR, Decision, Place
from agent.explain.words import PORTLESS
from agent.kernel.conntrack import Conntrack, Flow, FlowTuple
from rulesets.capture import Capture
from rulesets.packet import Ends, Packet, Translation
from rulesets.vocabulary import Address, ConnState, Direction, Hook, Protocol, TcpFlag

SOURCE_PORT = 40000
APPLICATION = 1000
"""The user of an application that nobody is told apart by; the next one where the proxy is that user."""

_NUMBERS = {
    Protocol.TCP: socket.IPPROTO_TCP,
    Protocol.UDP: socket.IPPROTO_UDP,
    Protocol.ICMP: socket.IPPROTO_ICMP,
    Protocol.ICMPV6: socket.IPPROTO_ICMPV6,
}
# By whether the packet is a connection's first, and whether it is an answer.
_FLAGS = {
    (True, False): (TcpFlag.SYN,),
    (True, True): (TcpFlag.SYN, TcpFlag.ACK),
    (False, False): (TcpFlag.ACK,),
    (False, True): (TcpFlag.ACK,),
}


class Start:
    """A packet as it enters the stack, with what was left to us to choose, and the words for that."""

    def __init__(self, asked: Asked, place: Place, capture: Capture) -> None:
        """Find what is missing in the namespace of the calling thread. Raises `ConfigError` for no such interface."""
        self.asked, self.place = asked, place
        self.notes: list[str] = []
        self.first: Decision | None = None
        if asked.device and not place.index(asked.device):
            there = ", ".join(each.name for each in place.links.values())
            raise ConfigError(f"--packet: 'dev={asked.device}': there is no such interface", hint=f"there are {there}")
        self.packet = self._arriving() if asked.inwards else self._leaving(capture)
        if asked.state is ConnState.ESTABLISHED:
            self._known()

    def _leaving(self, capture: Capture) -> Packet:
        asked, place = self.asked, self.place
        self.first = place.outwards(asked.destination, source=asked.source, mark=asked.mark)
        source = asked.source or self.first.route.source or place.first_address(self.first.interface, asked.family)
        source = source or (asked.destination if self.first.local else FAR[asked.family])
        user = asked.user
        if user is None:
            user = APPLICATION + (capture.proxy_user == APPLICATION)
            self.notes.append(f"sent by a process of user {user}, who isn't the proxy")
        return replace(
            _packet(asked, Hook.OUTPUT, source),
            out_interface=asked.device or self.first.interface,
            user=user,
            group=user if asked.group is None else asked.group,
            destination_local=self.first.local,
            source_local=True,
        )

    def _arriving(self) -> Packet:
        asked, place = self.asked, self.place
        source = asked.source or FAR[asked.family]
        back = place.outwards(source)
        device = asked.device or ("" if back.local or back.route.error else back.interface)
        if not device:
            device = next((each.name for each in place.links.values() if each.name != "lo"), "lo")
        if not asked.device:
            self.notes.append(f"comes in by {device}")
        return replace(
            _packet(asked, Hook.PREROUTING, source),
            in_interface=device,
            destination_local=place.is_own(asked.destination),
            interface_address=place.first_address(device, asked.family),
            source_local=place.is_own(source),
        )

    def _known(self) -> None:
        """Give the packet what connection tracking knows of its connection."""
        if self.asked.source is None or (self.asked.protocol not in PORTLESS and not self.asked.source_port):
            self.notes.append("its connection isn't looked up, for its source isn't given whole")
            return
        sent = FlowTuple(
            source=self.packet.source,
            destination=self.packet.destination,
            protocol=_NUMBERS[self.packet.protocol],
            source_port=self.packet.source_port,
            destination_port=self.packet.destination_port,
        )
        with Conntrack() as conntrack:
            flow = conntrack.find(sent)
        if flow is None:
            self.notes.append("no such connection is tracked: taken for one that nothing translates")
            return
        first = flow.original == sent
        self.packet = replace(
            self.packet,
            connection_mark=flow.mark,
            direction=Direction.ORIGINAL if first else Direction.REPLY,
            translation=_translation(flow, self.place),
        )
        self.notes.append(f"its connection is tracked, with the mark {flow.mark:#x}{'' if first else ': an answer'}")


def _packet(asked: Asked, hook: Hook, source: Address) -> Packet:
    portless = asked.protocol in PORTLESS
    return Packet(
        hook=hook,
        source=source,
        source_port=0 if portless else asked.source_port or SOURCE_PORT,
        destination=asked.destination,
        destination_port=asked.destination_port,
        protocol=asked.protocol,
        state=asked.state,
        direction=Direction.REPLY if asked.reply else Direction.ORIGINAL,
        mark=asked.mark,
        connection_mark=asked.connection_mark,
        tcp_flags=_FLAGS[asked.state is ConnState.NEW, asked.reply] if asked.protocol is Protocol.TCP else (),
    )


def _translation(flow: Flow, place: Place) -> Translation | None:
    sent, back = flow.original, flow.reply
    destination = (back.source, back.source_port)
    source = (back.destination, back.destination_port)
    if (destination, source) == ((sent.destination, sent.destination_port), (sent.source, sent.source_port)):
        return None
    local = place.is_own(back.source)
    own = place.is_own(sent.source)
    return Translation(
        sent=Ends(
            source=sent.source,
            source_port=sent.source_port,
            destination=sent.destination,
            destination_port=sent.destination_port,
        ),
        own=own,
        destination=None if destination == (sent.destination, sent.destination_port) else destination,
        source=None if source == (sent.source, sent.source_port) else source,
        local=local,
        out_interface="lo" if local and own else "",
    )
