"""Metrics of targets' connections: counts of connection tracking, states, and opted-in events as histograms."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from agent.flows.look import SILENCES, STATES, Look
from agent.flows.scraping import Reading
from agent.flows.totals import BYTES, DIRECTIONS, EVENTS, SECONDS, Totals
from agent.kernel.conntrack import Stats


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a scrape sees: readings of targets, how many are beyond the limit, and events of those that asked for them.

    `starts` is how often the process that hears of events was started; None where nobody has asked for it.
    """

    readings: tuple[Reading, ...] = ()
    left_out: int = 0
    totals: dict[str, Totals] | None = None
    starts: int | None = None


class FlowMetrics(Collector):
    """Writes what was read for this scrape; one that is gone leaves no series."""

    def __init__(self, seen: Callable[[], Seen]) -> None:
        """`seen` returns what there is, without reading anything."""
        self._seen = seen

    def describe(self) -> Iterable[Metric]:
        """Tell of no metric beforehand: else the registry asks for everything before there is anything."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Return the metrics."""
        seen = self._seen()
        yield GaugeMetricFamily(
            "weir_conntrack_left_out", "Targets beyond the limit of series of their own.", value=seen.left_out
        )
        yield from _counts(seen.readings)
        yield from _looks([(each.name, each.look) for each in seen.readings if each.look is not None])
        if seen.starts is not None:
            yield CounterMetricFamily(
                "weir_connection_listener_starts",
                "Starts of the process that hears of connections; each after the first follows a death.",
                value=seen.starts,
            )
            yield from _events(seen.totals or {})


_COUNTERS: tuple[tuple[str, str, Callable[[Stats], int]], ...] = (
    ("insert_failed", "Entries that found their place taken.", lambda stats: stats.insert_failed),
    ("drops", "Packets dropped for want of room or memory.", lambda stats: stats.drops),
    ("early_drops", "Entries thrown out early to make room.", lambda stats: stats.early_drops),
    ("invalid", "Packets that fit no connection.", lambda stats: stats.invalid),
)


def _counts(readings: Iterable[Reading]) -> Iterator[Metric]:
    entries = GaugeMetricFamily("weir_conntrack_entries", "Entries of conntrack in a target.", labels=["target"])
    most = GaugeMetricFamily("weir_conntrack_maximum", "Entries that a target may have.", labels=["target"])
    full = GaugeMetricFamily(
        "weir_conntrack_full_seconds",
        "Time until a target has as many entries as it may, if they go on growing so; absent where they don't.",
        labels=["target"],
    )
    counters = [CounterMetricFamily(f"weir_conntrack_{name}", text, labels=["target"]) for name, text, _ in _COUNTERS]
    for each in readings:
        entries.add_metric([each.name], each.stats.entries)
        if each.stats.maximum is not None:
            most.add_metric([each.name], each.stats.maximum)
        if each.full_seconds is not None:
            full.add_metric([each.name], each.full_seconds)
        for counter, (_, _, number) in zip(counters, _COUNTERS, strict=True):
            counter.add_metric([each.name], number(each.stats))
    yield from (entries, most, full, *counters)


def _looks(looks: Iterable[tuple[str, Look]]) -> Iterator[Metric]:
    states = GaugeMetricFamily(
        "weir_conntrack_states",
        "TCP connections of a target by state, when last looked at.",
        labels=["target", "state"],
    )
    captured = GaugeMetricFamily(
        "weir_conntrack_captured", "Open connections of applications that the proxy carries.", labels=["target"]
    )
    direct = GaugeMetricFamily(
        "weir_conntrack_direct", "Open connections of applications past the proxy.", labels=["target"]
    )
    expiring = GaugeMetricFamily(
        "weir_conntrack_expiring",
        "Open, silent, captured streams whose conntrack entry runs out within two minutes, with no keepalive before.",
        labels=["target"],
    )
    idle = GaugeHistogramMetricFamily(
        "weir_connection_idle_seconds",
        "Open connections of a target by how long they have been silent.",
        labels=["target"],
    )
    for name, look in looks:
        for state in STATES:
            states.add_metric([name, state], look.states[state])
        captured.add_metric([name], look.captured)
        direct.add_metric([name], look.direct)
        expiring.add_metric([name], len(look.expiring))
        idle.add_metric([name], _summed(SILENCES, look.silences), look.silent)
    yield from (states, captured, direct, expiring, idle)


def _events(totals: dict[str, Totals]) -> Iterator[Metric]:
    seconds = HistogramMetricFamily(
        "weir_connection_seconds", "How long TCP connections lasted that have ended.", labels=["target", "path"]
    )
    size = HistogramMetricFamily(
        "weir_connection_bytes", "Bytes of TCP connections that have ended.", labels=["target", "direction"]
    )
    packets = CounterMetricFamily(
        "weir_connection_packets", "Packets of TCP connections that have ended.", labels=["target", "direction"]
    )
    events = CounterMetricFamily(
        "weir_connection_events",
        "Connections that began (new) or were forgotten (destroy).",
        labels=["target", "event"],
    )
    lost = CounterMetricFamily(
        "weir_connection_events_lost", "Events that the kernel had no room for.", labels=["target"]
    )
    unmeasured = CounterMetricFamily(
        "weir_connection_unmeasured",
        "TCP connections that have ended of which the kernel had no times (seconds) or counts (bytes).",
        labels=["target", "what"],
    )
    for name, each in totals.items():
        for path, histogram in each.seconds.items():
            seconds.add_metric([name, path], _summed(SECONDS, histogram.counts), histogram.total)
        for direction in DIRECTIONS:
            found = each.bytes[direction]
            size.add_metric([name, direction], _summed(BYTES, found.counts), found.total)
            packets.add_metric([name, direction], each.packets[direction])
        for event in EVENTS:
            events.add_metric([name, event], each.events[event])
        lost.add_metric([name], each.lost)
        for what, number in each.unmeasured.items():
            unmeasured.add_metric([name, what], number)
    yield from (seconds, size, packets, events, lost, unmeasured)


def _summed(bounds: tuple[float, ...], counts: Iterable[int]) -> list[tuple[str, float]]:
    """Return buckets as Prometheus has them: each with all that is less."""
    total, found = 0, []
    for bound, number in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        total += number
        found.append((bound, float(total)))
    return found
