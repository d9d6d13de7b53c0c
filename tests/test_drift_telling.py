"""What is told of drift: few lines and few series, however much drifts and whatever processes call themselves."""

import logging
import time

import pytest
from prometheus_client import CollectorRegistry

from agent.drift import Culprit, Drift, Kind
from agent.drift.telling import WINDOW, DriftLog
from agent.observe.drift_metrics import MOST_CULPRITS, DriftMetrics

GONE = Drift(kind=Kind.TABLE_GONE, said="table inet weir-pod is gone", culprit=Culprit(pid=7, name="vandal"), at=1.0)


def test_a_storm_is_a_few_lines_that_say_how_many(caplog: pytest.LogCaptureFixture) -> None:
    log = DriftLog()
    with caplog.at_level(logging.WARNING):
        told = [log.tell("web", "pod1", GONE, number / 1000) for number in range(1000)]
        assert 1 < sum(told) < 10
        assert caplog.messages[0] == (
            "target web (netns pod1): drift: table-gone: table inet weir-pod is gone, by process 7 (vandal)"
        )
        assert log.end(WINDOW + 1) is None
    assert caplog.messages[-1] == f"target web: drift: table-gone: and {1000 - sum(told)} more"
    assert len(caplog.messages) == sum(told) + 1


def test_many_targets_at_once_are_not_a_line_each(caplog: pytest.LogCaptureFixture) -> None:
    log = DriftLog()
    with caplog.at_level(logging.WARNING):
        told = sum(log.tell(f"t{number}", "x", GONE, 0.0) for number in range(500))
    assert told == len(caplog.messages) < 100


def test_names_are_few_series() -> None:
    registry = CollectorRegistry()
    metrics = DriftMetrics(registry)
    for number in range(100):
        culprit = Culprit(pid=1, name=f"p{number}")
        metrics.count(Drift(kind=Kind.ROUTE, said="x", culprit=culprit, at=time.time()))
    metrics.count(Drift(kind=Kind.OVERRUN, said="x", culprit=None, at=time.time()))

    def value(culprit: str, kind: Kind = Kind.ROUTE) -> float | None:
        return registry.get_sample_value("weir_drift_total", {"kind": kind, "culprit": culprit})

    assert value("p0") == 1
    assert value("other") == 100 - MOST_CULPRITS
    assert value("p99") is None
    assert value("", Kind.OVERRUN) == registry.get_sample_value("weir_drift_overruns_total") == 1
