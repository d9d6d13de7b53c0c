"""What a trace has of a pass over a target: the wait for a worker, what was written, and the reading back.

A pass of a pod that is being enrolled belongs to that trace. Any other one has a trace of its own, which is told when
it wrote something or came to something else than the one before: most passes find all as wanted.
"""

import contextvars
import time
from collections.abc import Callable
from typing import TypeVar

from agent.kernel import batches
from agent.kernel.handle import Handle
from agent.observe import spans
from agent.observe.otlp import Attribute
from agent.observe.tracer import Tracer
from agent.reconcile import read_back as read_back_now
from agent.reconcile import to_be_read_back
from agent.targets import Captured, Outcome, State, Target

_T = TypeVar("_T")


def traced(target: Target, make: Callable[[], _T], outcome_of: Callable[[_T], Outcome]) -> _T:
    """Make a pass, in a worker; return what it made, and tell of it where anything is traced."""
    tracer = spans.tracer()
    if tracer is None:
        return make()
    asked, began, sent = spans.asked_at(), time.time_ns(), batches.sent()
    trace = tracer.open.get(target.name)
    if trace is None or trace.held is not None:
        trace = spans.begin("pass", target.name, held=True, start=asked)
        if trace is None:
            return make()
        source = "daemon" if trace.parent is None else "request"
        trace.attributes |= {"weir.source": source, "weir.target": target.name, "weir.netns": target.netns}
    spans.enter(target.name)
    made, ended = make(), time.time_ns()
    outcome = outcome_of(made)
    tracer.span(trace, "wait for worker", asked, began, {})
    attributes = _attributes(outcome, batches.sent() - sent)
    failed = outcome.reason if outcome.state is State.FAILED else ""
    tracer.span(trace, "apply" if outcome.plan else "look", began, ended, attributes, error=failed)
    return made


def read_back(outcome: Outcome, handle: Handle) -> Outcome:
    """Return the outcome after what was written has been read back, as `agent.reconcile.read_back`; and tell of it."""
    with spans.within(outcome.target.name), spans.child("read back"):
        return read_back_now(outcome, handle)


def report(outcome: Outcome, observe: Callable[[Outcome], None]) -> None:
    """Have an outcome observed as part of its trace, which ends where the pass does; in the loop's thread."""
    with spans.within(outcome.target.name):
        observe(outcome)
    _settle(outcome)


def _settle(outcome: Outcome) -> None:
    tracer = spans.tracer()
    trace = tracer.open.get(outcome.target.name) if tracer is not None else None
    if tracer is None or trace is None or trace.held is None or to_be_read_back(outcome):
        return
    failed = outcome.reason if outcome.state is State.FAILED else ""
    trace.attributes |= {"weir.state": str(outcome.state), "weir.reason": outcome.reason}
    spans.end(outcome.target.name, error=failed, told=_matters(tracer, outcome) or trace.parent is not None)


def apart() -> contextvars.Context | None:
    """Return a context for a target's own task, which outlives every trace; None, which is any, without tracing."""
    return spans.apart()


def forget(name: str) -> None:
    """Keep nothing of a target that is kept no longer."""
    tracer = spans.tracer()
    if tracer is not None:
        tracer.last.pop(name, None)
        trace = tracer.open.get(name)
        if trace is not None and trace.held is not None:
            tracer.end(name)


def _matters(tracer: Tracer, outcome: Outcome) -> bool:
    before, now = tracer.last.get(outcome.target.name), (outcome.state, outcome.reason)
    tracer.last[outcome.target.name] = now
    wrote = bool(outcome.plan) and outcome.state not in (State.WAITING, State.FAILED)
    return wrote or (before != now and (outcome.state is not State.UNCHANGED or before is None))


def _attributes(outcome: Outcome, sent: int) -> dict[str, Attribute]:
    found: dict[str, Attribute] = {"weir.state": str(outcome.state), "weir.batch.bytes": sent}
    desired = outcome.plan.rules.desired if outcome.plan is not None else None
    if desired is not None:
        found["weir.rules"] = sum(len(each.rules) for each in desired.chains)
    if isinstance(outcome.target.wish, Captured):
        found["weir.families"] = tuple(map(str, outcome.target.wish.capture.captured_families))
    if outcome.kept:
        found["weir.streams.outside"] = outcome.kept
    return found
