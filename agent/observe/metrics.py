"""Prometheus metrics of the daemon. A series for each target, up to a limit; what was left out is counted."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.observe import spans
from agent.observe.span_metrics import Spans
from agent.targets import Captured, Outcome, State
from rulesets import model

Counted = tuple[Outcome, tuple[model.Counter, ...]]

MOST_TARGETS = 1000
_PASS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)


class Metrics:
    """The daemon's metrics: counted as passes end, and read from the targets when scraped."""

    def __init__(self, counted: Callable[[], Iterable[Counted]], *, most: int = MOST_TARGETS) -> None:
        """`counted` returns the newest outcome of each target, with its rules' counters; `most` have series each."""
        self.registry = CollectorRegistry()
        self._passes = Counter(
            "weir_passes", "Passes over a target, by the state that they ended in.", ["state"], registry=self.registry
        )
        self._changes = Counter("weir_changes", "Passes that wrote rules or routes.", registry=self.registry)
        self._read_backs = Counter(
            "weir_read_backs",
            "Readings by libnftables of rules that were just written, by whether they were as written.",
            ["equal"],
            registry=self.registry,
        )
        self._taken_over = Counter(
            "weir_tables_taken_over",
            "Tables of nobody that were as wanted, and were taken over.",
            registry=self.registry,
        )
        self._seconds = Histogram(
            "weir_pass_seconds", "Time that a pass over a target took.", registry=self.registry, buckets=_PASS_SECONDS
        )
        self._file = Gauge("weir_file_good", "Whether the target file was good when last read.", registry=self.registry)
        for state in State:
            self._passes.labels(state=state)
        for equal in ("true", "false"):
            self._read_backs.labels(equal=equal)
        ProcessCollector(registry=self.registry)
        self.registry.register(_Targets(counted, most))
        if (tracer := spans.tracer()) is not None:
            self.registry.register(Spans(tracer))

    def count(self, outcome: Outcome) -> None:
        """Count a pass that has ended."""
        self._passes.labels(state=outcome.state).inc()
        self._seconds.observe(outcome.seconds, exemplar=spans.exemplar())
        self._taken_over.inc(outcome.taken_over)
        if outcome.plan and outcome.state in (State.APPLIED, State.DEGRADED, State.REMOVED):
            self._changes.inc()

    def count_read_back(self, outcome: Outcome) -> None:
        """Count a reading of what a pass wrote."""
        self._read_backs.labels(equal=str(bool(outcome.read_back)).lower()).inc()

    def file_good(self, good: bool) -> None:
        """Note whether the target file could be used."""
        self._file.set(good)


class _Targets(Collector):
    """Reads the targets' newest outcomes when scraped: nothing is kept twice, and one that is gone leaves no series."""

    def __init__(self, counted: Callable[[], Iterable[Counted]], most: int) -> None:
        self._counted, self._most = counted, most

    def collect(self) -> Iterator[Metric]:
        counted = tuple(self._counted())
        by_state = GaugeMetricFamily("weir_targets", "Targets, by state.", labels=["state"])
        for state in State:
            by_state.add_metric([state], sum(each.state is state for each, _ in counted))
        yield by_state
        shown = counted[: self._most]
        yield GaugeMetricFamily(
            "weir_targets_left_out", "Targets beyond the limit of series.", value=len(counted) - len(shown)
        )
        captured = GaugeMetricFamily(
            "weir_target_captured", "Whether a target that is to be captured is.", labels=["target"]
        )
        kept = GaugeMetricFamily(
            "weir_target_kept_streams", "Streams from before enrolment that stay outside.", labels=["target"]
        )
        draining = GaugeMetricFamily(
            "weir_target_draining_streams", "Captured streams that a release waits for.", labels=["target"]
        )
        rivals = GaugeMetricFamily(
            "weir_target_rivals",
            "Rules of others that take captured traffic from a target (certain) or may, when last looked at.",
            labels=["target", "certain"],
        )
        packets = CounterMetricFamily(
            "weir_rule_packets", "Packets that a rule has matched, when last read.", labels=["target", "rule"]
        )
        size = CounterMetricFamily(
            "weir_rule_bytes",
            "Bytes of the packets that a rule has matched, when last read.",
            labels=["target", "rule"],
        )
        for each, counters in shown:
            name = each.target.name
            if isinstance(each.target.wish, Captured):
                captured.add_metric([name], each.captured)
                certain = sum(rival.certain for rival in each.rivals)
                rivals.add_metric([name, "true"], certain)
                rivals.add_metric([name, "false"], len(each.rivals) - certain)
            kept.add_metric([name], each.kept)
            draining.add_metric([name], each.draining)
            for counter in counters:
                packets.add_metric([name, counter.name], counter.packets)
                size.add_metric([name, counter.name], counter.bytes)
        yield from (captured, kept, draining, rivals, packets, size)
