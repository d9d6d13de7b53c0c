"""Enrolling a namespace without cutting a stream and without leaving a leak.

A redirect that matches every segment would cut the streams that are open, since conntrack takes their next segment for
a new connection. One that matches only SYN leaves them alone, but must not stay: a captured stream that loses its
conntrack entry would go on in plain. So: first the rules with the SYN match, which start conntrack; then an entry for
every open stream; then the rules without it.
"""

from agent import streams
from agent.errors import NotAsWritten
from agent.kernel.conntrack import Conntrack
from agent.kernel.handle import Handle
from agent.kernel.sockets import SocketDiag
from rulesets import pod
from rulesets.capture import Capture, Established
from rulesets.diff import diff
from rulesets.model import Ruleset
from rulesets.pod import Stage


def enrol(handle: Handle, capture: Capture, actual: Ruleset | None, desired: Ruleset) -> int:
    """Put the rules of a capture in place, whatever was there; return how many streams stay outside.

    Raises `KernelError`; then the rules are those from before, or those of the transition, which the next attempt
    takes up.
    """
    table = desired.table
    keep = capture.established is Established.KEEP
    with handle.inside(), SocketDiag() as diag, Conntrack() as conntrack:
        if keep and not is_steady(actual) and streams.open_sockets(diag):
            transition = pod.build(capture, stage=Stage.TRANSITION, table=table)
            handle.apply(diff(actual, transition))
            streams.keep_open_streams(diag, conntrack, capture, desired)
            actual = transition
        handle.apply(diff(actual, desired))
        if not is_steady(actual) and not keep:
            streams.end_uncaptured(diag, conntrack, desired)
        elif keep:
            # Streams that only the changed rules would take.
            streams.mark_kept(diag, conntrack, capture, desired)
        if captures_dns(actual) != captures_dns(desired):
            streams.forget_dns(conntrack)
        return len(streams.kept(diag, conntrack, capture))


def is_steady(ruleset: Ruleset | None) -> bool:
    """Tell whether rules capture for good: there are some, they redirect, and not just new connections."""
    slugs = {rule.slug for rule in ruleset.rules()} if ruleset else set()
    return any(slug.endswith("-redirect") for slug in slugs) and not any(slug.endswith("-not-new") for slug in slugs)


def captures_dns(ruleset: Ruleset | None) -> bool:
    """Tell whether rules redirect DNS queries."""
    return ruleset is not None and any(rule.slug == "outbound-dns-udp" for rule in ruleset.rules())


def verify(handle: Handle, desired: Ruleset) -> None:
    """Read the table back. Raises `NotAsWritten` with the difference when it is not what was written."""
    actual = handle.read(desired.table)
    if actual != desired:
        raise NotAsWritten(
            statement=f"nft list table inet {desired.table}",
            said=f"the rules are not what was written:\n{diff(actual, desired).describe()}",
            hint="somebody else changes Weir's table, or nft is of an unknown version",
        )
