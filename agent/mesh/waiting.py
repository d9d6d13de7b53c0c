"""Who waits for word of a pod."""

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")


class Waiting(Generic[T]):
    """Any number of callers for each pod; all that wait get the same answer. To be used in the loop's thread."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Future[T]]] = {}

    def __contains__(self, uid: str) -> bool:
        return uid in self._waiting

    def uids(self) -> tuple[str, ...]:
        """Return the pods that somebody waits for."""
        return tuple(self._waiting)

    async def wait(self, uid: str, seconds: float) -> T | None:
        """Return the answer for a pod; None when there was none in that time."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(uid, set())
        waiting.add(answer)
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError:
            return None
        finally:
            waiting.discard(answer)
            if not waiting and self._waiting.get(uid) is waiting:
                del self._waiting[uid]

    def answer(self, uid: str, answer: T) -> None:
        """Answer all that wait for a pod, if anybody does."""
        for each in self._waiting.pop(uid, ()):
            if not each.done():
                each.set_result(answer)
