"""One packet at a time at the crossroads: a place is made for it, it is sent, and its conntrack entry is read."""

import contextlib
import socket
import struct
import time
from dataclasses import dataclass, replace
from ipaddress import ip_address

from agent.kernel.conntrack import Conntrack, Flow
from netns_tests.crossroads import LINKS, NEIGHBOURS, Crossroads, neighbour_address, pod_address, second_address
from netns_tests.observing import Entry
from netns_tests.syscalls import set_fsuid
from rulesets import nft
from rulesets.equivalence import Way
from rulesets.model import Ruleset
from rulesets.packet import Fate, Packet, Receiver, looped, walk
from rulesets.vocabulary import Address, Hook, Protocol, TcpFlag

__all__ = ["Lone", "foretold", "realistic"]

_TRANSPARENT = {4: (socket.IPPROTO_IP, 19), 6: (socket.IPPROTO_IPV6, 75)}
SECONDS_TO_PASS = 0.4  # a packet takes well under a millisecond; where none must come, this is how long is waited
# Resets would make conntrack forget what is looked at, and errors by ICMP mark it. They go before it sees them.
QUIET = """
table inet quiet {
    chain out {
        type filter hook output priority -400
        tcp flags & rst == rst drop
        icmp type destination-unreachable drop
        icmpv6 type destination-unreachable drop
    }
}
"""
# Connections are tracked where a rule asks for something of theirs; a nat chain alone doesn't (nft_ct.c).
TRACKED = "table inet tracked { chain c { type filter hook input priority 301; ct mark 0xffffffff counter; }; }"
# The mark that a packet left with becomes its connection's, where it can be seen.
SHOWN = """
table inet shown {
    chain sent { type filter hook postrouting priority 300; ct mark set meta mark; }
    chain delivered { type filter hook input priority 300; ct mark set meta mark; }
}
"""


def realistic(one: Packet, way: Way) -> Packet | None:
    """Return a first packet as it can be sent at the crossroads, or None."""
    begins = one.protocol is Protocol.UDP or (one.protocol is Protocol.TCP and one.tcp_flags == (TcpFlag.SYN,))
    link = one.in_interface or one.out_interface
    outgoing = one.hook is Hook.OUTPUT
    possible = (
        begins
        and link in (LINKS if way is not Way.TO_SELF else ("lo",))
        and not one.cgroups
        and one.receiver is Receiver.NONE
        and (one.user is not None or not outgoing)
        and not one.destination.is_multicast
        and one.destination != ip_address("255.255.255.255")
        and (not one.out_interface or way is Way.TO_SELF or one.out_interface in LINKS)
    )
    if not possible:
        return None
    address = None if outgoing else _first_address(link, one.destination.version)
    return replace(one, interface_address=address, group=None, leaving_address=None)


def _first_address(link: str, version: int) -> Address:
    """Return where a redirect goes: of several addresses of IPv6 the one that was added last comes first."""
    return second_address(6) if (link, version) == ("eth0", 6) else pod_address(link, version)


def foretold(ruleset: Ruleset, packet: Packet, *, shown: bool) -> Entry | None:
    """Return the conntrack entry that a packet leaves, None where it is refused or dropped, going by the walk."""
    verdict = walk(ruleset, packet)
    if verdict.fate is not Fate.ACCEPTED:
        return None
    last = verdict.packet
    mark = last.mark if shown else last.connection_mark
    if packet.hook is Hook.OUTPUT and last.out_interface == "lo":
        again = walk(ruleset, looped(replace(verdict, packet=replace(last, connection_mark=mark))))
        if again.fate is not Fate.ACCEPTED:
            # It was sent, so that its entry is there, with the mark that it had when it was stopped.
            mark = again.packet.connection_mark
        else:
            mark = again.packet.mark if shown else again.packet.connection_mark
    return Entry(
        source=last.destination,
        source_port=last.destination_port,
        destination=last.source,
        destination_port=last.source_port,
        mark=mark,
        zone=verdict.zone,
    )


