"""The story: from what is wanted of a namespace to what is true there.

One pass looks, compares, and writes only what differs; it can be repeated at any time and after any kill. The order is
fixed: the proxy answers, then rules and routes, then the table. Every other one loses connections. A pass ends with the
kernel's acknowledgement, for which a starting pod waits; `read_back` has libnftables bear witness afterwards.
"""

import errno
import shlex
import time
from dataclasses import replace
from functools import lru_cache

from agent import enrol, streams
from agent.comparison import compare
from agent.drift.digest import digest
from agent.errors import GenerationMoved, KernelError, TableHeld, WeirError
from agent.guards import is_guarded
from agent.kernel import routing
from agent.kernel.conntrack import Conntrack
from agent.kernel.handle import Handle
from agent.kernel.sockets import Listener, SocketDiag
from agent.observed import Observed, in_words, observe
from agent.removal import Release, release
from agent.state import Record, Records, now
from agent.targets import Absent, Captured, Outcome, State, Target, TargetPlan
from agent.words import counted
from rulesets import pod
from rulesets.capture import Capture
from rulesets.pod.recalled import recall
from rulesets.routing import RoutingPlan

# How often draining streams are looked at, in seconds.
DRAIN_INTERVAL = 1.0
# Seconds that what follows a pass leaves to whoever has waited for it: one interpreter runs all threads, one at a time,
# and an answer that is known is to be sent first.
BEHIND_THE_ANSWER = 0.003
_FIRST_THE_PROXY = 'start the proxy in the namespace, or narrow `families`; when_proxy_absent = "capture" doesn\'t wait'
_FIRST_THE_CGROUP = "start the proxy's service; `cat /proc/PID/cgroup` shows a process's cgroup, behind 0::/"
_MORE_FILES = "raise LimitNOFILE of the unit, or fs.file-max"
_ATTEMPTS = 5  # at a pass in which somebody else changes our table between the look and the write


def plan(target: Target, handle: Handle) -> TargetPlan:
    """Return what a reconcile would change. Writes nothing."""
    return compare(target, observe(handle, target)).plan


def reconcile(
    target: Target, handle: Handle, records: Records, *, listeners: frozenset[Listener] | None = None
) -> Outcome:
    """Make the wish true, or say in words why it is not. Never raises a `WeirError`: it is the outcome's reason.

    `listeners` is who listens there, where that has been looked up in this moment.
    """
    started = time.monotonic()
    try:
        with records.held(handle.netns.identity):
            outcome = _pass(target, handle, records, listeners)
    except WeirError as error:
        guarded = isinstance(error, TableHeld) and is_guarded(records.directory, handle.netns.identity)
        hint = confirming(target) if guarded else error.hint
        outcome = Outcome(target=target, state=State.FAILED, reason=str(error), hint=hint)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        outcome = Outcome(target=target, state=State.FAILED, reason=error.strerror or str(error), hint=_MORE_FILES)
    return replace(outcome, seconds=time.monotonic() - started)


def confirming(target: Target) -> str:
    """Return what to do about a change of a target that waits to be confirmed."""
    keep = f"`weir confirm --netns {shlex.quote(target.netns)}` keeps it"
    return f"a change of `weir apply --confirm` waits there: {keep}; else wait until it is undone"


def read_back(outcome: Outcome, handle: Handle) -> Outcome:
    """Return the outcome after libnftables has listed what was written: FAILED with the difference, if there is one.

    One that wrote nothing stays as it is. Never raises a `WeirError`.
    """
    if not to_be_read_back(outcome) or outcome.plan is None or outcome.plan.rules.desired is None:
        return outcome
    try:
        enrol.verify(handle, outcome.plan.rules.desired)
    except WeirError as error:
        return replace(outcome, state=State.FAILED, reason=str(error), hint=error.hint, captured=False, read_back=False)
    written = outcome.state is State.APPLIED
    reason = _done(outcome.kept, changed=True, read_back=True) if written else outcome.reason
    return replace(outcome, reason=reason, read_back=True)


