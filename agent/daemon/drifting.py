"""Drift told: in the log, as metrics, and to whoever keeps Events."""

import asyncio
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry

from agent import report
from agent.drift import Drift
from agent.drift.telling import DriftLog
from agent.observe.drift_metrics import DriftMetrics
from agent.targets import HOST, Outcome, Target


class Drifting:
    """Takes what the targets tell (`agent.daemon.watching.Told`). To be used in the loop's thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the metrics. `event` is called for what is logged, once there is somebody to call."""
        self._metrics = DriftMetrics(registry)
        self._log = DriftLog()
        self._end: asyncio.TimerHandle | None = None
        self.event: Callable[[Target, Drift], None] | None = None

    def drifted(self, target: Target, found: Iterable[Drift]) -> None:
        """Count and log what has drifted."""
        for each in found:
            if self._told(target.name, target.netns, each) and self.event is not None:
                self.event(target, each)

    def on_node(self, drift: Drift) -> None:
        """Count and log what has drifted of the node's table."""
        self._told("the node", HOST, drift)

    def _told(self, name: str, netns: str, drift: Drift) -> bool:
        loop = asyncio.get_running_loop()
        self._metrics.count(drift)
        logged = self._log.tell(name, netns, drift, loop.time())
        if self._end is None:
            self._end = loop.call_later(1.0, self._say_how_many_more)
        return logged

    def repaired(self, seconds: float) -> None:
        """Count a repair."""
        self._metrics.repaired(seconds)

    def _say_how_many_more(self) -> None:
        loop = asyncio.get_running_loop()
        left = self._log.end(loop.time())
        self._end = None if left is None else loop.call_later(left + 0.01, self._say_how_many_more)


def documents(drifted: Iterable[tuple[Outcome, Iterable[Drift]]]) -> list[dict[str, object]]:
    """Return what a status document has of targets: the report of each newest outcome, with its newest drifts."""
    return [
        {**report.of_outcome(outcome).document(), "drifts": [each.document() for each in found]}
        for outcome, found in drifted
    ]
