"""A real connection that proves capture, out and in, in each family: what was seen, and what that doesn't prove.

Outwards it goes to an address that is nobody's (TEST-NET) from within the namespace, so the rules, routes and sockets
that an application meets. Inwards a SYN enters by the other end of the namespace's own link, as from the node: the
kernel's whole way in. A listener answers it, no program ever hears of it, and a reset follows at once. An ordinary
connection of the node's would prove less, since the node's probes are exempt.
"""

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from agent.doctor.ports import Holders
from agent.errors import WeirError
from agent.explain.places import FAR, Listening, Place, read_listening
from agent.explain.start import APPLICATION, SOURCE_PORT
from agent.explain.words import end
from agent.kernel.conntrack import Conntrack, Flow, FlowTuple
from agent.kernel.handle import Handle
from agent.kernel.netns import OpenNetns
from agent.kernel.peers import peer_of
from agent.kernel.policy_rules import Rtnetlink
from agent.kernel.probing import Injector, connecting, hardware_address, patiently
from agent.kernel.sockets import OPEN_STATES, SocketDiag
from agent.targets import Captured, Target
from rulesets import pod
from rulesets.capture import Capture
from rulesets.packet import Packet, walk
from rulesets.vocabulary import Address, Family, Hook

SECONDS = 1.0
"""The most that one connection is waited for."""

