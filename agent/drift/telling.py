"""The log of drift: a line each, and of many a few lines that say how many more there were."""

import logging
from collections import OrderedDict
from dataclasses import dataclass

from agent.drift import Drift, Kind

WINDOW = 10.0
"""Seconds in which the same kind of the same target is told a few times; more are counted, and said at their end."""

_EACH = 5  # lines of one kind of one target in a window
_BURST, _REFILL = 50.0, 5.0  # lines at once, and lines a second from then on: a proxy that ends concerns every target
_MOST = 1000  # windows that are remembered

log = logging.getLogger("weir")


@dataclass(slots=True)
class _Window:
    until: float
    target: str
    kind: Kind
    told: int = 0
    more: int = 0


class DriftLog:
    """What is told, and what is only counted. Times are seconds of one clock that doesn't jump."""

    def __init__(self) -> None:
        self._windows: OrderedDict[tuple[str, Kind], _Window] = OrderedDict()
        self._left, self._since = _BURST, 0.0

    def tell(self, target: str, netns: str, drift: Drift, now: float) -> bool:
        """Log a drift, where it isn't one too many; tell whether it was logged."""
        self.end(now)
        key = (target, drift.kind)
        window = self._windows.get(key)
        if window is None:
            while len(self._windows) >= _MOST:
                self._say(self._windows.popitem(last=False)[1])
            window = self._windows[key] = _Window(until=now + WINDOW, target=target, kind=drift.kind)
        if window.told >= _EACH or not self._may(now):
            window.more += 1
            return False
        window.told += 1
        by = f", by {drift.culprit}" if drift.culprit else "; by whom, the kernel doesn't tell"
        log.warning("target %s (netns %s): drift: %s: %s%s", target, netns, drift.kind, drift.said, by)
        return True

    def end(self, now: float) -> float | None:
        """Say how many more there were of what was told some time ago; return in how many seconds there is more."""
        while self._windows:
            first = next(iter(self._windows.values()))
            if first.until > now:
                return first.until - now
            self._windows.popitem(last=False)
            self._say(first)
        return None

    def _say(self, window: _Window) -> None:
        if window.more:
            log.warning("target %s: drift: %s: and %d more", window.target, window.kind, window.more)

    def _may(self, now: float) -> bool:
        self._left, self._since = min(_BURST, self._left + (now - self._since) * _REFILL), now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
