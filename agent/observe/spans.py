"""Traces: one per enrolment of a pod, one per pass that changes a target of the file. Off unless somebody asks for it.

A trace is kept open by the name of its target, since its parts happen in several tasks and threads: what the container
runtime or the API says, the wait for the proxy, the pass in a worker, the reading back, the annotation. Where nothing
is traced, every function here returns at once and nothing is kept of any pod.
"""

import contextvars
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

from agent.observe.otlp import Attributes, Event, Kind
from agent.observe.otlp_settings import OtlpSettings
from agent.observe.propagation import NO_HEADERS, Context, incoming, outgoing
from agent.observe.tracer import Asked, Trace, Tracer

log = logging.getLogger("weir")
_T = TypeVar("_T")
_STOPPING = 2.0  # seconds for what waits when the daemon stops
_MOST_EVENTS = 64  # of a trace
_NOTHING: AbstractContextManager[None] = nullcontext()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where this task or thread is: in a trace, below one of its spans."""

    trace: Trace
    span: Context


_here: contextvars.ContextVar[_Place | None] = contextvars.ContextVar("place", default=None)
_request: contextvars.ContextVar[Asked | None] = contextvars.ContextVar("request", default=None)
_asked: contextvars.ContextVar[int] = contextvars.ContextVar("asked", default=0)


_tracer: Tracer | None = None


def start(settings: OtlpSettings) -> None:
    """Begin to trace: this process has one tracer, as it has one log."""
    global _tracer  # noqa: PLW0603 (as the log's level is: what is traced can't depend on who asks)
    _tracer = Tracer(settings)
    _tracer.exporter.start()
    log.info("traces go to %s as %s", settings.url, settings.protocol)


def stop() -> None:
    """End what is open, send what waits for a few seconds at most, and trace no more."""
    global _tracer
    tracer, _tracer = _tracer, None
    if tracer is not None:
        for key in tuple(tracer.open):
            tracer.end(key, error="the agent stops")
        tracer.exporter.close(_STOPPING)


def tracer() -> Tracer | None:
    """Return the tracer; None where nothing is traced."""
    return _tracer


def begin(name: str, key: str, *, held: bool = False, start: int = 0) -> Trace | None:
    """Begin a target's trace, and be in it; the request that this answers, if it does, is its parent.

    It begins at `start` (nanoseconds since 1970), when the request came, or now. None where nothing is traced. With
    `held` its spans are kept until it is known at the end whether they matter.
    """
    if _tracer is None:
        return None
    asked = _request.get() or _tracer.asked.pop(key, None)
    trace = _tracer.begin(
        name,
        key=key,
        request=asked.headers if asked else NO_HEADERS,
        kind=Kind.SERVER if asked else Kind.INTERNAL,
        held=held,
        start=asked.at if asked else start,
    )
    enter(key)
    return trace


def end(key: str, *, error: str = "", told: bool = True) -> None:
    """End a target's trace, if one is open; one that isn't `told` never was."""
    if _tracer is not None:
        _tracer.end(key, error=error, told=told)


# Where this task or thread is.


def here() -> Context | None:
    """Return the span that this task or thread works for."""
    place = _here.get() if _tracer is not None else None
    return None if place is None else place.span


def exemplar() -> dict[str, str] | None:
    """Return the labels of an exemplar, where what happens here is recorded."""
    context = here()
    return {"trace_id": context.trace_id, "span_id": context.span_id} if context and context.sampled else None


def headers() -> dict[str, str]:
    """Return the headers that have others go on from here; none where nothing is traced."""
    context = here()
    return outgoing(context, _tracer.settings.forms) if context and _tracer is not None else {}


def reading(given: Iterable[tuple[str, str]]) -> AbstractContextManager[None]:
    """Have traces that are begun inside go on from what a request's headers say."""
    return _NOTHING if _tracer is None else _reading(_tracer, given)


@contextmanager
def _reading(tracer: Tracer, given: Iterable[tuple[str, str]]) -> Iterator[None]:
    found = incoming(given)
    tracer.unreadable += len(found.faults)
    tracer.conflicting += len(found.conflicts)
    for each in (*found.faults, *found.conflicts):
        log.debug("headers of a trace: %s", each)
    request = _request.set(Asked(found, time.time_ns()))
    place = _here.set(None)  # one connection's requests share a task, and what it has set
    try:
        yield
    finally:
        _here.reset(place)
        _request.reset(request)