def to_be_read_back(outcome: Outcome) -> bool:
    """Tell whether rules were written, and nobody has read them back yet."""
    return bool(outcome.plan) and outcome.state in (State.APPLIED, State.DEGRADED) and outcome.read_back is None


def _pass(target: Target, handle: Handle, records: Records, listeners: frozenset[Listener] | None) -> Outcome:
    for _ in range(_ATTEMPTS):
        try:
            match target.wish:
                case Captured(capture=capture):
                    return _capture(target, capture, handle, records, listeners)
                case Absent(drain=drain):
                    return _release(target, drain, handle, records)
        except GenerationMoved as error:
            moved = error
    raise moved


def _capture(
    target: Target, wanted: Capture, handle: Handle, records: Records, listeners: frozenset[Listener] | None
) -> Outcome:
    observed = observe(handle, target, listeners=listeners)
    compared = compare(target, observed)
    capture, change, closed = compared.capture, compared.plan, compared.closed
    awaited = compared.awaited(steady=enrol.is_steady(observed.ruleset))
    if awaited:
        return Outcome(
            target=target,
            state=State.WAITING,
            reason=awaited,
            hint=_FIRST_THE_CGROUP if awaited == compared.missing else _FIRST_THE_PROXY,
            plan=change,
        )
    known = records.read(handle.netns.identity, handle.cookie)
    record = _record(target, wanted, handle, known, by_daemon=records.by_daemon)
    if change or not record.rules:
        record = replace(record, rules=_mark(capture, target.table))
    if change:
        # First what a removal needs to know, then what it would have to remove.
        records.write(handle.netns.identity, replace(record, settled=False))
        record = _with_kept(record, _write(handle, capture, observed, change))
    elif known is None or not known.settled:
        # Written before, but the flows were perhaps not seen to: whoever wrote was killed.
        record = _with_kept(record, _settle(capture, handle, target.table))
    else:
        record = _with_kept(record, _kept_streams(capture, handle, record))
    if change or record != known:  # before a change it was written as not settled
        records.write(handle.netns.identity, record)
    # What was just written is held already.
    taken_over = not change.rules and handle.hold(pod.build(capture, table=target.table))
    troubles = [*compared.left_out, *filter(None, (in_words(closed), compared.missing))]
    state = State.DEGRADED if troubles else State.APPLIED if change else State.UNCHANGED
    return Outcome(
        target=target,
        state=state,
        reason="; ".join(troubles) or _done(record.kept, changed=bool(change)),
        plan=change,
        captured=compared.whole,
        kept=record.kept,
        taken_over=taken_over,
        again=None if record.kept_until is None or not record.kept else max(0.0, record.kept_until - now()),
    )


@lru_cache(maxsize=64)
def _mark(capture: Capture, table: str) -> str:
    """Return the mark of a capture's rules, which most pods of a node share: it takes 0.3 ms."""
    return digest(pod.build(capture, table=table))


def _done(kept: int, *, changed: bool, read_back: bool = False) -> str:
    how = "rules and routes were written" + (" and read back equal" if read_back else "")
    outside = f"; {counted(kept, 'stream')} from before outside" if kept else ""
    return (how if changed else "all is as wanted") + outside


def _write(handle: Handle, capture: Capture, observed: Observed, change: TargetPlan) -> int:
    """Write new routes, the table, then drop old routes; return how many streams stay outside.

    Where the table can't be written, new routes go again.
    """
    both = observed.routing.together(change.routing.desired)
    with handle.inside():
        routing.apply(RoutingPlan(actual=observed.routing, desired=both))
    generation = handle.generation()
    try:
        desired = pod.build(capture, table=change.rules.table)
        if change.rules:
            kept = enrol.enrol(handle, capture, observed.ruleset, desired)
        else:
            with handle.inside(), SocketDiag() as diag, Conntrack() as conntrack:
                kept = len(streams.kept(diag, conntrack, capture))
    except KernelError:
        # What was written before it went wrong needs its routes, and is taken up by the next attempt.
        if handle.generation() == generation or not enrol.redirects(handle.look(change.rules.table)):
            with handle.inside():
                routing.apply(RoutingPlan(actual=routing.read(capture.route_table), desired=observed.routing))
        raise
    with handle.inside():
        routing.apply(RoutingPlan(actual=both, desired=change.routing.desired))
    return kept


