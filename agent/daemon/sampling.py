"""The daemon's ear for sampled connections: a socket for each target that has `sample` set, none otherwise."""

import asyncio
import logging
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from agent.daemon.keeper import Keeper
from agent.daemon.threads import Threads
from agent.errors import WeirError
from agent.kernel.handle import Handle
from agent.observe.rule_metrics import RuleMetrics
from agent.targets import Captured

if TYPE_CHECKING:  # what follows packets comes with the first target that is sampled, and few are
    from agent.trace.sampling import Sampler

log = logging.getLogger("weir")
FOLLOW_INTERVAL = 1.0
"""Seconds until those who are listened to fit the targets: a namespace that has gone is let go within them."""


class Sampling:
    """To be used in the loop's thread; what waits for the kernel goes to a worker."""

    def __init__(self, keeper: Keeper, threads: Threads, registry: CollectorRegistry, *, most: int) -> None:
        """Register the metrics; `most` targets have series of their own, and no others are listened to."""
        self._keeper, self._threads, self._most = keeper, threads, most
        self._open: dict[str, tuple[Handle, Sampler]] = {}
        self._refused: set[str] = set()
        registry.register(
            RuleMetrics(lambda: {name: each.tallied for name, (_, each) in self._open.items()}, most=most)
        )

    async def keep(self) -> None:
        """Listen to the targets that are sampled, for ever."""
        while True:
            await self._follow()
            await asyncio.sleep(FOLLOW_INTERVAL)

    async def _follow(self) -> None:
        wanted = self._wanted()
        for name in [name for name, (handle, _) in self._open.items() if wanted.get(name, (None,))[0] is not handle]:
            self._end(name)
        for name, (handle, table) in wanted.items():
            if name not in self._open:
                await self._begin(name, handle, table)
        self._refused &= wanted.keys()
        for name, (_, sampler) in list(self._open.items()):
            self._hear(name, sampler)  # packets whose end nothing tells of have ended by now

    def _wanted(self) -> dict[str, tuple[Handle, str]]:
        found = {
            slot.target.name: (slot.handle, slot.target.table)
            for slot in self._keeper.slots
            if slot.handle is not None and isinstance(slot.target.wish, Captured) and slot.target.wish.capture.sample
        }
        return dict(list(found.items())[: self._most])

    async def _begin(self, name: str, handle: Handle, table: str) -> None:
        from agent.trace.sampling import Sampler

        try:
            sampler = await self._threads.work(Sampler, handle, table)
        except WeirError as error:
            if name not in self._refused:
                log.warning("%s: its sampled connections can't be heard of: %s", name, error)
            self._refused.add(name)
            return
        self._open[name] = handle, sampler
        asyncio.get_running_loop().add_reader(sampler.fileno(), self._hear, name, sampler)

    def _hear(self, name: str, sampler: "Sampler") -> None:
        try:
            sampler.hear()
        except WeirError as error:
            if name not in self._refused:
                log.warning("%s: what the kernel tells of a sampled connection: %s", name, error)
            self._refused.add(name)

    def _end(self, name: str) -> None:
        _, sampler = self._open.pop(name)
        # Before the socket is closed: the loop would go on watching whatever gets its number next.
        asyncio.get_running_loop().remove_reader(sampler.fileno())
        sampler.close()

    def close(self) -> None:
        """Hear no more."""
        for name in list(self._open):
            self._end(name)
