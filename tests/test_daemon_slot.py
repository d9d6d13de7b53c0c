"""A slot's counters: what a scrape had no time for is the oldest still, and the first that the next one reads."""

import asyncio
from pathlib import Path
from typing import Any, cast

from agent.daemon.pace import Rhythm
from agent.daemon.slot import Slot
from agent.daemon.threads import Threads
from agent.state import Records
from agent.targets import Absent, Target


class Busy:
    """Threads that never have time."""

    async def work(self, *_: Any) -> None:
        await asyncio.Event().wait()


class Free:
    """Threads that do at once what they are asked for."""

    async def work(self, call: Any, *arguments: Any) -> Any:
        return call(*arguments)


class Counting:
    """An open namespace that has counted nothing."""

    def counters(self, _: str) -> tuple[()]:
        return ()


def test_counters_that_were_not_read_are_not_fresh(tmp_path: Path) -> None:
    async def count(threads: Any, *, cut: bool) -> float:
        slot = Slot(
            Target(name="t", netns="t", wish=Absent()),
            threads=cast(Threads, threads),
            flags=None,
            records=Records(tmp_path),
            rhythm=Rhythm(),
            holders={},
            done=lambda _: None,
            read_back=lambda _: None,
        )
        slot._handle = cast(Any, Counting())
        reading = asyncio.ensure_future(slot.count())
        await asyncio.sleep(0)
        if cut:
            reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        return slot.counted

    assert asyncio.run(count(Busy(), cut=True)) == 0.0
    assert asyncio.run(count(Free(), cut=False)) > 0.0