_OUTWARDS = (443, 80, 8080, 1)
_INWARDS = (9, 7, 1, 8080)  # discard, echo: where hardly an application listens
_AGAIN = 50  # looks until the SYN is sent once more: a quarter of a second
_AFTER_RISE = 10  # looks
_NAMES = {Family.IPV4: "IPv4", Family.IPV6: "IPv6"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What one connection showed. `captured` is None where nothing was proved: `said` then says why.

    `seen` are the single observations.
    """

    direction: str
    family: Family
    captured: bool | None
    said: str
    seen: tuple[str, ...] = ()

    def __str__(self) -> str:
        word = {True: "captured", False: "not captured", None: "not proved"}[self.captured]
        return f"{self.direction} {_NAMES[self.family]}: {word}: {self.said}"

    def document(self) -> dict[str, object]:
        """Return it as JSON can hold it."""
        return {**asdict(self), "family": str(self.family), "seen": list(self.seen)}


def probe(target: Target, handle: Handle, *, seconds: float = SECONDS) -> tuple[Proof, ...]:
    """Make the connections that prove whether a target is captured, one after the other. Changes no rule."""
    if not isinstance(target.wish, Captured):
        return ()
    capture = target.wish.capture
    probing = _Probing(target, handle, capture, seconds)
    ways: list[tuple[str, Callable[[Family], Proof]]] = []
    ways += [("outbound", probing.outwards)] if capture.outbound else []
    ways += [("inbound", probing.inwards)] if capture.inbound else []
    return tuple(_made(way, family, make) for way, make in ways for family in capture.captured_families)


def _made(way: str, family: Family, make: Callable[[Family], Proof]) -> Proof:
    try:
        return make(family)
    except WeirError as error:
        return Proof(direction=way, family=family, captured=None, said=str(error).partition("\n")[0])


class _Probing:
    def __init__(self, target: Target, handle: Handle, capture: Capture, seconds: float) -> None:
        self._target, self._handle, self._capture, self._seconds = target, handle, capture, seconds
        self._wanted = pod.build(capture, table=target.table)

    def outwards(self, family: Family) -> Proof:
        """Connect from inside to an address that is nobody's."""
        there = FAR[family]
        with self._handle.inside(), Rtnetlink() as netlink:
            place = Place(netlink)
            route = place.outwards(there)
            if route.route.error:
                why = f"it has no route to {there} ({route.route.said}), so nothing leaves"
                return self._open("outbound", family, why)
            source = route.route.source or FAR[family]
            port = next((each for each in self._ports() if self._is_sent(source, there, each, route.interface)), None)
            if port is None:
                return self._open("outbound", family, f"the settings leave {there} out, which is nobody's")
            before = self._count()
            as_application = APPLICATION if self._capture.proxy_user == os.geteuid() else None
            with connecting(there, port, seconds=self._seconds, user=as_application) as attempt:
                sent = _tuple(attempt.local, attempt.local_port, there, port)
                flow = _flow(sent)
                answering = self._answering(attempt.local, attempt.local_port)
            risen = tuple(self._rise(before, self._count()))
            seen = [*_told(flow), *answering, *risen]
            # Of a connection that is refused at once the kernel keeps no entry: then the counter alone tells.
            to_proxy = flow.reply.source_port == self._capture.outbound_port if flow is not None else bool(risen)
            reached = to_proxy and flow is not None and place.is_own(flow.reply.source) and not attempt.said
            goal = end(there, port)
            if reached and flow is not None:
                where = end(flow.reply.source, flow.reply.source_port)
                said = f"{goal} was answered by {self._who(flow.reply.source, flow.reply.source_port)} on {where}"
                return Proof(direction="outbound", family=family, captured=True, said=said, seen=tuple(seen))
            fate = attempt.said or "it was answered"
            how = "was sent to the proxy's port" if to_proxy else "went past the proxy"
            said = f"the connection to {goal} {how}: {fate}"
            return Proof(direction="outbound", family=family, captured=False, said=said, seen=tuple(seen))

    def inwards(self, family: Family) -> Proof:
        """Have a SYN come in by the other end of the namespace's link."""
        with self._handle.inside(), Rtnetlink() as netlink:
            place = Place(netlink)
            links = [each for each in place.links.values() if each.kind == "veth" and each.away and each.up]
            ends = ((each.name, place.first_address(each.name, family)) for each in links)
            there = next(((name, address) for name, address in ends if address is not None), None)
            if there is None:
                beyond = any(address.version == FAR[family].version for _, address in place.addresses)
                why = "no veth pair has an address of that family" if beyond else "it has no address that others reach"
                return self._open("inbound", family, why)
            interface, own = there
            peer = peer_of(interface)
            if peer is None:
                return self._open("inbound", family, f"the other end of {interface} isn't found on this machine")
            hardware = hardware_address(interface)
            outer = OpenNetns(peer.netns)
            try:
                with outer.entered(), Rtnetlink() as other:
                    beyond_it = Place(other)
                    source = beyond_it.outwards(own).route.source or FAR[family]
                    name = beyond_it.name(peer.index)
                port = next(
                    (each for each in self._quiet_ports() if self._is_taken(source, own, each, interface)), None
                )
                if port is None:
                    return self._open("inbound", family, f"the settings capture nothing from {source}")
                return self._sent_in(family, (source, own, port), outer, name, hardware)
            finally:
                outer.close()

    def _sent_in(
        self, family: Family, ends: tuple[Address, Address, int], outer: OpenNetns, name: str, hardware: bytes
    ) -> Proof:
        source, own, port = ends
        before = self._count()
        sent = _tuple(source, SOURCE_PORT + os.getpid() % 10_000, own, port)
        with outer.entered():
            injector = Injector(name, hardware)
        flow, seen_rise = None, 0
        with injector:
            for attempt, _ in enumerate(patiently(self._seconds)):
                if attempt % _AGAIN == 0:  # a SYN that is lost on the way says nothing
                    injector.send(source, sent.source_port, own, port)
                flow = _flow(sent)
                # The counter rises a moment before the entry is there, and of what is refused none stays.
                seen_rise += any(self._rise(before, self._count()))
                if flow is not None or seen_rise > _AFTER_RISE:
                    break
            injector.send(source, sent.source_port, own, port, reset=True)
        risen = tuple(self._rise(before, self._count()))
        seen = (*_told(flow), *risen)
        goal = f"a SYN from {source} to {end(own, port)}, which came in by the link's other end"
        if flow is None:
            # Of a connection that is refused at once the kernel keeps no entry.
            gone = f"left no trace within {self._seconds:g} s: it was dropped, or isn't tracked"
            refused = f"was sent to port {self._capture.inbound_port}, where nothing listens"
            said = f"{goal}, {refused if risen else gone}"
            return Proof(direction="inbound", family=family, captured=False, said=said, seen=seen)
        if flow.reply.source_port != self._capture.inbound_port:
            where = end(flow.reply.source, flow.reply.source_port)
            said = f"{goal}, went to {where}, past the proxy"
            return Proof(direction="inbound", family=family, captured=False, said=said, seen=seen)
        who = self._listener(flow.reply.source, flow.reply.source_port)
        where = end(flow.reply.source, flow.reply.source_port)
        if who is None:
            said = f"{goal}, was sent to {where}, where nothing listens"
            return Proof(direction="inbound", family=family, captured=False, said=said, seen=seen)
        said = f"{goal}, was sent to {where}, where {who.who} listens"
        unproved = "not proved: that the proxy accepts it, and what it does then (the connection is reset before)"
        return Proof(direction="inbound", family=family, captured=True, said=said, seen=(*seen, unproved))

    def _open(self, way: str, family: Family, why: str) -> Proof:
        return Proof(direction=way, family=family, captured=None, said=why)

    def _ports(self) -> Iterator[int]:
        yield from _OUTWARDS
        yield from (each.first for each in self._capture.include_outbound_ports if each.first)

    def _quiet_ports(self) -> Iterator[int]:
        """Yield ports to which a SYN disturbs nobody, should it not be captured."""
        wanted = [each.first for each in self._capture.include_inbound_ports if each.first]
        with SocketDiag() as diag:
            taken = {each.port for each in diag.listening_ports({"tcp"})}
        yield from (each for each in (*_INWARDS, *wanted) if each not in taken)

    def _is_sent(self, source: Address, there: Address, port: int, interface: str) -> bool:
        packet = Packet(
            hook=Hook.OUTPUT,
            source=source,
            source_port=SOURCE_PORT,
            destination=there,
            destination_port=port,
            out_interface=interface,
            user=APPLICATION,
            destination_local=False,
        )
        return walk(self._wanted, packet).translated

    def _is_taken(self, source: Address, own: Address, port: int, interface: str) -> bool:
        packet = Packet(
            hook=Hook.PREROUTING,
            source=source,
            source_port=SOURCE_PORT,
            destination=own,
            destination_port=port,
            in_interface=interface,
            interface_address=own,
        )
        return walk(self._wanted, packet).translated

    def _count(self) -> dict[str, int]:
        return {each.name: each.packets for each in self._handle.counters(self._target.table)}

    def _rise(self, before: dict[str, int], after: dict[str, int]) -> Iterator[str]:
        for name, packets in after.items():
            if name.endswith("-redirect") and packets > before.get(name, 0):
                yield f"counter {name} rose by {packets - before.get(name, 0)}"

    def _answering(self, local: Address, port: int) -> Iterator[str]:
        with SocketDiag() as diag:
            sockets = diag.tcp_sockets(OPEN_STATES)
        for each in sockets:
            if (each.remote, each.remote_port, each.local_port) == (local, port, self._capture.outbound_port):
                where = end(each.local, each.local_port)
                return iter((f"the proxy's end, {where}, is {each.state.name}",))
        return iter(())

    def _who(self, address: Address, port: int) -> str:
        found = self._listener(address, port)
        return found.who if found is not None else "somebody who listens there no longer"

    def _listener(self, address: Address, port: int) -> Listening | None:
        there = read_listening({port}, Holders())
        return next((each for each in there if each.protocol == "tcp" and each.answers(address)), None)


def _tuple(source: Address, source_port: int, destination: Address, port: int) -> FlowTuple:
    return FlowTuple(
        source=source,
        destination=destination,
        protocol=socket.IPPROTO_TCP,
        source_port=source_port,
        destination_port=port,
    )


def _flow(sent: FlowTuple) -> Flow | None:
    with Conntrack() as conntrack:
        return conntrack.find(sent)


def _told(flow: Flow | None) -> Iterator[str]:
    if flow is None:
        yield "connection tracking knows nothing of it"
        return
    asked, got = flow.original, flow.reply
    goal, answers = end(asked.destination, asked.destination_port), end(got.source, got.source_port)
    yield f"connection tracking: {end(asked.source, asked.source_port)} to {goal} is answered by {answers}"
