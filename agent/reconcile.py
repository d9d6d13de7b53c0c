"""The story: from what is wanted of a namespace to what is true there.

One pass looks, compares, and writes only what differs; it can be repeated at any time and after any kill. The order is
fixed: the proxy answers, then rules and routes, then the table. Every other one loses connections.
"""

import time
from dataclasses import replace

from agent import enrol, streams
from agent.errors import KernelError, TargetError, WeirError
from agent.kernel import routing
from agent.kernel.conntrack import Conntrack
from agent.kernel.handle import Handle
from agent.kernel.ipv6 import Ipv6
from agent.kernel.sockets import SocketDiag
from agent.observed import Observed, in_words, observe, unanswered
from agent.removal import release
from agent.state import Record, Records, now
from agent.targets import Absent, Captured, Outcome, State, Target, TargetPlan
from rulesets import pod
from rulesets import routing as routes
from rulesets.capture import Capture, ProxyAbsent, Uncapturable
from rulesets.diff import diff
from rulesets.pod.recalled import recall
from rulesets.routing import NO_ROUTING, RoutingPlan
from rulesets.vocabulary import Family

# How often draining streams are looked at, in seconds.
DRAIN_INTERVAL = 1.0


def plan(target: Target, handle: Handle) -> TargetPlan:
    """Return what a reconcile would change. Writes nothing."""
    observed = observe(handle, target.table)
    match target.wish:
        case Captured(capture=capture):
            return _plan(target, _capturable(capture, observed), observed)
        case Absent():
            return TargetPlan(
                rules=diff(observed.ruleset, None), routing=RoutingPlan(actual=observed.routing, desired=NO_ROUTING)
            )


def reconcile(target: Target, handle: Handle, records: Records) -> Outcome:
    """Make the wish true, or say in words why it is not. Never raises a `WeirError`: it is the outcome's reason."""
    started = time.monotonic()
    try:
        with records.held(handle.netns.identity):
            match target.wish:
                case Captured(capture=capture):
                    outcome = _capture(target, capture, handle, records)
                case Absent(drain=drain):
                    outcome = _release(target, drain, handle, records)
    except WeirError as error:
        outcome = Outcome(target=target, state=State.FAILED, reason=str(error), hint=error.hint)
    return replace(outcome, seconds=time.monotonic() - started)


def _capture(target: Target, wanted: Capture, handle: Handle, records: Records) -> Outcome:
    observed = observe(handle, target.table)
    capture = _capturable(wanted, observed)
    change = _plan(target, capture, observed)
    closed = unanswered(capture, observed.listeners, _redirected(capture, observed))
    if closed and wanted.when_proxy_absent is ProxyAbsent.WAIT and not enrol.is_steady(observed.ruleset):
        return Outcome(
            target=target,
            state=State.WAITING,
            reason=in_words(closed),
            hint='start the proxy in the namespace, or narrow `families`; when_proxy_absent = "capture" doesn\'t wait',
            plan=change,
        )
    record = _record(target, wanted, handle, records)
    if change:
        records.write(handle.netns.identity, replace(record, drain_until=None))
        record = replace(record, kept=_write(handle, capture, observed, change), drain_until=None)
        enrol.verify(handle, pod.build(capture, table=target.table))
        records.write(handle.netns.identity, record)
    else:
        record = _kept_streams(capture, handle, records, record)
    troubles = [*_left_out(wanted, capture, observed), *([in_words(closed)] if closed else [])]
    state = State.DEGRADED if troubles else State.APPLIED if change else State.UNCHANGED
    return Outcome(
        target=target,
        state=state,
        reason="; ".join(troubles) or _done(record, changed=bool(change)),
        plan=change,
        kept=record.kept,
        again=None if record.kept_until is None or not record.kept else max(0.0, record.kept_until - now()),
    )


def _done(record: Record, *, changed: bool) -> str:
    outside = f"; {record.kept} streams from before stay outside" if record.kept else ""
    return ("rules and routes were written and read back equal" if changed else "all is as wanted") + outside


def _capturable(capture: Capture, observed: Observed) -> Capture:
    """Return the capture less the families that can't be redirected in this namespace."""
    if observed.ipv6 is not Ipv6.OFF_ON_LOOPBACK:
        return capture
    left = tuple(each for each in capture.captured_families if each in observed.capturable)
    if not left:
        raise TargetError(
            f"families = {list(capture.captured_families)}: IPv6 is {observed.ipv6}, so nothing can be captured",
            hint="sysctl -w net.ipv6.conf.lo.disable_ipv6=0 in the namespace",
        )
    return replace(capture, families=left)


