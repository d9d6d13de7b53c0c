"""nat-out, connections that processes of the namespace open: one function per reason, in the order of the rules."""

from collections.abc import Iterator

from rulesets.capture import Capture
from rulesets.model import (
    Rule,
)
from rulesets.pod.selection import select
from rulesets.pod.shared import (
    DNS,
    LEAVES_BY_LOOPBACK,
    LOOPBACK,
    NOT_SYN,
    NOT_TCP,
    Stage,
    accept,
    capture_tcp,
    only_captured,
    refuses,
)
from rulesets.vocabulary import (
    Dst,
    DstPort,
    Family,
    OutIface,
    PacketMark,
    Protocol,
    Redirect,
    Reject,
    RejectWith,
    SetField,
    TcpFlag,
    TcpFlags,
    host_network,
)


def from_proxy(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """The proxy's own connections."""
    if capture.outbound:
        yield accept("outbound-from-proxy", PacketMark(mark=capture.proxy_mark))


def excluded_interfaces(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """Interfaces that stay out, going out."""
    if capture.outbound:
        for name in capture.exclude_interfaces:
            yield accept("outbound-excluded-interface", OutIface(name=name))


def dns_udp(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """DNS queries go to the proxy, whichever resolver they are for; those to a resolver on loopback stay."""
    if capture.dns:
        query = (OutIface(name="lo", negate=True), DstPort(protocol=Protocol.UDP, ports=DNS))
        only = only_captured(capture)
        yield Rule(slug="outbound-dns-udp", matches=(*only, *query), action=Redirect(port=capture.dns_port))
        if refuses(capture):
            yield Rule(slug="outbound-dns-refused", matches=query, action=Reject(reply=RejectWith.PORT_UNREACHABLE))


def not_tcp(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """Only TCP is captured; the rules below need not ask again."""
    if capture.outbound:
        yield accept("outbound-not-tcp", NOT_TCP)


def resets(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """The reset that refuses a connection that came in.

    It belongs to that connection, which is not yet set up for nat, so the kernel asks this chain about it; refused
    itself, it would never reach the one who waits for it.
    """
    if capture.outbound and refuses(capture):
        reset = TcpFlags(among=(TcpFlag.RST,), set=(TcpFlag.RST,))
        yield accept("outbound-reset", reset)


def not_new(capture: Capture, stage: Stage) -> Iterator[Rule]:
    """In transition, the streams that are open go on."""
    if capture.outbound and stage is Stage.TRANSITION:
        yield accept("outbound-not-new", NOT_SYN)


def loopback(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """The application talking to itself."""
    if capture.outbound:
        for network in LOOPBACK:
            yield accept("outbound-loopback", Dst(network=network))


def probes(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """Answers to the node's probes, should they look like connections of their own."""
    if capture.outbound:
        for address in capture.probe_sources:
            yield accept("outbound-probe", Dst(network=host_network(address)))


def dns_tcp(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """DNS over TCP, before any exclusion, as over UDP."""
    if capture.dns:
        only, query = only_captured(capture), DstPort(protocol=Protocol.TCP, ports=DNS)
        yield Rule(slug="outbound-dns-tcp", matches=(*only, query), action=Redirect(port=capture.dns_port))
        if refuses(capture):
            yield Rule(slug="outbound-dns-tcp-refused", matches=(query,), action=Reject(reply=RejectWith.TCP_RESET))


def reply(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """A reply on its way back to the proxy."""
    if capture.outbound and capture.inbound:
        yield accept("outbound-reply", PacketMark(mark=capture.connection_mark))


def to_self(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """The application talking to itself by another of its addresses."""
    if capture.outbound:
        yield accept("outbound-to-self", LEAVES_BY_LOOPBACK)


def not_selected(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """Peers and ports that are excluded or not included, going out."""
    if capture.outbound:
        yield from select(capture, "outbound", {Family.IPV4: SetField.DST_V4, Family.IPV6: SetField.DST_V6})


def everything_else(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """All other TCP goes to the proxy."""
    if capture.outbound:
        slugs = ("outbound-redirect", "outbound-refused")
        yield from capture_tcp(capture, slugs, Redirect(port=capture.outbound_port))
