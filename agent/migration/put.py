"""Weir's table put in beside another agent's rules, and taken away again, without touching a captured stream.

Unlike an enrolment, this finds connections tracked and captured already. An entry that says so is right, and stays; no
stream needs to be told from new ones, since each has its entry. Only families that the others' rules leave alone are
enrolled as usual.
"""

import socket
from dataclasses import replace

from agent import enrol, streams
from agent.kernel.conntrack import Conntrack, Flow
from agent.kernel.handle import Handle
from agent.kernel.sockets import SocketDiag
from rulesets import pod
from rulesets.capture import Capture, Established
from rulesets.diff import diff
from rulesets.model import Ruleset, with_counters
from rulesets.pod import Stage
from rulesets.pod.recalled import recall
from rulesets.vocabulary import CtZone, Family

_DNS = 53


def put_beside(
    handle: Handle, capture: Capture, actual: Ruleset | None, desired: Ruleset, tracked: frozenset[Family]
) -> int:
    """Put the rules of a capture in place; return how many streams stay outside. Raises `KernelError`.

    `tracked` are the families whose connections other rules capture at this moment.
    """
    if not tracked:
        return enrol.enrol(handle, capture, actual, desired)
    with handle.inside(), SocketDiag() as diag, Conntrack() as conntrack:
        untracked = frozenset(Family) - tracked
        if untracked and not enrol.is_steady(actual):
            transition = pod.build(capture, stage=Stage.TRANSITION, table=desired.table)
            transition = without_zone(transition) if desired == without_zone(desired) else transition
            handle.apply(diff(actual, transition))
            streams.keep_open_streams(diag, conntrack, capture, desired, untracked)
            actual = transition
        handle.apply(diff(actual, desired))
        if capture.established is Established.KEEP:
            streams.mark_kept(diag, conntrack, capture, desired)
        else:
            streams.end_uncaptured(diag, conntrack, capture, desired)
        if capture.dns:
            _forget_direct_dns(conntrack)
        return len(streams.kept(diag, conntrack, capture))


def without_zone(ruleset: Ruleset) -> Ruleset:
    """Return Weir's table without the zone of the proxy's DNS, for as long as other rules set it."""
    chains = (
        replace(each, rules=tuple(rule for rule in each.rules if not isinstance(rule.action, CtZone)))
        for each in ruleset.chains
    )
    return with_counters(ruleset.table, tuple(each for each in chains if each.rules), ruleset.sets)


def take_away(handle: Handle, actual: Ruleset) -> None:
    """Delete Weir's table while other rules capture; captured streams go on. Raises `KernelError`."""
    with handle.inside(), SocketDiag() as diag, Conntrack() as conntrack:
        streams.forget_kept(diag, conntrack, recall(actual, {}))
        handle.apply(diff(actual, None))


def forget_zoned(conntrack: Conntrack, *, both_ways: bool) -> None:
    """Drop the entries of the proxy's DNS: those that have a zone in both directions, or those in the original only.

    Also those that an answer made which came in between two sets of rules, and was looked for in another zone: a query
    from the same port would be sent from another because of it (nf_nat_core.c, get_unique_tuple).
    """
    for flow in conntrack.flows(socket.IPPROTO_UDP):
        asked = flow.original.destination_port == _DNS and flow.zone and (flow.zone == flow.reply_zone) is both_ways
        if asked or (flow.original.source_port == _DNS and not _translated(flow)):
            conntrack.delete(flow)


def _forget_direct_dns(conntrack: Conntrack) -> None:
    """Drop the entries of queries that go past the proxy: a client with a fixed port would go on so.

    One that goes to the proxy stays, for its answer has still to be translated.
    """
    for flow in conntrack.flows(socket.IPPROTO_UDP):
        if flow.original.destination_port == _DNS and not flow.zone and not _translated(flow):
            conntrack.delete(flow)


def _translated(flow: Flow) -> bool:
    return flow.reply.reversed() != flow.original
