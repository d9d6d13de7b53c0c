"""One target in the daemon: its newest wish, its open namespace, and when it is looked at again."""

import asyncio
import contextlib
import logging
import random
import socket
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from typing import ParamSpec, TypeVar

from agent.errors import NamespaceMissing, NotANamespace, WeirError
from agent.kernel.handle import Handle
from agent.kernel.netns import Identity, Netns, identify
from agent.kernel.sockets import Listener, SocketDiag
from agent.reconcile import reconcile
from agent.state import Records
from agent.targets import Absent, Outcome, State, Target
from rulesets.model import Counter

log = logging.getLogger("weir")
# Seconds. Events in a burst are answered together, and a storm of them costs ten passes a second at most.
REST = 0.1
FIRST_RETRY, LONGEST_RETRY = 0.25, 30.0
# A namespace that is being made, or a proxy that starts, sends no word.
FIRST_LOOK, LONGEST_LOOK = 0.1, 2.0
LISTENERS_INTERVAL = 5.0  # between two looks at whether the proxy of a captured namespace still listens
_MOST_CHANGES = 64  # read at once: whoever changes rules without end must not keep the loop

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Slot:
    """Keeps one target as it is wanted: passes one after the other, always for the newest wish.

    To be used in the loop's thread; what touches a namespace goes to a worker, one thing at a time.
    """

    def __init__(
        self,
        target: Target,
        *,
        workers: Executor,
        records: Records,
        resync: float,
        holders: "dict[Identity, Slot]",
        done: Callable[["Slot"], None],
    ) -> None:
        """Take what is needed; nothing happens before `run`. `resync` is in seconds; each pass ends with `done`.

        `holders` is shared: who has which namespace open. Two names can mean one.
        """
        self.target = target
        self.outcome: Outcome | None = None
        self.counters: tuple[Counter, ...] = ()
        self.counted = 0.0
        self.asked, self.answered = 1, 0
        self.leaving = self.retired = False
        self._workers = workers
        self._records = records
        self._resync = resync
        self._holders = holders
        self._done = done
        self._handle: Handle | None = None
        self._listening: tuple[socket.socket, ...] = ()
        self._listeners: frozenset[Listener] = frozenset()  # as they were just before the newest pass
        self._wake, self._hurry = asyncio.Event(), asyncio.Event()
        self._alike = 0

    def want(self, target: Target, *, leaving: bool = False) -> None:
        """Replace the wish. A pass that is under way ends, and another one follows for the new wish.

        One that is `leaving` retires by itself when nothing is left in its namespace.
        """
        self.target, self.leaving = target, leaving
        self._alike = 0
        self.asked += 1
        self._hurry.set()
        self._wake.set()

    def wake(self) -> None:
        """Have the target looked at soon, and more often for a while: what it waits for may be about to come."""
        self._alike = 0
        self._wake.set()

    def retire(self) -> None:
        """Stop keeping, and let the namespace go as it is."""
        self.retired = True
        self._hurry.set()
        self._wake.set()

    @property
    def identity(self) -> str:
        """The identity of the open namespace; empty when none is open."""
        return str(self._handle.netns.identity) if self._handle else ""

    def check_identity(self) -> None:
        """Wake when the target's name has come to mean another namespace, or none. Costs one stat."""
        if self._handle is not None and not self._still_meant(self._handle):
            self.wake()

    async def count(self) -> None:
        """Read the counters of the rules now."""
        handle, self.counted = self._handle, time.monotonic()
        if handle is not None and self.counters:
            with contextlib.suppress(WeirError):  # it was closed in this moment, or the next pass says what is wrong
                read = await self._in_worker(handle.read, self.target.table)
                self.counters = read.counters if read and handle is self._handle else ()

    async def run(self) -> None:
        """Keep the target until it retires, or until cancelled: then what is open goes with the process."""
        try:
            while not self.retired:
                self._wake.clear()
                self._hurry.clear()
                asked, target = self.asked, self.target
                outcome = await self._look(target)
                self._alike = self._alike + 1 if self.outcome and self.outcome.state is outcome.state else 1
                self._take_note(outcome)
                if isinstance(target.wish, Absent) and outcome.state in (State.REMOVED, State.UNCHANGED):
                    if self.leaving and asked == self.asked:
                        self.retired = True
                    await self._let_go()
                self.answered = asked
                self._done(self)
                if asked == self.asked and not self.retired:
                    await self._rest(outcome)
        finally:
            self._ignore()
        await self._let_go()

    async def _look(self, target: Target) -> Outcome:
        started = time.monotonic()
        if self._handle is not None and not self._still_meant(self._handle):
            await self._let_go()
        try:
            if self._handle is None:
                self._handle = await self._in_worker(_opened, target.netns)
            handle: Handle = self._handle
            holder = self._holders.setdefault(handle.netns.identity, self)
            if holder is not self:
                await self._let_go()
                return self._give_way(target, holder)
            self._listen()
            self._listeners, outcome = await self._in_worker(_pass, target, handle, self._records)
            if outcome.state is State.FAILED and not self._still_meant(handle):
                await self._let_go()
                raise NamespaceMissing(f"netns = {target.netns!r}: it went away or became another one half-way")
        except WeirError as error:
            missing = isinstance(error, NamespaceMissing | NotANamespace)
            gone = missing and isinstance(target.wish, Absent)
            state = State.REMOVED if gone else State.WAITING if missing else State.FAILED
            spent = time.monotonic() - started
            return Outcome(target=target, state=state, reason=str(error), hint=error.hint, seconds=spent)
        except Exception as error:
            # A bug, or memory or descriptors that ran out: this target tries again, the others go on.
            log.exception("target %s (netns %s)", target.name, target.netns)
            await self._let_go()
            return Outcome(target=target, state=State.FAILED, reason=f"unexpected: {error!r}", hint="the log says more")
        return outcome

    def _give_way(self, target: Target, holder: "Slot") -> Outcome:
        """Return what becomes of a target whose namespace another one has open, by another name."""
        said = f"netns = {target.netns!r}: is the namespace of target {holder.target.name!r} too"
        if self.leaving:
            self.retire()
            return Outcome(target=target, state=State.REMOVED, reason=said)
        if holder.leaving:
            holder.retire()
            return Outcome(target=target, state=State.WAITING, reason=f"{said}, which leaves it")
        return Outcome(target=target, state=State.FAILED, reason=said, hint="let the file name each namespace once")

    def _take_note(self, outcome: Outcome) -> None:
        """Keep the outcome, less the rulesets of a plan that changes nothing: they'd be most of the memory."""
        read = outcome.plan.rules.actual if outcome.plan is not None else None
        if outcome.state is State.REMOVED or not self._handle:
            self.counters = ()
        elif read is not None:
            self.counters, self.counted = read.counters, time.monotonic()
        self.outcome = outcome if outcome.plan else replace(outcome, plan=None)

    def _still_meant(self, handle: Handle) -> bool:
        return identify(Netns(self.target.netns).path) == handle.netns.identity

    async def _rest(self, outcome: Outcome) -> None:
        """Wait for the next pass: for a new wish not at all, for what may be part of a burst a moment."""
        if outcome.state is State.FAILED:
            # What the failed attempt itself has changed and taken back is no reason to try again at once.
            self._read_all()
            self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REST):
                await self._hurry.wait()
        loop = asyncio.get_running_loop()
        pass_at = loop.time() + max(0.0, self._pause(outcome) - REST)
        while not self._wake.is_set() and (left := pass_at - loop.time()) > 0:
            look_after = self._look_interval(outcome)
            try:
                async with asyncio.timeout(min(left, look_after)):
                    await self._wake.wait()
            except TimeoutError:
                if look_after < left and await self._listeners_changed():
                    return
                self._alike += outcome.state is State.WAITING

    def _look_interval(self, outcome: Outcome) -> float:
        """Return the seconds until listeners are looked at, which send no word when they come and go."""
        if self._handle is None or isinstance(outcome.target.wish, Absent) or outcome.state is State.FAILED:
            return LONGEST_RETRY
        return _growing(self._alike) if outcome.state is State.WAITING else LISTENERS_INTERVAL

    async def _listeners_changed(self) -> bool:
        """Tell whether others listen than the last time: a fraction of what a pass costs."""
        if self._handle is not None:
            with contextlib.suppress(WeirError, OSError):  # a pass says what is wrong
                return await self._in_worker(_listeners, self._handle) != self._listeners
        return True

    def _pause(self, outcome: Outcome) -> float:
        """Return the seconds until the next pass, should nothing happen before."""
        spread = random.uniform(0.9, 1.1)  # noqa: S311 (so that targets don't move in step)
        match outcome.state:
            case State.FAILED:
                return spread * min(LONGEST_RETRY, FIRST_RETRY * 2.0 ** min(self._alike - 1, 10))
            case State.WAITING if self._handle is None:
                return _growing(self._alike)
            case _:
                return min(spread * self._resync, self._resync if outcome.again is None else outcome.again)

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
            for _ in range(_MOST_CHANGES):
                changes.recv(65536)
        self._wake.set()

    def _read_all(self) -> None:
        for each in self._listening:
            self._read_away(each)

    def _ignore(self) -> None:
        # Before the sockets are closed: the loop would go on watching whatever gets their numbers next.
        for each in self._listening:
            asyncio.get_running_loop().remove_reader(each)
        self._listening = ()

    async def _let_go(self) -> None:
        """Close the namespace, so that it can go; in a worker, since the kernel may take its time."""
        self._ignore()
        handle, self._handle = self._handle, None
        if handle is not None:
            try:
                await self._in_worker(handle.close)
            finally:
                if self._holders.get(handle.netns.identity) is self:
                    del self._holders[handle.netns.identity]

    async def _in_worker(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, lambda: call(*args, **kwargs))


def _growing(looks: int) -> float:
    return min(LONGEST_LOOK, FIRST_LOOK * 1.2 ** min(max(looks - 1, 0), 50))


def _listeners(handle: Handle) -> frozenset[Listener]:
    """Return who listens in a namespace. Runs in a worker."""
    with handle.inside(), SocketDiag() as diag:
        return diag.listening_ports()


def _opened(netns: str) -> Handle:
    """Open a namespace and listen to it. Runs in a worker."""
    handle = Handle(Netns(netns))
    try:
        handle.subscribe()
    except BaseException:
        handle.close()
        raise
    return handle


def _pass(target: Target, handle: Handle, records: Records) -> tuple[frozenset[Listener], Outcome]:
    """Make one pass; return who listened before it, and its outcome. Runs in a worker."""
    return _listeners(handle), reconcile(target, handle, records)
