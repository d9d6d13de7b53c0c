"""How the proxy's packets and their answers are known: one function per reason, in the order of the rules."""

from collections.abc import Iterator

from rulesets.capture import Capture
from rulesets.model import Rule
from rulesets.pod.shared import (
    DNS,
    LEAVES_BY_LOOPBACK,
    Stage,
)
from rulesets.vocabulary import (
    Accept,
    ConnMark,
    CtZone,
    DstPort,
    PacketMark,
    Protocol,
    SetConnMark,
    SetMark,
    SocketUser,
)

# One zone for the proxy's own queries, as Istio's: a client and the proxy may use the same ports (istio#33250).
DNS_ZONE = 1


# raw-out: before connection tracking.


def by_user(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """A proxy that doesn't mark its packets is known by its user. The user becomes the mark once, here."""
    if capture.proxy_user is not None:
        yield Rule(
            slug="proxy-by-user",
            matches=(SocketUser(user=capture.proxy_user),),
            action=SetMark(mark=capture.proxy_mark),
        )


def by_cgroup(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """Or by the cgroup of its service, whoever it runs as and whatever it starts. That becomes the mark, too."""
    if capture.proxy_cgroup is not None:
        yield Rule(
            slug="proxy-by-cgroup",
            matches=(capture.proxy_cgroup,),
            action=SetMark(mark=capture.proxy_mark),
        )


def dns_zone(capture: Capture, stage: Stage) -> Iterator[Rule]:
    """The proxy's own queries are tracked apart: a client may have used the same ports for its redirected query."""
    if capture.dns and stage is not Stage.DRAINING:
        matches = (PacketMark(mark=capture.proxy_mark), DstPort(protocol=Protocol.UDP, ports=DNS))
        yield Rule(slug="dns-zone", matches=matches, action=CtZone(zone=DNS_ZONE))


# mangle-out: the way back of connections that the proxy opened to the application in the client's name.


def reply_to_proxy(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """A packet of such a connection gets the mark that routes it to the proxy instead of to the client."""
    if capture.inbound:
        mark = capture.connection_mark
        yield Rule(slug="reply-to-proxy", matches=(ConnMark(mark=mark),), action=SetMark(mark=mark))


def to_app(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """A connection that the proxy opens over loopback is remembered by its mark."""
    if capture.inbound:
        matches = (LEAVES_BY_LOOPBACK, PacketMark(mark=capture.proxy_mark))
        yield Rule(slug="proxy-to-app", matches=matches, action=SetConnMark(mark=capture.connection_mark))


# nat-out, while draining.


def captured_go_on(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """Keep connection tracking going, which translates what captured streams send and get.

    A nat chain alone doesn't: the kernel tracks where a rule asks for it (nf_ct_netns_get; nft_ct and nft_nat call it).
    """
    yield Rule(slug="captured-go-on", matches=(ConnMark(mark=capture.connection_mark),), action=Accept())
