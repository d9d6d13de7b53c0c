"""The streams of a namespace: which are captured, which were open before and stay outside, and how to end them.

Sockets come from sock_diag and flows from conntrack; one stream is a socket and the flow with its addresses and ports.
Functions act in the calling thread's namespace.
"""

import socket
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from agent.errors import FeatureMissing
from agent.kernel.conntrack import Conntrack, Flow, FlowTuple
from agent.kernel.sockets import OPEN_STATES, SocketDiag, TcpSocket, TcpState, endpoint, tcp_count
from agent.place import Place, outgoing
from rulesets.capture import Capture
from rulesets.model import Ruleset
from rulesets.vocabulary import Address, Family, family_of

# How long an entry that we make waits for the stream's next segment, which then starts the kernel's own time-out: that
# one's default, in seconds (nf_conntrack_proto_tcp.c, TCP_CONNTRACK_ESTABLISHED).
ENTRY_TIMEOUT = 5 * 24 * 3600
# A flow in one of these is over: both ends have acknowledged all (net/netfilter/nf_conntrack_proto_tcp.c). One in
# LAST_ACK is not, its last data may have to be sent again.
_OVER = ("TIME_WAIT", "CLOSE")
_DNS = 53


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One TCP stream as its owner sees it: from the side that opened it to the side that was meant."""

    source: Address
    source_port: int
    destination: Address
    destination_port: int

    def __str__(self) -> str:
        return f"{endpoint(self.source, self.source_port)} to {endpoint(self.destination, self.destination_port)}"


def _stream(original: FlowTuple) -> Stream:
    return Stream(
        source=original.source,
        source_port=original.source_port,
        destination=original.destination,
        destination_port=original.destination_port,
    )


def through_proxy(flows: Iterable[Flow], capture: Capture) -> tuple[Stream, ...]:
    """Return the streams of captured flows as their owners see them.

    One that came in has two flows, to the proxy and from there to the application; where both are known it is one.
    """
    flows = tuple(flows)
    to_proxy = [_stream(flow.original) for flow in flows if _to_proxy(flow, capture)]
    from_proxy = [_stream(flow.original) for flow in flows if not _to_proxy(flow, capture)]
    known = Counter((each.source, each.destination, each.destination_port) for each in to_proxy)
    for each in from_proxy:
        ends = (each.source, each.destination, each.destination_port)
        if known[ends]:
            known[ends] -= 1
        else:
            to_proxy.append(each)
    return tuple(to_proxy)


def captured(flows: Iterable[Flow], capture: Capture) -> tuple[Flow, ...]:
    """Return the TCP flows that the proxy carries: translated to one of its ports, or opened in a client's name."""
    return tuple(flow for flow in flows if _by_proxy(flow, capture) and flow.tcp_state not in _OVER)


def forget_captured(conntrack: Conntrack, flows: Iterable[Flow], capture: Capture) -> None:
    """Drop the entries of captured flows that are over.

    Once the rules are gone nothing tracks what becomes of their ports; a direct stream that has taken them would be
    translated by the old entry as soon as the namespace is enrolled again.
    """
    for flow in flows:
        if _by_proxy(flow, capture) and flow.tcp_state in _OVER:
            conntrack.delete(flow)


def captured_inwards(flows: Iterable[Flow], capture: Capture) -> tuple[Flow, ...]:
    """Return those of the captured flows that depend on the connection mark, the rule and the local route.

    The mark alone doesn't tell: what the proxy answers to a client of the namespace leaves by `lo` as well.
    """
    return tuple(
        flow
        for flow in captured(flows, capture)
        if flow.reply.source_port == capture.inbound_port or not _translated(flow)
    )


def _by_proxy(flow: Flow, capture: Capture) -> bool:
    is_tcp = flow.original.protocol == socket.IPPROTO_TCP
    return is_tcp and (_to_proxy(flow, capture) or capture.connection_mark.matches(flow.mark))


