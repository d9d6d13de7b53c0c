"""Metrics of drift. Who made it is a label, of few values whatever processes call themselves."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from agent.drift import Drift, Kind

MOST_CULPRITS = 20
"""Names of processes that have series; the others count as "other", and nobody as an empty name."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 5, 30, 300)


class DriftMetrics:
    """What has drifted, counted as it is told."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the metrics; each kind begins with nought."""
        self._names: set[str] = set()
        self._drifts = Counter(
            "weir_drift",
            "What was changed behind Weir's back, by kind and by the name of the process that did it, if it is known.",
            ["kind", "culprit"],
            registry=registry,
        )
        self._repair = Histogram(
            "weir_drift_repair_seconds",
            "Time from the first notification of drift until the target was captured again.",
            registry=registry,
            buckets=_SECONDS,
        )
        self._overruns = Counter(
            "weir_drift_overruns",
            "Notifications lost for want of room, so that everything was looked at.",
            registry=registry,
        )
        for kind in Kind:
            self._drifts.labels(kind=kind, culprit="")

    def count(self, drift: Drift) -> None:
        """Count one."""
        self._drifts.labels(kind=drift.kind, culprit=self._label(drift)).inc()
        if drift.kind is Kind.OVERRUN:
            self._overruns.inc()

    def repaired(self, seconds: float) -> None:
        """Count a repair."""
        self._repair.observe(seconds)

    def _label(self, drift: Drift) -> str:
        name = "" if drift.culprit is None else drift.culprit.name
        if name in self._names or not name:
            return name
        if len(self._names) >= MOST_CULPRITS:
            return "other"
        self._names.add(name)
        return name
