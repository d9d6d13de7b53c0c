"""Enrolling a namespace without cutting a stream and without leaving a leak.

A redirect that matches every segment would cut the streams that are open, since conntrack takes their next segment for
a new connection. One that matches only SYN leaves them alone, but must not stay: a captured stream that loses its
conntrack entry would go on in plain. So: first the rules with the SYN match, which start conntrack; then an entry for
every open stream; then the rules without it.
"""

import socket

from agent import streams
from agent.errors import NotAsWritten
from agent.kernel.conntrack import Conntrack
from agent.kernel.handle import Handle
from agent.kernel.sockets import SocketDiag
from rulesets import pod
from rulesets.capture import Capture, Established
from rulesets.diff import diff
from rulesets.model import Rule, Ruleset
from rulesets.pod import Stage
from rulesets.pod.recalled import recall
from rulesets.vocabulary import Family, family_of


def enrol(handle: Handle, capture: Capture, actual: Ruleset | None, desired: Ruleset) -> int:
    """Put the rules of a capture in place, whatever was there; return how many streams stay outside.

    Raises `KernelError`; then the rules are those from before, or those of the transition, which the next attempt
    takes up.
    """
    before = actual
    with handle.inside(), SocketDiag() as diag, Conntrack() as conntrack:
        if not redirects(actual):
            streams.forget_stale(diag, conntrack, capture)
        if not is_steady(actual) and not streams.quiet(diag, capture):
            transition = pod.build(capture, stage=Stage.TRANSITION, table=desired.table)
            handle.apply(diff(actual, transition))
            if capture.established is Established.KEEP:
                streams.keep_open_streams(diag, conntrack, capture, desired)
            else:
                # While segments of theirs still go the direct way, so that the reset reaches the peer.
                streams.end_uncaptured(diag, conntrack, capture, desired)
            actual = transition
        handle.apply(diff(actual, desired))
        return settle(diag, conntrack, capture, before, desired)


def settle(diag: SocketDiag, conntrack: Conntrack, capture: Capture, before: Ruleset | None, desired: Ruleset) -> int:
    """See to the flows that the rules from before have left; return how many streams stay outside.

    With None for `before`, whatever those may have been. It can be repeated.
    """
    if capture.established is Established.KEEP:
        if not conntrack.count():
            return 0  # as where a pod starts
        streams.mark_kept(diag, conntrack, capture, desired)
    else:
        streams.end_uncaptured(diag, conntrack, capture, desired)
    if dns_rules(before) != dns_rules(desired):
        streams.forget_dns(conntrack, conntrack.flows(socket.IPPROTO_UDP))
    if before is not None:
        _end_lost(diag, conntrack, recall(before, {}), capture)
    return len(streams.kept(diag, conntrack, capture))


def _end_lost(diag: SocketDiag, conntrack: Conntrack, before: Capture, after: Capture) -> None:
    """End the streams that came in and have lost their way back to the proxy: without an error they would hang."""
    marked_alike = after.inbound and before.connection_mark == after.connection_mark
    found = [family for family in Family if marked_alike and family in after.captured_families]
    if before.inbound and len(found) < len(Family):
        inwards = streams.captured_inwards(conntrack.flows(socket.IPPROTO_TCP), before)
        lost = (flow for flow in inwards if family_of(flow.original.source) not in found)
        streams.end(lost, diag, conntrack)


def is_steady(ruleset: Ruleset | None) -> bool:
    """Tell whether rules capture for good: they redirect, and not just new connections."""
    return redirects(ruleset) and not any(slug.endswith("-not-new") for slug in _slugs(ruleset))


def redirects(ruleset: Ruleset | None) -> bool:
    """Tell whether rules capture anything."""
    return any(slug.endswith("-redirect") or slug == "virtual-interface" for slug in _slugs(ruleset))


def _slugs(ruleset: Ruleset | None) -> set[str]:
    return {rule.slug for rule in ruleset.rules()} if ruleset else set()


def dns_rules(ruleset: Ruleset | None) -> tuple[Rule, ...]:
    """Return the rules that say what becomes of DNS queries over UDP."""
    return tuple(rule for rule in ruleset.rules() if rule.slug.startswith("outbound-dns-")) if ruleset else ()


def verify(handle: Handle, desired: Ruleset) -> None:
    """Read the table back. Raises `NotAsWritten` with the difference when it is not what was written."""
    actual = handle.read(desired.table)
    if actual != desired:
        raise NotAsWritten(
            statement=f"nft list table inet {desired.table}",
            said=f"the rules are not what was written:\n{diff(actual, desired).describe()}",
            hint="somebody else changes Weir's table, or nft is of an unknown version",
        )