def _redirected(capture: Capture, observed: Observed) -> tuple[Family, ...]:
    return tuple(each for each in capture.captured_families if each in observed.capturable)


def _left_out(wanted: Capture, capture: Capture, observed: Observed) -> list[str]:
    """Say which families the namespace has and that are not captured, and what becomes of them."""
    fate = "refused" if capture.uncapturable is Uncapturable.REJECT else "direct, outside the mesh"
    said = []
    for family in observed.families:
        if family not in wanted.captured_families:
            said.append(f"{family} is not among families: its connections are {fate}")
        elif family not in capture.captured_families:
            said.append(f"IPv6 is {observed.ipv6}, so it can't be captured: its connections are {fate}")
    if not any(each in observed.families for each in capture.captured_families):
        said.append(f"families names only {', '.join(capture.captured_families)}: IPv6 is {observed.ipv6}")
    return said


def _plan(target: Target, capture: Capture, observed: Observed) -> TargetPlan:
    return TargetPlan(
        rules=diff(observed.ruleset, pod.build(capture, table=target.table)),
        routing=RoutingPlan(actual=observed.routing, desired=routes.build(capture, observed.capturable)),
    )


def _write(handle: Handle, capture: Capture, observed: Observed, change: TargetPlan) -> int:
    """Write routes, then the table, and return how many streams stay outside; without the table, no new routes."""
    with handle.inside():
        routing.apply(change.routing)
    try:
        if not change.rules:
            with handle.inside(), SocketDiag() as diag, Conntrack() as conntrack:
                return len(streams.kept(diag, conntrack, capture))
        desired = pod.build(capture, table=change.rules.table)
        return enrol.enrol(handle, capture, observed.ruleset, desired)
    except KernelError:
        with handle.inside():
            routing.apply(RoutingPlan(actual=routing.read(), desired=observed.routing))
        raise


def _record(target: Target, capture: Capture, handle: Handle, records: Records) -> Record:
    known = records.read(handle.netns.identity, handle.cookie)
    if known is not None and known.kept_deadline == capture.kept_deadline:
        return known
    return Record(
        name=target.name,
        netns=target.netns,
        cookie=handle.cookie,
        ports=capture.proxy_ports,
        kept_deadline=capture.kept_deadline,
        kept_until=None if capture.kept_deadline is None else now() + capture.kept_deadline,
    )


def _kept_streams(capture: Capture, handle: Handle, records: Records, record: Record) -> Record:
    """Count the streams that stay outside, and end them when their time is over."""
    if not record.kept:
        return record
    with handle.inside(), SocketDiag() as diag, Conntrack() as conntrack:
        if record.kept_until is not None and now() >= record.kept_until:
            streams.end_kept(diag, conntrack, capture)
        outside = len(streams.kept(diag, conntrack, capture))
    if outside != record.kept:
        record = replace(record, kept=outside)
        records.write(handle.netns.identity, record)
    return record


def _release(target: Target, drain: float, handle: Handle, records: Records) -> Outcome:
    identity = handle.netns.identity
    known = records.read(identity, handle.cookie)
    change = plan(target, handle)
    if not change:
        records.forget(identity)
        return Outcome(target=target, state=State.UNCHANGED, reason="nothing of Weir is there", plan=change)
    capture = recall(change.rules.actual, known.ports if known else {})
    record = known or Record(name=target.name, netns=target.netns, cookie=handle.cookie, ports=capture.proxy_ports)
    if record.drain_until is None:
        record = replace(record, drain_until=now() + drain)
        records.write(identity, record)
    remaining = (record.drain_until or 0.0) - now()
    came = release(handle, capture, change.rules.actual, target.table, patient=remaining > 0)
    if not came.done:
        return Outcome(
            target=target,
            state=State.DRAINING,
            reason=f"{len(came.draining)} captured streams go on, for {remaining:.0f} s at most",
            plan=change,
            draining=len(came.draining),
            again=min(DRAIN_INTERVAL, remaining),
        )
    records.forget(identity)
    ended = f"; {came.ended} sockets of captured streams were ended" if came.ended else ""
    return Outcome(target=target, state=State.REMOVED, reason=f"rules and routes are gone{ended}", plan=change)
