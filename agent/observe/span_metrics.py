"""Metrics of traces: what was told, what was dropped, and headers that were no use."""

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.observe.exporter import REASONS
from agent.observe.tracer import Tracer


class Spans(Collector):
    """Reads the tracer when scraped."""

    def __init__(self, tracer: Tracer) -> None:
        """Take the tracer."""
        self._tracer = tracer

    def describe(self) -> Iterable[Metric]:
        """Return nothing: what there is is known when it is read."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield how many spans went where."""
        tracer, exporter = self._tracer, self._tracer.exporter
        yield CounterMetricFamily("weir_spans_exported", "Spans that a collector took.", value=exporter.exported)
        dropped = CounterMetricFamily("weir_spans_dropped", "Spans that no collector took.", labels=["reason"])
        for reason in REASONS:
            dropped.add_metric([reason], exporter.dropped[reason])
        yield dropped
        yield GaugeMetricFamily("weir_traces_open", "Traces that go on.", value=len(tracer.open))
        yield CounterMetricFamily(
            "weir_traces_left_out", "Traces that weren't begun, since too many were open.", value=tracer.left_out
        )
        headers = CounterMetricFamily(
            "weir_trace_headers_passed_over",
            "Headers of a trace that could not be read, or that differ from those that count.",
            labels=["reason"],
        )
        headers.add_metric(["unreadable"], tracer.unreadable)
        headers.add_metric(["conflicting"], tracer.conflicting)
        yield headers
