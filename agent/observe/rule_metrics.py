"""Metrics of the rules that sampled connections meet. Labels are bounded: targets by a limit, paths by Weir's slugs."""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:  # what follows packets comes with the first target that is sampled
    from agent.trace.sampling import Tallied

BUCKETS = (1, 2, 3, 5, 8, 10, 15, 20, 30, 50, 100, 200, 500, 1000)
"""Rules that a packet meets: Weir's own table has 10 to 30, a node with many services thousands."""


class RuleMetrics(Collector):
    """Writes what has been sampled; a target that is sampled no more leaves no series."""

    def __init__(self, tallied: "Callable[[], Mapping[str, Tallied]]", *, most: int) -> None:
        """`tallied` returns what was sampled by target; the first `most` of them have series of their own."""
        self._tallied, self._most = tallied, most

    def describe(self) -> Iterable[Metric]:
        """Tell of no metric beforehand: else the registry asks for everything before there is anything."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Return the metrics; none while nothing is sampled."""
        tallied = self._tallied()
        if not tallied:
            return
        shown = list(tallied.items())[: self._most]
        left_out = len(tallied) - len(shown)
        yield GaugeMetricFamily("weir_sampled_left_out", "Sampled targets beyond the limit of series.", value=left_out)
        rules = HistogramMetricFamily(
            "weir_rules_evaluated",
            "Rules that the first packet of a sampled connection met: Weir's, and those of others that came behind.",
            labels=["target"],
        )
        paths = CounterMetricFamily(
            "weir_verdict_paths",
            "Sampled connections by what decided: the slug of Weir's rule, no-rule, or dropped-by-others.",
            labels=["target", "path"],
        )
        lost = CounterMetricFamily(
            "weir_trace_events_lost",
            "Overflows of the socket by which the kernel tells of sampled packets, each of a number of events.",
            labels=["target"],
        )
        for name, each in shown:
            rules.add_metric([name], _buckets(each.rules), sum(met * times for met, times in each.rules.items()))
            for path, times in sorted(each.paths.items()):
                paths.add_metric([name, path], times)
            lost.add_metric([name], each.lost)
        yield from (rules, paths, lost)


def _buckets(rules: Tally[int]) -> list[tuple[str, float]]:
    """Return how many packets met at most so many rules, by the limit as Prometheus writes it."""
    found = [(str(float(most)), float(sum(n for met, n in rules.items() if met <= most))) for most in BUCKETS]
    return [*found, ("+Inf", float(rules.total()))]
