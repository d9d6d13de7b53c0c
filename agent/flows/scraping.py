"""Many namespaces' connections, read within a budget: what there was no time for is the first the next time.

Counts cost 0.03 ms and are read of all. A look at sockets costs 0.2 ms and more, so that a scrape looks into as many as
`BUDGET` allows; one that takes long, in a namespace with very many connections, is made the less often.
"""

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from agent.errors import WeirError
from agent.flows.kept import stats_of
from agent.flows.look import Look, look
from agent.kernel.conntrack import Stats
from agent.kernel.handle import Handle
from rulesets.capture import Capture

BUDGET = 0.01
"""Seconds of a processor that the looks of one scrape may take."""
FRESH = 1.0
"""Seconds: what is younger is not read again."""
GROWTH = 5.0
"""Seconds: over at least so many it is measured how fast a table grows."""
SHARE = 0.005
"""The part of a processor that looks at one namespace may take: one of 100 ms is made every 20 s."""
_SLICE = 0.005  # seconds of a processor after which other threads have their turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A namespace to be read; `capture` None is one that isn't to be captured."""

    name: str
    handle: Handle
    capture: Capture | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What is known of a target. `full_seconds`: when its table is full if it goes on growing so; None: it doesn't."""

    name: str
    stats: Stats
    full_seconds: float | None
    look: Look | None


@dataclass(slots=True)
class _Known:
    handle: Handle
    stats: Stats | None = None
    read_at: float = 0.0
    before: tuple[int, float] | None = None  # entries, and when they were counted
    full_seconds: float | None = None
    look: Look | None = None
    tried_at: float = 0.0


@dataclass(slots=True)
class _Round:
    """What a scrape still has to read, the next last."""

    counts: list[Subject] = field(default_factory=list)
    looks: list[Subject] = field(default_factory=list)
    spent: float = 0.0


class Scraping:
    """What was read of each target. To be used by one thread at a time."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._round = _Round()

    def begin(self, subjects: Iterable[Subject]) -> None:
        """Begin a scrape of these namespaces, the oldest first, and forget what is known of others."""
        wanted = tuple(subjects)
        before, self._known = self._known, {}
        for each in wanted:
            known = before.get(each.name)
            self._known[each.name] = known if known and known.handle is each.handle else _Known(each.handle)
        now = time.monotonic()
        counts = [each for each in wanted if self._known[each.name].read_at < now - FRESH]
        looks = [each for each in wanted if self._is_due(self._known[each.name], now)]
        self._round = _Round(
            counts=sorted(counts, key=lambda each: -self._known[each.name].read_at),
            looks=sorted(looks, key=lambda each: -self._known[each.name].tried_at),
        )

    def step(self) -> bool:
        """Read on for some milliseconds; tell whether there is more. A namespace that has gone is passed over."""
        began = time.thread_time()
        while time.thread_time() - began < _SLICE:
            if self._round.counts:
                self._count(self._round.counts.pop())
            elif self._round.looks and self._round.spent < BUDGET:
                each, started = self._round.looks.pop(), time.thread_time()
                self._look(each)
                self._round.spent += time.thread_time() - started
            else:
                return False
        return True

    def readings(self) -> tuple[Reading, ...]:
        """Return what is known of each namespace, but for those that couldn't be read yet."""
        return tuple(
            Reading(name=name, stats=known.stats, full_seconds=known.full_seconds, look=known.look)
            for name, known in self._known.items()
            if known.stats is not None
        )

    def _is_due(self, known: _Known, now: float) -> bool:
        cost = 0.0 if known.look is None else known.look.seconds
        return known.tried_at <= now - max(FRESH, cost / SHARE)

    def _count(self, subject: Subject) -> None:
        known = self._known[subject.name]
        known.read_at = now = time.monotonic()
        with suppress(WeirError):  # it was closed in this moment, or the next pass says what is wrong
            known.stats = stats = stats_of(subject.handle)
            if known.before is None:
                known.before = stats.entries, now
            elif now - known.before[1] >= GROWTH:
                entries, at = known.before
                known.before = stats.entries, now
                growth = (stats.entries - entries) / (now - at)
                room = (stats.maximum or 0) - stats.entries
                known.full_seconds = max(0, room) / growth if growth > 0 and stats.maximum else None

    def _look(self, subject: Subject) -> None:
        known = self._known[subject.name]
        known.tried_at = time.monotonic()
        with suppress(WeirError):
            known.look = look(subject.handle, subject.capture, known.stats)
