"""A question of the container runtime that waits for its answer."""

import asyncio
from collections.abc import Callable
from pathlib import PurePath

from agent.cni.protocol import Answer, Sandbox, Verdict
from agent.kernel.netns import Netns, identify
from agent.sources.kubernetes.sandboxes import Sandbox as Found


class Request:
    """An ADD. The same one may be asked twice; both get one answer. To be used in the loop's thread."""

    __slots__ = ("_answer", "_waiting", "again", "given_up", "sandbox")

    def __init__(self, sandbox: Sandbox, *, again: bool = False) -> None:
        """Take the sandbox in which the pod is to be captured. `again`: it is already, so nothing is to be undone."""
        self.sandbox = sandbox
        self.again = again
        self.given_up = False  # nobody waits any longer
        self._waiting = 0
        self._answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    async def answered(self, patience: float, *, given_up: Callable[[], None]) -> Answer:
        """Wait for the answer. After so many seconds the one comes that `given_up`, which is called, leads to.

        It is called, too, when the last of those who wait is cancelled.
        """
        timer = asyncio.get_running_loop().call_later(patience, self._give_up, given_up)
        self._waiting += 1
        try:
            return await asyncio.shield(self._answer)
        finally:
            timer.cancel()
            self._waiting -= 1
            if not self._waiting and not self._answer.done():
                self._give_up(given_up)

    def answer(self, answer: Answer) -> None:
        """Answer all that wait; the first answer counts."""
        if not self._answer.done():
            self._answer.set_result(answer)

    def refuse(self, reason: str) -> None:
        """Say no."""
        self.answer(Answer(verdict=Verdict.REFUSED, reason=f"{self.sandbox}: {reason}", hint="the runtime tries again"))

    def _give_up(self, given_up: Callable[[], None]) -> None:
        self.given_up = True
        given_up()


def same_place(one: Sandbox, other: Sandbox) -> bool:
    """Tell whether two of the runtime's descriptions are of one sandbox."""
    if one.container and other.container:
        return one.container == other.container and (not one.netns or not other.netns or _same_path(one, other))
    return _same_path(one, other)


def is_of(mine: Found, ended: Sandbox) -> bool:
    """Tell whether a sandbox that was found is the one that the runtime speaks of."""
    if ended.netns and (found := identify(ended.netns)) is not None:
        return found == mine.identity
    if ended.container and mine.container:
        return ended.container == mine.container
    if not ended.netns:  # nothing names it: an old one that is deleted once more, unless ours has gone
        return identify(Netns(mine.netns).file) != mine.identity
    return _plain(ended.netns) == _plain(mine.netns)


def _same_path(one: Sandbox, other: Sandbox) -> bool:
    return _plain(one.netns) == _plain(other.netns)


def _plain(path: str) -> PurePath:
    parts = PurePath(path).parts
    return PurePath("/run", *parts[3:]) if parts[:3] == ("/", "var", "run") else PurePath(path)
