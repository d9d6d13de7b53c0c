"""What the daemon hears of its targets' traffic: connections, and the rules that sampled ones meet."""

import asyncio

from prometheus_client import CollectorRegistry

from agent.daemon.flows import Flows
from agent.daemon.forever import forever
from agent.daemon.keeper import Keeper
from agent.daemon.sampling import Sampling
from agent.daemon.threads import Threads
from agent.state import Records


class Ears:
    """To be used in the loop's thread. Both hear nothing unless a target asks for it."""

    def __init__(
        self, keeper: Keeper, threads: Threads, records: Records, registry: CollectorRegistry, *, most: int
    ) -> None:
        """Register the metrics; `most` targets have series of their own."""
        self._flows = Flows(keeper, threads, records, registry, most=most)
        self._sampling = Sampling(keeper, threads, registry, most=most)

    async def count(self) -> None:
        """Read what a scrape shows, for as long as it can wait."""
        await self._flows.count()

    def tasks(self) -> "tuple[asyncio.Task[None], ...]":
        """Start listening to those who ask for it, for ever."""
        return (
            asyncio.create_task(forever(self._flows.keep), name="connections"),
            asyncio.create_task(forever(self._sampling.keep), name="samples"),
        )

    def close(self) -> None:
        """Hear no more."""
        self._flows.close()
        self._sampling.close()