def asking(given: Iterable[tuple[str, str]], keys: Iterable[str]) -> AbstractContextManager[None]:
    """Have the next traces of these targets, which others begin meanwhile, go on from what headers say."""
    return _NOTHING if _tracer is None else _asking(_tracer, given, tuple(keys))


@contextmanager
def _asking(tracer: Tracer, given: Iterable[tuple[str, str]], keys: tuple[str, ...]) -> Iterator[None]:
    with _reading(tracer, given):
        request = _request.get()
        if request is not None and request.headers.context is not None:
            tracer.asked |= dict.fromkeys(keys, request)
        try:
            yield
        finally:
            for key in keys:
                tracer.asked.pop(key, None)


def enter(key: str) -> None:
    """Be in a target's trace from here on, as far as this task or request goes."""
    if _tracer is not None:
        trace = _tracer.open.get(key)
        _here.set(_Place(trace, trace.context) if trace is not None else None)


def within(key: str) -> AbstractContextManager[None]:
    """Be in a target's trace; in none where it has none."""
    return _NOTHING if _tracer is None else _within(_tracer, key)


@contextmanager
def _within(tracer: Tracer, key: str) -> Iterator[None]:
    trace = tracer.open.get(key)
    token = _here.set(_Place(trace, trace.context) if trace is not None else None)
    try:
        yield
    finally:
        _here.reset(token)


def child(name: str, attributes: Attributes | None = None) -> AbstractContextManager[None]:
    """Tell of what happens inside as a span of the trace that this is in, if any."""
    place = _here.get() if _tracer is not None else None
    return _NOTHING if _tracer is None or place is None else _child(_tracer, place, name, attributes or {})


@contextmanager
def _child(tracer: Tracer, place: _Place, name: str, attributes: Attributes) -> Iterator[None]:
    began, trace = time.time_ns(), place.trace
    span = Context(trace.context.trace_id, secrets.token_hex(8), trace.context.sampled, trace.context.state)
    token, error = _here.set(_Place(trace, span)), ""
    try:
        yield
    except BaseException as raised:
        error = str(raised) or raised.__class__.__name__
        raise
    finally:
        _here.reset(token)
        parent = place.span.span_id
        tracer.span(trace, name, began, time.time_ns(), attributes, error=error, span_id=span.span_id, parent=parent)


def waits(name: str) -> None:
    """Take note that something is waited for, in the trace that this is in."""
    place = _here.get() if _tracer is not None else None
    if place is not None:
        place.trace.marks.setdefault(name, time.time_ns())


def has_come(name: str, attributes: Attributes | None = None) -> None:
    """Tell of what was waited for as a span."""
    place = _here.get() if _tracer is not None else None
    if place is not None and _tracer is not None and (began := place.trace.marks.pop(name, None)) is not None:
        _tracer.span(place.trace, name, began, time.time_ns(), attributes or {})


def event(name: str, attributes: Attributes | None = None) -> None:
    """Take note of a moment in the trace that this is in."""
    place = _here.get() if _tracer is not None else None
    if place is not None and len(place.trace.events) < _MOST_EVENTS:
        place.trace.events.append(Event(name=name, at=time.time_ns(), attributes=attributes or {}))


# Over threads and tasks.


def carried(call: Callable[[], _T]) -> Callable[[], _T]:
    """Return a call that another thread makes as if here, and that knows since when it was asked for."""
    if _tracer is None:
        return call
    context = contextvars.copy_context()
    context.run(_asked.set, time.time_ns())
    return lambda: context.run(call)


def asked_at() -> int:
    """Return when this thread was asked for what it does, in nanoseconds since 1970."""
    return _asked.get() or time.time_ns()


def apart() -> contextvars.Context | None:
    """Return a context for a task that belongs to no trace; None, which is any, where nothing is traced."""
    if _tracer is None:
        return None
    context = contextvars.copy_context()
    context.run(_here.set, None)
    context.run(_request.set, None)
    return context