def _settle(capture: Capture, handle: Handle, table: str) -> int:
    with handle.inside(), SocketDiag() as diag, Conntrack() as conntrack:
        return enrol.settle(diag, conntrack, capture, None, pod.build(capture, table=table))


def _record(target: Target, capture: Capture, handle: Handle, known: Record | None, *, by_daemon: bool) -> Record:
    """Return what is to be remembered of a captured namespace: what was known, less a drain that no longer holds."""
    same = known is not None and known.kept_deadline == capture.kept_deadline
    return Record(
        name=target.name,
        netns=target.netns,
        cookie=handle.cookie,
        ports=capture.proxy_ports,
        by_daemon=by_daemon,
        rules=known.rules if known else "",
        kept=known.kept if known else 0,
        kept_deadline=capture.kept_deadline,
        kept_until=known.kept_until if known and same else None,
    )


def _with_kept(record: Record, kept: int) -> Record:
    """Return the record with the number of streams that stay outside; their time runs from the first one on."""
    until = record.kept_until if kept else None
    if kept and until is None and record.kept_deadline is not None:
        until = now() + record.kept_deadline
    return replace(record, kept=kept, kept_until=until, settled=True)


def _kept_streams(capture: Capture, handle: Handle, record: Record) -> int:
    """Count the streams that stay outside, and end them when their time is over."""
    if not record.kept:
        return 0
    with handle.inside(), SocketDiag() as diag, Conntrack() as conntrack:
        if record.kept_until is not None and now() >= record.kept_until:
            streams.end_kept(diag, conntrack, capture)
        return len(streams.kept(diag, conntrack, capture))


def _going_on(came: Release, remaining: float) -> str:
    left = f"{counted(len(came.draining), 'captured stream')} left"
    if came.lacking:
        return f"{left}, and this kernel can't end them: {came.lacking}"
    return f"{left}, for {remaining:.0f} s at most"


def _release(target: Target, drain: float, handle: Handle, records: Records) -> Outcome:
    identity = handle.netns.identity
    known = records.read(identity, handle.cookie)
    change = plan(target, handle)
    table = change.rules.table or target.table
    if not change:
        records.forget(identity)
        return Outcome(target=target, state=State.UNCHANGED, reason="nothing of Weir is there", plan=change)
    capture = recall(change.rules.actual, known.ports if known else {})
    record = known or Record(name=target.name, netns=target.netns, cookie=handle.cookie, ports=capture.proxy_ports)
    if record.drain_until is None or record.drain != drain:
        record = replace(record, drain=drain, drain_until=now() + drain)
        records.write(identity, record)
    remaining = (record.drain_until or 0.0) - now()
    try:
        came = release(handle, capture, change.rules.actual, table, patient=remaining > 0)
    except WeirError:
        if enrol.is_steady(handle.look(table)):
            # It has not begun, so nobody is to take it up.
            records.restore(identity, known)
        raise
    if not came.done:
        return Outcome(
            target=target,
            state=State.DRAINING,
            reason=_going_on(came, remaining),
            plan=change,
            draining=len(came.draining),
            again=DRAIN_INTERVAL if came.lacking else min(DRAIN_INTERVAL, remaining),
        )
    records.forget(identity)
    ended = f"; {counted(came.ended, 'socket')} of captured streams ended with an error" if came.ended else ""
    return Outcome(target=target, state=State.REMOVED, reason=f"rules and routes are gone{ended}", plan=change)
