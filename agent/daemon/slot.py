"""One target in the daemon: its newest wish, its open namespace, and when it is looked at again."""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import replace

from agent.daemon import pace
from agent.daemon.bell import Bell
from agent.daemon.threads import Threads
from agent.daemon.weighing import Weighing
from agent.daemon.work import listeners_of, make_pass, opened
from agent.errors import NamespaceMissing, NotANamespace, WeirError
from agent.kernel.handle import Handle
from agent.kernel.netns import Identity, Netns, identify
from agent.kernel.sockets import Listener
from agent.reconcile import read_back, to_be_read_back
from agent.state import Records
from agent.targets import Absent, Outcome, State, Target, TargetPlan
from rulesets.model import Counter

log = logging.getLogger("weir")
_MOST_CHANGES = 64  # read at once: whoever changes rules without end must not keep the loop


class Slot:
    """Keeps one target as it is wanted: passes one after the other, always for the newest wish.

    To be used in the loop's thread; what touches a namespace goes to a worker, one thing at a time. There is one for
    each pod of a node, so that what it holds is counted (`./dev bench memory`).
    """

    __slots__ = (
        "_alike",
        "_done",
        "_flags",
        "_handle",
        "_holders",
        "_hurry",
        "_listeners",
        "_listening",
        "_read_back",
        "_records",
        "_resync",
        "_rivals",
        "_threads",
        "_wake",
        "answered",
        "asked",
        "counted",
        "counters",
        "forgets",
        "leaving",
        "outcome",
        "retired",
        "target",
        "told",
    )

    def __init__(
        self,
        target: Target,
        *,
        threads: Threads,
        flags: tuple[str, ...] | None,
        records: Records,
        resync: float,
        holders: "dict[Identity, Slot]",
        done: Callable[["Slot"], None],
        read_back: Callable[["Slot"], None],
    ) -> None:
        """Take what is needed; nothing happens before `run`. `resync` is in seconds.

        Each pass ends with `done`; one that wrote is followed by `read_back`. `flags` are those of the table
        (`Handle`). `holders` is shared: who has which namespace open. Two names can mean one.
        """
        self.target = target
        self.outcome: Outcome | None = None
        self.counters, self.counted = tuple[Counter, ...](), 0.0
        self.asked, self.answered = 1, 0
        self.leaving = self.retired = self.forgets = self.told = False
        self._threads = threads
        self._flags = flags
        self._records = records
        self._resync = resync
        self._rivals = Weighing()
        self._holders = holders
        self._done = done
        self._read_back = read_back
        self._handle: Handle | None = None
        self._listening: tuple[socket.socket, ...] = ()
        self._listeners: frozenset[Listener] = frozenset()  # as they were just before the newest pass
        self._wake, self._hurry = Bell(), Bell()
        self._alike = 0

    def want(self, target: Target, *, leaving: bool = False) -> None:
        """Replace the wish. A pass that is under way ends, and another one follows for the new wish.

        One that is `leaving` retires by itself when nothing is left in its namespace.
        """
        self.target, self.leaving = target, leaving
        self._alike = 0
        self.asked += 1
        self._hurry.ring()
        self._wake.ring()

    def wake(self) -> None:
        """Have the target looked at soon, and more often for a while."""
        self._alike = 0
        self._wake.ring()

    def retire(self) -> None:
        """Stop keeping, and let the namespace go as it is; where it `forgets`, with nothing remembered of it."""
        self.retired = True
        self._hurry.ring()
        self._wake.ring()

    def holds(self, identity: str) -> bool:
        """Tell whether this target's namespace is the one with this identity, open or (when it was released) not."""
        found = self._handle.netns.identity if self._handle else identify(Netns(self.target.netns).file)
        return str(found) == identity

    def check_identity(self) -> None:
        """Wake when the target's name has come to mean another namespace, or none. Costs one stat."""
        if self._handle is not None and not self._still_meant(self._handle):
            self.wake()

    async def count(self) -> None:
        """Read the counters of the rules now."""
        handle, began = self._handle, time.monotonic()
        if handle is not None:
            with contextlib.suppress(WeirError):  # it was closed in this moment, or the next pass says what is wrong
                read = await self._threads.work(handle.counters, self.target.table)
                self.counters = read if handle is self._handle else ()
        self.counted = began  # what a scrape had no time for is the first that the next one reads

    async def run(self) -> None:
        """Keep the target until it retires, or until cancelled: then what is open goes with the process."""
        try:
            while not self.retired:
                self._wake.silence()
                self._hurry.silence()
                asked, target = self.asked, self.target
                looked = outcome = self._rivals.noted(await self._look(target))
                self._alike = self._alike + 1 if self.outcome and self.outcome.state is outcome.state else 1
                outcome = self._take_note(outcome)
                if isinstance(target.wish, Absent) and outcome.state in (State.REMOVED, State.UNCHANGED):
                    if self.leaving and asked == self.asked:
                        self.retired = True
                    await self._let_go()
                self.answered = asked
                self._done(self)
                outcome = await self._witnessed(outcome)
                await self._weigh(outcome, looked.plan)
                del looked  # its plan would be most of the memory while the slot rests
                if asked == self.asked and not self.retired:
                    await self._rest(outcome)
        finally:
            self._ignore()
        if self.forgets and self._handle is not None:  # while it is open, no other can have its identity
            self._records.forget(self._handle.netns.identity)
        await self._let_go()

    async def _look(self, target: Target) -> Outcome:
        started = time.monotonic()
        if self._handle is not None and not self._still_meant(self._handle):
            await self._let_go()
        try:
            if self._handle is None:
                self._handle = await self._threads.work(opened, target.netns, self._flags)
            handle: Handle = self._handle
            holder = self._holders.setdefault(handle.netns.identity, self)
            if holder is not self:
                await self._let_go()
                return self._give_way(target, holder)
            self._listen()
            self._listeners, outcome = await self._threads.work(make_pass, target, handle, self._records)
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
            log.exception("target %s (netns %s)", target.name, target.netns)
            await self._let_go()
            return _unexpected(target, error)
        return outcome

    async def _witnessed(self, outcome: Outcome) -> Outcome:
        """Have what a pass wrote read back, now that whoever waited for it is answered; return what came of it."""
        handle = self._handle
        if handle is None or not to_be_read_back(outcome):
            return outcome
        try:
            outcome = await self._threads.follow_up(read_back, outcome, handle)
        except Exception as error:
            log.exception("target %s (netns %s)", outcome.target.name, outcome.target.netns)
            outcome = _unexpected(outcome.target, error)
        outcome = self._take_note(outcome)
        self._read_back(self)
        return outcome

    async def _weigh(self, outcome: Outcome, plan: TargetPlan | None) -> None:
        """Look at what others' rules take of the target; where that has changed, the next pass says so."""
        ours = plan.rules.desired if plan is not None else None
        if await self._rivals.weigh(outcome, ours, self._handle, self._threads):
            self._wake.ring()

    def _give_way(self, target: Target, holder: "Slot") -> Outcome:
        """Return what becomes of a target whose namespace another one has open, by another name."""
        said = f"netns = {target.netns!r}: is the namespace of target {holder.target.name!r} too"
        if self.leaving:
            self.retire()
            return Outcome(target=target, state=State.REMOVED, reason=said)
        if holder.leaving or holder.retired:
            holder.retire()
            return Outcome(target=target, state=State.WAITING, reason=f"{said}, which leaves it")
        return Outcome(target=target, state=State.FAILED, reason=said, hint="let the file name each namespace once")

    def _take_note(self, outcome: Outcome) -> Outcome:
        """Keep and return the outcome, less a plan that changes nothing: it would be most of the memory."""
        if outcome.state is State.REMOVED or not self._handle:
            self.counters = ()
        self.outcome = outcome if outcome.plan else replace(outcome, plan=None)
        return self.outcome

    def _still_meant(self, handle: Handle) -> bool:
        return identify(Netns(self.target.netns).file) == handle.netns.identity

    async def _rest(self, outcome: Outcome) -> None:
        """Wait for the next pass: for a new wish not at all, for what may be part of a burst a moment."""
        if outcome.state is State.FAILED:
            self._read_all()  # what the attempt itself has changed and taken back is no reason to try again at once
            self._wake.silence()
        await self._hurry.heard_within(pace.rest(outcome, told=self.told))
        loop, is_open = asyncio.get_running_loop(), self._handle is not None
        pause = pace.pause(outcome, alike=self._alike, resync=self._resync, is_open=is_open, told=self.told)
        pause = pause if self._rivals.due is None else min(pause, self._rivals.due)
        pass_at = loop.time() + pause - pace.REST
        while not self._wake.rung and (left := pass_at - loop.time()) > 0:
            look_after = pace.look_interval(outcome, alike=self._alike, is_open=is_open, told=self.told)
            if not await self._wake.heard_within(min(left, look_after)):
                if look_after < left and await self._listeners_changed():
                    return
                self._alike += outcome.state is State.WAITING

    async def _listeners_changed(self) -> bool:
        """Tell whether others listen than the last time: a fraction of what a pass costs."""
        if self._handle is not None:
            with contextlib.suppress(WeirError, OSError):  # a pass says what is wrong
                return await self._threads.work(listeners_of, self._handle) != self._listeners
        return True

    def _listen(self) -> None:
        """Have the loop wake this slot when rules, routes or interfaces of the open namespace change."""
        if self._handle is None or self._listening:
            return
        self._listening = self._handle.subscribe()
        for each in self._listening:
            asyncio.get_running_loop().add_reader(each.fileno(), self._read_away, each)

    def _read_away(self, changes: socket.socket) -> None:
        """Read what has come. That something came, or was lost for want of room, is all that counts."""
        with contextlib.suppress(OSError):
            for _ in range(_MOST_CHANGES):
                changes.recv(65536)
        self._wake.ring()

    def _read_all(self) -> None:
        for each in self._listening:
            self._read_away(each)

    def _ignore(self) -> None:
        # Before the sockets are closed: the loop would go on watching whatever gets their numbers next.
        for each in self._listening:
            asyncio.get_running_loop().remove_reader(each.fileno())
        self._listening = ()

    async def _let_go(self) -> None:
        """Close the namespace, so that it can go; off the workers' path, since the kernel may take its time."""
        self._ignore()
        handle, self._handle = self._handle, None
        if handle is not None:
            try:
                await self._threads.follow_up(handle.close)
            finally:
                if self._holders.get(handle.netns.identity) is self:
                    del self._holders[handle.netns.identity]


def _unexpected(target: Target, error: Exception) -> Outcome:
    """Return the outcome of a bug, or of memory that ran out: this target tries again, the others go on."""
    return Outcome(target=target, state=State.FAILED, reason=f"unexpected: {error!r}", hint="the log says more")