def _to_proxy(flow: Flow, capture: Capture) -> bool:
    return flow.reply.source_port in capture.proxy_ports.values() and _translated(flow)


def _translated(flow: Flow) -> bool:
    return flow.reply.reversed() != flow.original


def quiet(diag: SocketDiag, capture: Capture) -> bool:
    """Tell whether nobody in the namespace has a connection, had one a moment ago or is waiting for one, but the proxy.

    Then rules may capture at once: nothing is under way that they could cut.
    """
    proxy = {*capture.proxy_ports.values(), capture.hbone_port}
    listening = diag.tcp_sockets({TcpState.LISTEN})
    if all(each.local_port in proxy for each in listening) and tcp_count() == len(listening):
        return True  # as where a pod starts: to look at each would be a walk over the sockets of the whole node
    sockets = diag.tcp_sockets(OPEN_STATES | {TcpState.TIME_WAIT, TcpState.LISTEN})
    return all(each.state is TcpState.LISTEN and each.local_port in proxy for each in sockets)


def forget_stale(diag: SocketDiag, conntrack: Conntrack, capture: Capture) -> None:
    """Drop the entries from an earlier enrolment that are no longer true.

    While no rule asks for connection tracking, entries see no packet, and wait for their time-out: five days where a
    stream was open. One without its socket would take a new connection of the same ports along, past the rules; one
    that says captured, or over, would break a direct stream.
    """
    flows = conntrack.flows(socket.IPPROTO_TCP)
    if not flows:
        return
    place = Place(diag, capture)
    sockets = {tuple_: each for each in place.every for tuple_ in (outgoing(each), outgoing(each).reversed())}
    for flow in flows:
        each = sockets.get(flow.original) or sockets.get(flow.reply)
        if each is None:
            stale = flow.tcp_state not in _OVER and place.is_end_of(flow)
        else:
            stale = not place.carried(each) and (flow.tcp_state in _OVER or _to_proxy(flow, capture))
        if stale:
            conntrack.delete(flow)


def keep_open_streams(
    diag: SocketDiag,
    conntrack: Conntrack,
    capture: Capture,
    rules: Ruleset,
    families: Collection[Family] = tuple(Family),
) -> None:
    """Make connection tracking know every direct stream, so that rules without a SYN match leave it alone.

    Those that `rules` would capture if they began now get the mark of kept streams. A captured stream gets no entry:
    without one it is redirected again, with one it would be sent out in plain. But what the proxy dialled in a client's
    name is not translated, and known by its mark alone. Streams of other families than these are left alone.
    """
    place = Place(diag, capture)
    for each in (one for one in place.open if family_of(one.local) in families):
        if place.dialled(each):
            conntrack.create_established(
                place.original(each), mark=capture.connection_mark.value, timeout=ENTRY_TIMEOUT
            )
        elif not place.carried(each):
            mark = capture.kept_mark.value if place.would_be_captured(each, rules) else 0
            # Where its next segment has made an entry already, by the rules with the SYN match, that one is direct.
            if not conntrack.create_established(place.original(each), mark=mark, timeout=ENTRY_TIMEOUT):
                flow = conntrack.find(outgoing(each))
                if flow is not None and flow.tcp_state in _OVER:
                    # Of a stream that had the same ports before.
                    conntrack.delete(flow)
                    conntrack.create_established(place.original(each), mark=mark, timeout=ENTRY_TIMEOUT)
    mark_kept(diag, conntrack, capture, rules)


def mark_kept(diag: SocketDiag, conntrack: Conntrack, capture: Capture, rules: Ruleset) -> None:
    """Give direct flows the mark of kept streams where `rules` would capture them if they began now."""
    if not conntrack.count():
        return  # as where a pod starts: without a look at its sockets and addresses
    place = Place(diag, capture)
    for each, flow in _direct(place, conntrack, capture):
        if not capture.kept_mark.matches(flow.mark) and place.would_be_captured(each, rules):
            conntrack.update_mark(flow, capture.kept_mark.value, capture.kept_mark.mask)


