"""Figures of each target, for who watches them change: `weir top`. Nothing is read before somebody asks."""

import asyncio
import time

from agent.daemon.flows import say_failed, subjects_of
from agent.daemon.keeper import Keeper
from agent.daemon.said import Said
from agent.daemon.threads import Threads
from agent.flows.scraping import Reading, Scraping
from rulesets.model import Counter

FRESH, PATIENCE = 0.5, 1.0
"""Seconds: what is younger is not read again, and what one answer spends on reading; the rest is the next one's."""
_BEGIN = ("outbound-redirect", "inbound-redirect")  # of nat chains: each packet that they count begins a connection


class Figures:
    """To be used in the loop's thread; what waits for the kernel goes to a worker."""

    def __init__(self, keeper: Keeper, threads: Threads, said: Said) -> None:
        """Take whose figures they are, and who has counted how often each was written."""
        self._keeper, self._threads, self._said = keeper, threads, said
        self._scraping = Scraping()
        self._reading: asyncio.Task[None] | None = None

    async def read(self) -> dict[str, object]:
        """Return ``{"at": seconds of the monotonic clock, "targets": {name: {...}}}``.

        Of each target: `new` connections that were captured and `packets` that its rules have met since the table was
        made, `applies` since the daemon has started, `drifts` that it remembers, `connections` as entries of connection
        tracking, those that go `direct`, and `invalid` packets that it could not place; null is what isn't known.
        """
        old = [slot for slot in self._keeper.slots if slot.counted < time.monotonic() - FRESH]
        reads = [asyncio.ensure_future(slot.count()) for slot in sorted(old, key=lambda slot: slot.counted)]
        if self._reading is None or self._reading.done():  # one that is late goes on, for the next answer
            self._reading = asyncio.create_task(self._scrape(), name="reading figures")
            self._reading.add_done_callback(say_failed)
        _, late = await asyncio.wait([*reads, self._reading], timeout=PATIENCE)
        for each in late - {self._reading}:
            each.cancel()
        readings = {each.name: each for each in self._scraping.readings()}
        return {
            "at": time.monotonic(),
            "targets": {
                slot.target.name: {
                    "new": _packets(slot.counters, _BEGIN),
                    "packets": _packets(slot.counters),
                    "applies": self._said.applied[slot.target.name],
                    "drifts": len(slot.drifts),
                    **_connections(readings.get(slot.target.name)),
                }
                for slot in self._keeper.slots
            },
        }

    async def _scrape(self) -> None:
        self._scraping.begin(subjects_of(self._keeper.slots))
        while await self._threads.work(self._scraping.step):
            pass


def _packets(counters: tuple[Counter, ...], names: tuple[str, ...] = ()) -> int | None:
    """Return how many packets rules have met; None where their counters weren't read."""
    if not counters:
        return None
    return sum(each.packets for each in counters if not names or each.name in names)


def _connections(reading: Reading | None) -> dict[str, int | None]:
    return {
        "connections": None if reading is None else reading.stats.entries,
        "direct": None if reading is None or reading.look is None else reading.look.direct,
        "invalid": None if reading is None else reading.stats.invalid,
    }
