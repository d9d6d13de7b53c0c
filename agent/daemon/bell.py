"""A bell that one task listens for."""

import asyncio


class Bell:
    """Rung by whatever happens, and heard by one task. An `asyncio.Event` has a list of waiters: 0.7 KB for each."""

    __slots__ = ("_waiter", "rung")

    def __init__(self) -> None:
        self.rung = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Ring, until it is silenced. To be called in the loop's thread."""
        self.rung = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def silence(self) -> None:
        """Be silent again."""
        self.rung = False

    async def heard_within(self, seconds: float) -> bool:
        """Wait until it rings, or so long; return whether it rang."""
        if not self.rung and seconds > 0:
            loop = asyncio.get_running_loop()
            waiter = self._waiter = loop.create_future()
            timer = loop.call_later(seconds, _end, waiter)
            try:
                await waiter
            finally:
                timer.cancel()
                self._waiter = None
        return self.rung


def _end(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