def kept(diag: SocketDiag, conntrack: Conntrack, capture: Capture) -> tuple[Stream, ...]:
    """Return the streams that were open before enrolment and stay outside."""
    if not conntrack.count():
        return ()
    place = Place(diag, capture)
    return tuple(_stream(place.original(each)) for each, _ in _kept(place, conntrack, capture))


def _kept(place: Place, conntrack: Conntrack, capture: Capture) -> Iterator[tuple[TcpSocket, Flow]]:
    direct = _direct(place, conntrack, capture)
    return ((each, flow) for each, flow in direct if capture.kept_mark.matches(flow.mark))


def _direct(place: Place, conntrack: Conntrack, capture: Capture) -> Iterator[tuple[TcpSocket, Flow]]:
    """Yield the open sockets whose streams are known to connection tracking and not captured, each with its flow.

    One look-up a socket: a dump would walk a hash table that all namespaces share, 11 ms however few the entries.
    """
    if not conntrack.count():
        return
    for each in place.open:
        flow = conntrack.find(outgoing(each))
        if flow is not None and not _translated(flow) and not capture.connection_mark.matches(flow.mark):
            yield each, flow


def end_uncaptured(diag: SocketDiag, conntrack: Conntrack, capture: Capture, rules: Ruleset) -> int:
    """Destroy the open sockets that the rules would capture and that are not captured; return how many."""
    place = Place(diag, capture)
    ended = 0
    for each in place.open:
        flow = conntrack.find(outgoing(each))
        taken = flow is not None and (_translated(flow) or capture.connection_mark.matches(flow.mark))
        if not taken and not place.carried(each) and place.would_be_captured(each, rules):
            ended += _ended(diag, each)
            if flow is not None:
                conntrack.delete(flow)
    return ended


def end_kept(diag: SocketDiag, conntrack: Conntrack, capture: Capture) -> None:
    """Destroy the sockets of the streams that stay outside."""
    for each, flow in tuple(_kept(Place(diag, capture), conntrack, capture)):
        _ended(diag, each)
        conntrack.delete(flow)


def _ended(diag: SocketDiag, each: TcpSocket) -> bool:
    """Destroy the socket of a direct stream; tell whether it was there.

    A kernel that can't (CONFIG_INET_DIAG_DESTROY) leaves it: without its flow its next segment looks new, goes to the
    proxy, and is answered with a reset.
    """
    try:
        return diag.destroy(each)
    except FeatureMissing:
        return False


def end(flows: Iterable[Flow], diag: SocketDiag, conntrack: Conntrack) -> int:
    """Destroy every socket at this end of the flows, so that their owners and peers see an error; return how many.

    A destroyed socket sends a reset, which must still be translated: the flow is forgotten after it. Raises
    `FeatureMissing` on a kernel that can't destroy sockets, before any flow is forgotten: the streams go on.
    """
    wanted = {each: flow for flow in flows for one in (flow.original, flow.reply) for each in (one, one.reversed())}
    sockets = [each for each in diag.tcp_sockets() if outgoing(each) in wanted]
    ended = sum(diag.destroy(each) for each in sockets)
    for flow in set(wanted.values()):
        conntrack.delete(flow)
    return ended


def forget_kept(diag: SocketDiag, conntrack: Conntrack, capture: Capture) -> None:
    """Take the mark of kept streams off again; the streams go on."""
    for _, flow in tuple(_kept(Place(diag, capture), conntrack, capture)):
        conntrack.update_mark(flow, 0, capture.kept_mark.mask)


def forget_dns(conntrack: Conntrack, flows: Iterable[Flow]) -> None:
    """Drop the entries of DNS over UDP, but for the proxy's own: a client with a fixed port would go on as before."""
    for flow in flows:
        if flow.original.protocol == socket.IPPROTO_UDP and flow.original.destination_port == _DNS and not flow.zone:
            conntrack.delete(flow)
