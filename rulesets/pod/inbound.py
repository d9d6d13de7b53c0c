"""nat-pre, connections that arrive: one function per reason, in the order of the rules."""

from collections.abc import Iterator

from rulesets.capture import Capture
from rulesets.model import (
    Rule,
)
from rulesets.pod.selection import select
from rulesets.pod.shared import (
    LOOPBACK,
    NOT_SYN,
    NOT_TCP,
    Stage,
    accept,
    capture_tcp,
    captures_inbound,
)
from rulesets.vocabulary import (
    Dnat,
    Dst,
    DstPort,
    Family,
    InIface,
    LocalAddress,
    PacketMark,
    PortRange,
    Protocol,
    Redirect,
    SetField,
    Src,
    host_network,
)


def virtual_interfaces(capture: Capture, stage: Stage) -> Iterator[Rule]:
    """What comes from a guest behind this namespace (a virtual machine, a nested container) is outbound."""
    for name in capture.virtual_interfaces:
        guest = InIface(name=name)
        slugs = ("virtual-interface", "virtual-interface-refused")
        if stage is Stage.TRANSITION:
            yield accept("virtual-interface-not-new", guest, NOT_SYN)
        yield from capture_tcp(capture, slugs, Redirect(port=capture.outbound_port), guest)
        yield accept("virtual-interface-other", guest)


def not_local(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """What the namespace only forwards is not for it."""
    if captures_inbound(capture):
        yield accept("inbound-not-local", LocalAddress(negate=True))


def excluded_interfaces(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """Interfaces that stay out, coming in."""
    if captures_inbound(capture):
        for name in capture.exclude_interfaces:
            yield accept("inbound-excluded-interface", InIface(name=name))


def not_tcp(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """Only TCP is captured; the rules below need not ask again."""
    if captures_inbound(capture):
        yield accept("inbound-not-tcp", NOT_TCP)


def not_new(capture: Capture, stage: Stage) -> Iterator[Rule]:
    """In transition, the streams that are open go on."""
    if captures_inbound(capture) and stage is Stage.TRANSITION:
        yield accept("inbound-not-new", NOT_SYN)


def from_proxy(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """What the proxy sends to the application."""
    if captures_inbound(capture):
        yield accept("inbound-from-proxy", PacketMark(mark=capture.proxy_mark))


def probes(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """The kubelet's probes, which the node's table gives these sources, go straight to the application."""
    if captures_inbound(capture):
        for address in capture.probe_sources:
            yield accept("inbound-probe", Src(network=host_network(address)))


def loopback(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """The application talking to itself.

    Where there is `nat-out`, that has decided: the kernel asks one nat chain of a connection, not another one when the
    packet comes back by `lo` (net/netfilter/nf_nat_core.c, nf_nat_inet_fn).
    """
    if captures_inbound(capture) and not capture.outbound:
        for network in LOOPBACK:
            yield accept("inbound-loopback", Dst(network=network))


def hbone(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """Tunnelled connections are for the proxy already."""
    if captures_inbound(capture):
        port = PortRange(capture.hbone_port, capture.hbone_port)
        yield accept("inbound-hbone", DstPort(protocol=Protocol.TCP, ports=port))


def not_selected(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """Peers and ports that are excluded or not included, coming in."""
    if captures_inbound(capture):
        yield from select(capture, "inbound", {Family.IPV4: SetField.SRC_V4, Family.IPV6: SetField.SRC_V6})


def everything_else(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """All other TCP goes to the proxy.

    ``dnat`` to the port keeps the address that the client asked for: a redirect would rewrite it to the interface's
    first address, and drop where the interface has none.
    """
    if captures_inbound(capture):
        slugs = ("inbound-redirect", "inbound-refused")
        yield from capture_tcp(capture, slugs, Dnat(port=capture.inbound_port))
