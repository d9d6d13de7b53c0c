"""One target in the daemon: its newest wish, its open namespace, and when it is looked at again."""

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import Callable
from concurrent.futures import Executor

from agent.errors import NamespaceMissing, NotANamespace, WeirError
from agent.kernel.handle import Handle
from agent.kernel.netns import Netns, identify
from agent.reconcile import reconcile
from agent.state import Records
from agent.targets import Absent, Outcome, State, Target

# Seconds. Events in a burst are answered together, and a storm of them costs ten passes a second at most.
REST = 0.1
FIRST_RETRY, LONGEST_RETRY = 0.25, 30.0
# A namespace that is being made, or a proxy that starts, sends no word.
FIRST_LOOK, LONGEST_LOOK = 0.1, 2.0


class Slot:
    """Keeps one target as it is wanted: passes one after the other, always for the newest wish.

    All but `_pass` runs in the loop's thread.
    """

    def __init__(
        self, target: Target, *, workers: Executor, records: Records, resync: float, done: Callable[["Slot"], None]
    ) -> None:
        """Take what is needed; nothing happens before `run`. `resync` is in seconds; each pass ends with `done`."""
        self.target = target
        self.outcome: Outcome | None = None
        self._workers = workers
        self._records = records
        self._resync = resync
        self._done = done
        self._handle: Handle | None = None
        self._listening: tuple[socket.socket, ...] = ()
        self._wake = asyncio.Event()
        self._alike = 0

    def want(self, target: Target) -> None:
        """Replace the wish. A pass that is under way ends, and another one follows for the new wish."""
        if target != self.target:
            self.target = target
            self._alike = 0
        self.wake()

    def wake(self) -> None:
        """Have the target looked at soon."""
        self._wake.set()

    @property
    def identity(self) -> str:
        """The identity of the open namespace; empty when none is open."""
        return str(self._handle.netns.identity) if self._handle else ""

    @property
    def up_to_date(self) -> bool:
        """Whether the last pass was for the newest wish."""
        return self.outcome is not None and self.outcome.target == self.target

    def check_identity(self) -> None:
        """Wake when the target's name has come to mean another namespace, or none. Costs one stat."""
        if self._handle is not None and not self._still_meant(self._handle):
            self.wake()

    async def run(self) -> None:
        """Keep the target until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._wake.clear()
                if self._handle is not None and not self._still_meant(self._handle):
                    await self._let_go()
                target = self.target
                outcome = await loop.run_in_executor(self._workers, self._pass, target)
                self._listen()
                self._alike = self._alike + 1 if self.outcome and self.outcome.state is outcome.state else 1
                self.outcome = outcome
                self._done(self)
                if outcome.state is State.REMOVED:
                    await self._let_go()
                if target is self.target:
                    await asyncio.sleep(REST)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), self._pause(outcome))
        finally:
            self._ignore()

    def _still_meant(self, handle: Handle) -> bool:
        netns = Netns(self.target.netns)
        return netns == handle.netns.netns and identify(netns.path) == handle.netns.identity

    def _pause(self, outcome: Outcome) -> float:
        """Return the seconds until the next pass, should nothing happen before."""
        spread = random.uniform(0.9, 1.1)  # noqa: S311 (so that targets don't move in step)
        if outcome.again is not None:
            return outcome.again
        match outcome.state:
            case State.FAILED:
                return spread * min(LONGEST_RETRY, FIRST_RETRY * 2.0 ** min(self._alike - 1, 10))
            case State.WAITING:
                return min(LONGEST_LOOK, FIRST_LOOK * 1.2 ** min(self._alike - 1, 50))
            case _:
                return spread * self._resync

    def _pass(self, target: Target) -> Outcome:
        """Make one pass. Runs in a worker thread, one at a time for this slot."""
        started = time.monotonic()
        try:
            if self._handle is None:
                handle = Handle(Netns(target.netns))
                handle.subscribe()
                self._handle = handle
        except WeirError as error:
            missing = isinstance(error, NamespaceMissing | NotANamespace)
            gone = missing and isinstance(target.wish, Absent)
            state = State.REMOVED if gone else State.WAITING if missing else State.FAILED
            spent = time.monotonic() - started
            return Outcome(target=target, state=state, reason=str(error), hint=error.hint, seconds=spent)
        return reconcile(target, self._handle, self._records)

    def _listen(self) -> None:
        """Have the loop wake this slot when rules, routes or interfaces of the open namespace change."""
        if self._handle is None or self._listening:
            return
        self._listening = self._handle.subscribe()
        for each in self._listening:
            asyncio.get_running_loop().add_reader(each, self._read_away, each)

    def _read_away(self, changes: socket.socket) -> None:
        """Read what has come. That something came, or was lost for want of room, is all that counts."""
        with contextlib.suppress(OSError):
            while changes.recv(65536):
                pass
        self.wake()

    def _ignore(self) -> None:
        for each in self._listening:
            asyncio.get_running_loop().remove_reader(each)
        self._listening = ()

    async def _let_go(self) -> None:
        """Close the namespace, so that it can go; in a worker, since the kernel may take its time."""
        self._ignore()
        handle, self._handle = self._handle, None
        if handle is not None:
            await asyncio.get_running_loop().run_in_executor(self._workers, handle.close)
