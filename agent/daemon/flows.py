"""The daemon's look at its targets' connections: counted when scraped, and listened to where a target asks for it."""

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from agent.daemon.keeper import Keeper
from agent.daemon.slot import Slot
from agent.daemon.threads import Threads
from agent.errors import ConfigError
from agent.flows.scraping import Scraping, Subject
from agent.flows.totals import Totals
from agent.observe.flow_metrics import FlowMetrics, Seen
from agent.observe.metrics import MOST_TARGETS
from agent.state import Records
from agent.targets import Captured, Observation

if TYPE_CHECKING:  # which starts processes, and few daemons need it
    from agent.flows.listener import Listener

log = logging.getLogger("weir")
POD_SERIES = "WEIR_POD_SERIES"
"""The environment's variable with how many pods of a node have series of their own."""
FOLLOW_INTERVAL = 1.0
"""Seconds until those who are listened to fit the targets: a namespace that has gone is let go within them."""
FRESH, PATIENCE = 1.0, 0.5
"""Seconds: what is younger is not read again, and what a scrape spends on reading; the rest is the next one's first."""


def series(*, kubernetes: bool, environment: Mapping[str, str] = os.environ) -> int:
    """Return how many targets have series of their own. Raises `ConfigError`.

    A node's pods are counted together unless WEIR_POD_SERIES says how many are not: 500 of them would be 30,000 series.
    """
    said = environment.get(POD_SERIES, "").strip()
    if not kubernetes or not said:
        return 0 if kubernetes else MOST_TARGETS
    if not said.isascii() or not said.isdigit() or int(said) > MOST_TARGETS:
        raise ConfigError(f"{POD_SERIES} = {said!r}: wants a whole number from 0 to {MOST_TARGETS}")
    return int(said)


class Flows:
    """To be used in the loop's thread; what waits for the kernel goes to a worker."""

    def __init__(
        self, keeper: Keeper, threads: Threads, records: Records, registry: CollectorRegistry, *, most: int
    ) -> None:
        """Register the metrics; `most` targets have series of their own. Where none has, a scrape reads nothing."""
        self._keeper, self._threads, self._records, self._most = keeper, threads, records, most
        self._scraping = Scraping()
        self._counting: asyncio.Task[None] | None = None  # for one scrape at a time, also where that no longer waits
        self._listener: Listener | None = None
        self._listening = asyncio.Lock()
        self._totals: dict[str, Totals] = {}
        self._left_out = 0
        registry.register(FlowMetrics(self._seen))

    async def count(self) -> None:
        """Read what a scrape shows, connections and the counters of rules, for as long as it can wait."""
        if not self._most:
            return
        old = [slot for slot in self._keeper.slots[: self._most] if slot.counted < time.monotonic() - FRESH]
        reads = [asyncio.ensure_future(slot.count()) for slot in sorted(old, key=lambda slot: slot.counted)]
        if self._counting is None or self._counting.done():
            self._counting = asyncio.create_task(self._count(), name="counting connections")
            self._counting.add_done_callback(say_failed)
        _, late = await asyncio.wait([*reads, self._counting], timeout=PATIENCE)
        for each in late - {self._counting}:
            each.cancel()

    async def _count(self) -> None:
        slots = self._keeper.slots
        self._left_out = max(0, len(slots) - self._most)
        self._scraping.begin(subjects_of(slots[: self._most]))
        while await self._threads.work(self._scraping.step):
            pass
        if self._listener is not None:
            async with self._listening:
                self._totals = await self._threads.work(self._listener.totals)

    def _seen(self) -> Seen:
        return Seen(
            readings=self._scraping.readings(),
            left_out=self._left_out,
            totals=self._totals,
            starts=None if self._listener is None else self._listener.starts,
        )

    async def keep(self) -> None:
        """Listen to the targets that ask for it, for ever."""
        await self._keeper.until_settled()
        left = await self._threads.work(self._anything_left)
        while True:
            observed = (slot for slot in self._keeper.slots if Observation.CONNECTIONS in slot.target.observe)
            wanted = subjects_of(observed)
            if self._listener is None and (wanted or left):
                from agent.flows.listener import Listener

                self._listener = Listener(self._records.directory)
            if self._listener is not None:
                async with self._listening:
                    await self._threads.work(self._listener.follow, wanted)
                if not wanted:
                    self._totals = {}
            await asyncio.sleep(FOLLOW_INTERVAL)

    def _anything_left(self) -> bool:
        """Tell whether an earlier daemon has turned settings on that nobody may want any more."""
        return any((self._records.directory / "observed").glob("*.json"))

    def close(self) -> None:
        """End the process that listens."""
        if self._listener is not None:
            self._listener.close()


def subjects_of(slots: Iterable[Slot]) -> tuple[Subject, ...]:
    """Return the namespaces of those that are open."""
    return tuple(
        Subject(
            name=slot.target.name,
            handle=slot.handle,
            capture=slot.target.wish.capture if isinstance(slot.target.wish, Captured) else None,
        )
        for slot in slots
        if slot.handle is not None
    )


def say_failed(counting: "asyncio.Task[None]") -> None:
    """Log why a count has failed, where it has."""
    if not counting.cancelled() and (error := counting.exception()) is not None:
        log.error("connections can't be counted", exc_info=error)