@dataclass(frozen=True, slots=True)
class Lone:
    """A crossroads where one packet at a time is sent."""

    place: Crossroads

    def prepare(self) -> None:
        """Let every namespace keep quiet about what it doesn't know, and take packets from anywhere."""
        for namespace in self.place.stations.values():
            namespace.nft(QUIET)
            namespace.sysctl("net/ipv4/conf/all/rp_filter", 0)
            for link in [*LINKS, "lo"]:
                with contextlib.suppress(FileNotFoundError):
                    namespace.sysctl(f"net/ipv4/conf/{link}/rp_filter", 0)

    def entry(self, ruleset: Ruleset, packet: Packet, *, shown: bool) -> Entry | None:
        """Return what conntrack in the pod has of a packet that was sent under a ruleset, None for nothing."""
        pod, arriving = self.place.pod, packet.hook is Hook.PREROUTING
        sender = self.place.stations[NEIGHBOURS[packet.in_interface]] if arriving else pod
        marking = f"meta mark set {packet.mark:#x};" if arriving and packet.mark else ""
        marked = f"table inet marked {{ chain c {{ type filter hook prerouting priority -500; {marking} }}; }}"
        here, there = _ways(packet)
        with contextlib.ExitStack() as stack:
            for namespace, line in ((pod, here), (sender, there)):
                if line:
                    namespace.ip(line.replace("X", "replace", 1))
                    stack.callback(namespace.ip, line.replace("X", "del", 1))
            stack.callback(pod.nft, "flush ruleset\n" + QUIET)
            pod.nft("\n".join((nft.render(ruleset), TRACKED, marked, SHOWN if shown else "")))
            for _ in range(
                2
            ):  # right after its route was changed, IPv6 may lose a packet: what is gone twice was stopped
                with sender.run(_send, packet):
                    found = pod.run(_await_entry, packet)
                if found is not None:
                    return found
            return None


def _ways(packet: Packet) -> tuple[str, str]:
    """Return the lines of ``ip`` that lead a packet through the pod as it says, and to the pod; X is what to do."""
    version, to = packet.destination.version, packet.destination
    there = f"route X {to} via {pod_address(packet.in_interface, version)}" if packet.in_interface else ""
    if packet.destination_local:
        return ("" if to.is_loopback else f"addr X {to}/{to.max_prefixlen} dev lo"), there
    return f"route X {to} via {neighbour_address(packet.out_interface, version)}", there


def _send(packet: Packet) -> socket.socket:
    version = packet.source.version
    kind = socket.SOCK_DGRAM if packet.protocol is Protocol.UDP else socket.SOCK_STREAM
    set_fsuid(packet.user or 0)
    sock = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind)
    set_fsuid(0)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if packet.hook is Hook.OUTPUT:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("I", packet.mark))
    sock.setsockopt(*_TRANSPARENT[version], 1)
    sock.bind((str(packet.source), packet.source_port))
    # A packet that is stopped on its way out may be an error to its sender, and may not.
    with contextlib.suppress(BlockingIOError, ConnectionRefusedError, PermissionError, OSError):
        sock.connect((str(packet.destination), packet.destination_port))
        if kind == socket.SOCK_DGRAM:
            sock.send(b"probe")
    return sock


def _await_entry(packet: Packet) -> Entry | None:
    """Return the entry of a packet and delete it, so that the next one is a first packet too."""
    deadline = time.monotonic() + SECONDS_TO_PASS
    with Conntrack() as table:
        while True:
            for flow in table.flows():
                if _is_of(flow, packet):
                    table.delete(flow)
                    return Entry(
                        source=flow.reply.source,
                        source_port=flow.reply.source_port,
                        destination=flow.reply.destination,
                        destination_port=flow.reply.destination_port,
                        mark=flow.mark,
                        zone=flow.zone,
                        reply_zone=flow.reply_zone,
                    )
            if time.monotonic() > deadline:
                return None
            time.sleep(0.01)  # polling with a deadline


def _is_of(flow: Flow, packet: Packet) -> bool:
    one = flow.original
    ends: tuple[Address, int, Address, int] = (one.source, one.source_port, one.destination, one.destination_port)
    return ends == (packet.source, packet.source_port, packet.destination, packet.destination_port)
