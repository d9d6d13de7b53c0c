"""The daemon's threads beside its loop."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from typing import ParamSpec, TypeVar

from agent.observe.spans import carried

_P = ParamSpec("_P")
_T = TypeVar("_T")
# Calls that are under way or handed over at once. What is handed over takes memory, which 500 pods at once would leave
# scattered; a few for each of the four threads at most keep them busy.
_TURNS = 16
# Seconds that what nobody waits for lets others go first at most: one interpreter runs all threads, one at a time.
_LONGEST_LULL = 0.5


class Threads:
    """`workers` enter namespaces; another thread has what nobody waits for. To be used in the loop's thread."""

    def __init__(self, *, workers: Executor, afterwards: Executor) -> None:
        """Take the executors, which are ended by whoever made them."""
        self._workers, self._working = workers, asyncio.Semaphore(_TURNS)
        self._afterwards, self._following = afterwards, asyncio.Semaphore(_TURNS)
        self._asked = 0  # waited for: calls for workers, under way or yet to begin, and starts of pods
        self._idle = asyncio.Event()
        self._idle.set()

    async def work(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call something in a worker; return what it returns."""
        made = carried(lambda: call(*args, **kwargs))
        with self.waited_for():
            async with self._working:
                return await asyncio.get_running_loop().run_in_executor(self._workers, made)

    @contextmanager
    def waited_for(self) -> Iterator[None]:
        """Have what nobody waits for let go first whatever is done until the block ends."""
        self._asked += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._asked -= 1
            if not self._asked:
                self._idle.set()

    async def follow_up(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call what nobody waits for: reading back, and closing what was written; when no worker is busy, or soon.

        Closing a namespace after a change waits for a grace period of the kernel (6 to 25 ms).
        """
        made = carried(lambda: call(*args, **kwargs))
        async with self._following:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LONGEST_LULL):
                    await self._idle.wait()
            return await asyncio.get_running_loop().run_in_executor(self._afterwards, made)
