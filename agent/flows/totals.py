"""What connections came to, as numbers that add up: histograms and counts of one target."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SECONDS = (0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0)
"""Bounds of durations."""
BYTES = (256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 16777216.0, 268435456.0, 4294967296.0)
"""Bounds of sizes."""
PATHS = ("captured", "direct", "proxy")
DIRECTIONS = ("original", "reply")
EVENTS = ("new", "destroy")
UNMEASURED = ("seconds", "bytes", "message")


class Histogram:
    """How many values lie up to each bound, each by itself, and beyond the last; and the sum of all."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add(self, counts: list[int], total: float) -> None:
        """Count what another one with the same bounds has counted."""
        self.counts = [one + other for one, other in zip(self.counts, counts, strict=True)]
        self.total += total


def _zeros(names: tuple[str, ...]) -> dict[str, int]:
    return dict.fromkeys(names, 0)


@dataclass(slots=True)
class Totals:
    """What one target's connections came to.

    `events` counts those of every protocol, the histograms TCP connections that have ended. `seconds` are by path:
    ``captured`` and ``direct`` ones of applications, and the ``proxy``'s own other ends. `lost` are events that the
    kernel had no room for. `unmeasured` are TCP connections without times or counts, and messages that can't be read.
    """

    events: dict[str, int] = field(default_factory=lambda: _zeros(EVENTS))
    lost: int = 0
    seconds: dict[str, Histogram] = field(default_factory=lambda: {path: Histogram(SECONDS) for path in PATHS})
    bytes: dict[str, Histogram] = field(default_factory=lambda: {each: Histogram(BYTES) for each in DIRECTIONS})
    packets: dict[str, int] = field(default_factory=lambda: _zeros(DIRECTIONS))
    unmeasured: dict[str, int] = field(default_factory=lambda: _zeros(UNMEASURED))

    def document(self) -> dict[str, object]:
        """Return the numbers as JSON has them."""
        return {
            "events": self.events,
            "lost": self.lost,
            "seconds": {path: [each.counts, each.total] for path, each in self.seconds.items()},
            "bytes": {direction: [each.counts, each.total] for direction, each in self.bytes.items()},
            "packets": self.packets,
            "unmeasured": self.unmeasured,
        }

    def add(self, document: Mapping[str, Any]) -> None:
        """Add the numbers of a `document`, which came from a process of this very code."""
        self.lost += document["lost"]
        for mine, theirs in (
            (self.events, document["events"]),
            (self.packets, document["packets"]),
            (self.unmeasured, document["unmeasured"]),
        ):
            for name in mine:
                mine[name] += theirs[name]
        for histograms, told in ((self.seconds, document["seconds"]), (self.bytes, document["bytes"])):
            for name, each in histograms.items():
                each.add(*told[name])
