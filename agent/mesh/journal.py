"""What went wrong, in the log and for status."""

import logging
import time
from collections import deque

from agent.mesh.status import Problem

log = logging.getLogger("weir")
_KEPT = 16
_SAID_AGAIN = 60.0  # seconds


class Journal:
    """The last problems. One with a `topic` is told once a minute, however often it happens."""

    def __init__(self) -> None:
        self._problems: deque[Problem] = deque(maxlen=_KEPT)
        self._told: dict[str, float] = {}  # by topic

    def report(self, text: str, *, topic: str = "") -> None:
        """Tell of a problem."""
        at = time.monotonic()
        if topic and at - self._told.get(topic, -_SAID_AGAIN) < _SAID_AGAIN:
            return
        if topic:
            self._told[topic] = at
        log.warning("%s", text)
        self._problems.append(Problem(time=time.time(), text=text))

    def problems(self) -> tuple[Problem, ...]:
        """Return the last ones, oldest first."""
        return tuple(self._problems)
