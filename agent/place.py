"""The sockets of a namespace, and what decides beside them how their streams fare.

Acts in the calling thread's namespace.
"""

import socket
from ipaddress import ip_address

import psutil

from agent.kernel.conntrack import Flow, FlowTuple
from agent.kernel.sockets import SocketDiag, TcpSocket, TcpState
from rulesets.capture import Capture
from rulesets.model import Ruleset
from rulesets.packet import Fate, Packet, walk
from rulesets.vocabulary import Address, Hook, Protocol


def outgoing(each: TcpSocket) -> FlowTuple:
    """Return the tuple of what a socket sends."""
    return FlowTuple(
        source=each.local,
        destination=each.remote,
        protocol=socket.IPPROTO_TCP,
        source_port=each.local_port,
        destination_port=each.remote_port,
    )


def _addresses() -> dict[Address, str]:
    """Return the namespace's addresses, each with its interface."""
    return {
        ip_address(each.address.partition("%")[0]): name
        for name, addresses in psutil.net_if_addrs().items()
        for each in addresses
        if each.family in (socket.AF_INET, socket.AF_INET6)
    }


_Endpoints = tuple[Address, int, Address, int]


class Place:
    """The sockets of a namespace, and what decides beside them how their streams fare: interfaces, listening ports.

    `every` are the open TCP sockets, `open` those that talk to another machine.
    """

    def __init__(self, diag: SocketDiag, capture: Capture) -> None:
        self._interfaces = _addresses()
        self._listening = {each.port for each in diag.listening_ports() if each.protocol == "tcp"}
        self._proxy = frozenset(capture.proxy_ports.values())
        self.every = diag.tcp_sockets()
        self._clients = {(each.remote, each.remote_port) for each in self.every if each.local_port in self._proxy}
        self._ends: set[_Endpoints] = {
            (each.local, each.local_port, each.remote, each.remote_port)
            for each in self.every
            if self._is_local(each.remote)
        }
        self.open = tuple(each for each in self.every if not self._is_local(each.remote))

    def _is_local(self, address: Address) -> bool:
        return address in self._interfaces or address.is_loopback or address.is_unspecified

    def is_end_of(self, flow: Flow) -> bool:
        """Tell whether a flow begins or ends here, rather than being forwarded."""
        return self._is_local(flow.original.source) or self._is_local(flow.reply.source)

    def carried(self, each: TcpSocket) -> bool:
        """Tell whether the proxy has the other end of this socket's stream, whatever connection tracking knows."""
        return each.local_port in self._proxy or (each.local, each.local_port) in self._clients or self.dialled(each)

    def dialled(self, each: TcpSocket) -> bool:
        """Tell whether the other end is in this namespace, under a foreign address: the proxy dialled for a client."""
        return (each.remote, each.remote_port, each.local, each.local_port) in self._ends

    def _accepted(self, each: TcpSocket) -> bool:
        return each.local_port in self._listening or each.state is TcpState.SYN_RECV

    def original(self, each: TcpSocket) -> FlowTuple:
        """Return the tuple of the stream's first packet: inwards where its local port is listened on."""
        sent = outgoing(each)
        return sent.reversed() if self._accepted(each) else sent

    def would_be_captured(self, each: TcpSocket, rules: Ruleset) -> bool:
        """Tell whether the stream's first packet, sent now, would be taken to the proxy, or refused."""
        first = self.original(each)
        inwards = self._accepted(each)
        interface = self._interfaces.get(each.local, "")
        verdict = walk(
            rules,
            Packet(
                hook=Hook.PREROUTING if inwards else Hook.OUTPUT,
                source=first.source,
                destination=first.destination,
                protocol=Protocol.TCP,
                source_port=first.source_port,
                destination_port=first.destination_port,
                in_interface=interface if inwards else "",
                out_interface="" if inwards else interface,
                mark=0 if inwards else each.mark,
                user=None if inwards else each.user,
                interface_address=each.local,
            ),
        )
        return verdict.translated or verdict.fate is Fate.REFUSED
