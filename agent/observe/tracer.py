"""The tracer: traces that are open, by the name of their target, and what becomes of their spans."""

import secrets
import time
from dataclasses import dataclass

from agent.observe.exporter import Exporter
from agent.observe.otlp import Attribute, Attributes, Event, Kind, Span
from agent.observe.otlp_settings import OtlpSettings
from agent.observe.propagation import NO_HEADERS, Context, Incoming

MOST_OPEN = 4096  # traces


class Trace:
    """A trace that goes on: its first span, and what else is known of it. To be had from `Tracer.begin`."""

    __slots__ = ("attributes", "context", "events", "held", "kind", "marks", "name", "parent", "start")

    def __init__(
        self, context: Context, parent: Context | None, name: str, kind: Kind, start: int, held: list[Span] | None
    ) -> None:
        """`held` collects spans until the end decides whether they are told; None tells them at once."""
        self.context, self.parent, self.name, self.kind, self.start = context, parent, name, kind, start
        self.attributes: dict[str, Attribute] = {}
        self.events: list[Event] = []
        self.marks: dict[str, int] = {}  # when what is still waited for began
        self.held = held


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: what its headers say, and when it came, in nanoseconds since 1970."""

    headers: Incoming
    at: int


class Tracer:
    """All traces of a process."""

    def __init__(self, settings: OtlpSettings) -> None:
        """Take where they go."""
        self.settings = settings
        self.exporter = Exporter(settings)
        self.open: dict[str, Trace] = {}  # by target
        self.last: dict[str, object] = {}  # what the newest pass over a target came to
        self.asked: dict[str, Asked] = {}  # whose next pass somebody waits for
        self.unreadable = self.conflicting = self.left_out = 0

    def begin(
        self,
        name: str,
        *,
        key: str,
        request: Incoming = NO_HEADERS,
        kind: Kind = Kind.INTERNAL,
        held: bool = False,
        start: int = 0,
    ) -> Trace | None:
        """Begin a trace of a target; None where too many are open. An earlier one of the same target ends.

        `request` is what the headers of whoever asked for it say; it begins at `start` (nanoseconds since 1970) or now.
        """
        self.end(key, error="another one has begun")
        if len(self.open) >= MOST_OPEN:
            self.left_out += 1
            return None
        parent = request.context
        trace_id = parent.trace_id if parent else secrets.token_hex(16)
        by_others = request.sampled if self.settings.by_parent else None
        sampled = self._wanted(trace_id) if by_others is None else by_others
        context = Context(trace_id, secrets.token_hex(8), sampled, parent.state if parent else "")
        trace = Trace(context, parent, name, kind, start or time.time_ns(), [] if held else None)
        self.open[key] = trace
        return trace

    def _wanted(self, trace_id: str) -> bool:
        return int(trace_id[16:], 16) < self.settings.ratio * 2**64

    def span(
        self,
        trace: Trace,
        name: str,
        start: int,
        end: int,
        attributes: Attributes,
        *,
        error: str = "",
        span_id: str = "",
        parent: str = "",
    ) -> None:
        """Tell of a span of a trace, by default right below its first."""
        if trace.context.sampled:
            self._take(
                trace,
                Span(
                    trace_id=trace.context.trace_id,
                    span_id=span_id or secrets.token_hex(8),
                    parent_id=parent or trace.context.span_id,
                    name=name,
                    start=start,
                    end=max(start, end),
                    attributes=attributes,
                    error=error,
                    state=trace.context.state,
                ),
            )

    def _take(self, trace: Trace, span: Span) -> None:
        if trace.held is not None:
            trace.held.append(span)
        else:
            self.exporter.take(span)

    def end(self, key: str, *, error: str = "", told: bool = True) -> None:
        """End a target's trace, if one is open; one that isn't `told` never was."""
        trace = self.open.pop(key, None)
        if trace is None or not trace.context.sampled or not told:
            return
        for each in trace.held or ():
            self.exporter.take(each)
        parent = trace.parent
        self.exporter.take(
            Span(
                trace_id=trace.context.trace_id,
                span_id=trace.context.span_id,
                parent_id=parent.span_id if parent else "",
                name=trace.name,
                start=trace.start,
                end=max(trace.start, time.time_ns()),
                kind=trace.kind,
                attributes=dict(trace.attributes),
                events=tuple(trace.events),
                error=error,
                state=trace.context.state,
                remote=parent is not None,
            )
        )
