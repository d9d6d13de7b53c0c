"""Sends probes with real sockets, and sees where each arrived and what connection tracking made of it."""

import contextlib
import resource
import select
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass

from agent.kernel.conntrack import Conntrack
from netns_tests.captured import plain
from netns_tests.crossroads import Crossroads
from netns_tests.loop import listener
from netns_tests.probes import PORTS, PROXY_PORTS, RAW_PORTS, Probe
from netns_tests.syscalls import set_fsuid
from rulesets.vocabulary import Address, Protocol, TcpFlag

__all__ = ["Entry", "Listeners", "Seen", "observe"]

IP_TRANSPARENT, IPV6_TRANSPARENT, IPV6_CHECKSUM = 19, 75, 7
SECONDS_TO_ARRIVE = 10.0
# The kernel answers what belongs to no connection with a reset, at which conntrack forgets the
# entry that is looked at: they go before it (-200) sees them.
NO_RESETS = f"""
table inet quiet {{
    chain out {{
        type filter hook output priority -400
        tcp flags & rst == rst tcp dport {RAW_PORTS.start}-{RAW_PORTS.stop - 1} drop
    }}
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What answers to a probe look like to connection tracking, its mark, and the zones of the two directions."""

    source: Address
    source_port: int
    destination: Address
    destination_port: int
    mark: int
    zone: int
    reply_zone: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Where a probe arrived (namespace and port; nothing: nowhere), its conntrack entry, and whether it was refused.

    Only the sender of a connection is asked about refusal: who sends a datagram may hear of it, or not.
    """

    arrived: tuple[str, int] | None = None
    entry: Entry | None = None
    refused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Listeners:
    """What the sockets in the pod that listen on a proxy's ports bear: a mark, or the proxy's user."""

    mark: int = 0
    user: int = 0


def observe(place: Crossroads, probes: list[Probe], proxy: Listeners, *, arriving: int) -> list[Seen]:
    """Send every probe once; return what was seen of each. `arriving`: how many are expected anywhere at all."""
    # Two sockets a probe: more than the 1024 that a login usually gets.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max(soft, 4 * len(probes))
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, max(hard, needed)))
    with contextlib.ExitStack() as stack:
        waiting: dict[int, tuple[str, socket.socket]] = {}
        for name, namespace in place.stations.items():
            namespace.nft(NO_RESETS)
            bearing = proxy if name == "pod" else Listeners()
            for sock in namespace.run(_listen, bearing):
                stack.callback(sock.close)
                waiting[sock.fileno()] = (name, sock)
        clients: dict[int, socket.socket] = {}
        stack.callback(_close, clients)
        for name, namespace in place.stations.items():
            clients |= namespace.run(_send, [each for each in probes if each.sender == name])
        arrived, refused = _collect(stack, waiting, clients, arriving)
        entries = place.pod.run(_entries)
        for client in clients.values():
            if client.type == socket.SOCK_STREAM:  # closing then sends a reset, and no port stays taken
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return [_seen(probe, arrived, entries, refused) for probe in probes]


def _close(sockets: dict[int, socket.socket]) -> None:
    for sock in sockets.values():
        sock.close()


def _listen(proxy: Listeners) -> list[socket.socket]:
    sockets = []
    for port in PORTS:
        bearing = proxy if port in PROXY_PORTS else Listeners()
        set_fsuid(bearing.user)
        sockets += [listener("::", port, kind=kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
        set_fsuid(0)
        if bearing.mark:
            for sock in sockets[-2:]:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("I", bearing.mark))
    return sockets


def _send(probes: Iterable[Probe]) -> dict[int, socket.socket]:
    """Send them and return the sockets by source port."""
    # Datagrams first: while connections are made, they have arrived.
    ordered = sorted(probes, key=lambda each: each.packet.protocol is Protocol.TCP)
    return {probe.packet.source_port: _send_one(probe) for probe in ordered}


def _send_one(probe: Probe) -> socket.socket:
    one = probe.packet
    family = socket.AF_INET if one.source.version == 4 else socket.AF_INET6
    raw = one.protocol is Protocol.TCP and one.tcp_flags != (TcpFlag.SYN,)
    kind = socket.SOCK_DGRAM if one.protocol is Protocol.UDP else socket.SOCK_RAW if raw else socket.SOCK_STREAM
    set_fsuid(one.user or 0)
    sock = socket.socket(family, kind, socket.IPPROTO_TCP if raw else 0)
    set_fsuid(0)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("I", one.mark))
    if family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    if raw and family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_CHECKSUM, 16)
    sock.bind((str(one.source), 0 if raw else one.source_port))
    # A datagram that a rule refuses on its way out is EPERM to its sender.
    with contextlib.suppress(BlockingIOError, ConnectionRefusedError, PermissionError):
        if raw:
            sock.sendto(_segment(probe), (str(one.destination), 0))
        else:
            sock.connect((str(one.destination), one.destination_port))
            if kind == socket.SOCK_DGRAM:
                sock.send(b"probe")
    return sock


def _segment(probe: Probe) -> bytes:
    """Return a TCP header with its flags and, for IPv4, its checksum; the kernel fills in the one of IPv6."""
    one = probe.packet
    flags = sum(1 << bit for bit, flag in enumerate(TcpFlag) if flag in one.tcp_flags)
    header = struct.pack("!HHIIBBHHH", one.source_port, one.destination_port, 1, 1, 5 << 4, flags, 1024, 0, 0)
    if one.source.version == 6:
        return header
    pseudo = one.source.packed + one.destination.packed + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(header))
    total = sum(word for (word,) in struct.iter_unpack("!H", pseudo + header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return header[:16] + struct.pack("!H", ~total & 0xFFFF) + header[18:]


def _collect(
    stack: contextlib.ExitStack,
    waiting: dict[int, tuple[str, socket.socket]],
    clients: dict[int, socket.socket],
    arriving: int,
) -> tuple[dict[int, tuple[str, int]], set[int]]:
    """Return where each probe arrived, by source port, and the source ports of those that were refused."""
    arrived: dict[int, tuple[str, int]] = {}
    refused: set[int] = set()
    poll = select.epoll()
    stack.callback(poll.close)
    connecting = {sock.fileno(): (port, sock) for port, sock in clients.items() if sock.type == socket.SOCK_STREAM}
    for number in waiting:
        poll.register(number, select.EPOLLIN)
    for number in connecting:
        poll.register(number, select.EPOLLOUT)
    deadline = time.monotonic() + SECONDS_TO_ARRIVE
    # Both ends of each connection, and everything that is expected; once more, so that what is not expected is seen.
    while time.monotonic() < deadline:
        events = poll.poll(0.05)
        if not events and not connecting and len(arrived) >= arriving:
            break
        for number, _ in events:
            if number in connecting:
                poll.unregister(number)
                port, client = connecting.pop(number)
                with contextlib.suppress(OSError):
                    client.getpeername()
                    continue
                refused.add(port)
            else:
                name, sock = waiting[number]
                _take(stack, name, sock, arrived)
    return arrived, refused


def _take(stack: contextlib.ExitStack, name: str, sock: socket.socket, arrived: dict[int, tuple[str, int]]) -> None:
    port = sock.getsockname()[1]
    with contextlib.suppress(BlockingIOError):
        while True:
            if sock.type == socket.SOCK_DGRAM:
                peer = sock.recvfrom(64)[1]
            else:
                connection, peer = sock.accept()
                stack.callback(connection.close)
            probe = plain(peer)[1]
            assert probe not in arrived, f"one packet arrived twice: {arrived[probe]} and {name} {port}"
            arrived[probe] = (name, port)


def _entries() -> dict[tuple[object, ...], Entry]:
    with Conntrack() as table:
        return {
            (
                flow.original.protocol,
                flow.original.source,
                flow.original.source_port,
                flow.original.destination,
                flow.original.destination_port,
            ): Entry(
                source=flow.reply.source,
                source_port=flow.reply.source_port,
                destination=flow.reply.destination,
                destination_port=flow.reply.destination_port,
                mark=flow.mark,
                zone=flow.zone,
                reply_zone=flow.reply_zone,
            )
            for flow in table.flows()
        }


def _seen(
    probe: Probe,
    arrived: dict[int, tuple[str, int]],
    entries: dict[tuple[object, ...], Entry],
    refused: set[int],
) -> Seen:
    one = probe.packet
    number = socket.IPPROTO_TCP if one.protocol is Protocol.TCP else socket.IPPROTO_UDP
    entry = entries.get((number, one.source, one.source_port, one.destination, one.destination_port))
    return Seen(arrived=arrived.get(one.source_port), entry=entry, refused=one.source_port in refused)
