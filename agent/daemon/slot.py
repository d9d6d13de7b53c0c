"""One target in the daemon: its newest wish, its open namespace, and when it is looked at again."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from agent.daemon import pace
from agent.daemon.bell import Bell
from agent.daemon.passes import read_back
from agent.daemon.threads import Threads
from agent.daemon.watching import Told, Watch
from agent.daemon.weighing import Weighing
from agent.daemon.work import Passed, Seen, look, make_pass, opened
from agent.drift import Drift
from agent.errors import NamespaceMissing, NotANamespace, WeirError
from agent.kernel.handle import Handle
from agent.kernel.netns import Identity, Netns, identify
from agent.reconcile import BEHIND_THE_ANSWER, to_be_read_back
from agent.state import Records
from agent.targets import Absent, Outcome, State, Target, TargetPlan
from rulesets.model import Counter

log = logging.getLogger("weir")


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
        "_read_back",
        "_records",
        "_rhythm",
        "_rivals",
        "_seen",
        "_threads",
        "_wake",
        "_watch",
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
        rhythm: pace.Rhythm,
        holders: "dict[Identity, Slot]",
        done: Callable[["Slot"], None],
        read_back: Callable[["Slot"], None],
        told: Told | None = None,
    ) -> None:
        """Take what is needed; nothing happens before `run`.

        Each pass ends with `done`; one that wrote is followed by `read_back`. `flags` are those of the table
        (`Handle`). `holders` is shared: who has which namespace open. Two names can mean one. `told` hears of drift.
        """
        self.target = target
        self.outcome: Outcome | None = None
        self.counters, self.counted = tuple[Counter, ...](), 0.0
        self.asked, self.answered = 1, 0
        self.leaving = self.retired = self.forgets = self.told = False
        self._threads = threads
        self._flags, self._records = flags, records
        self._rhythm = rhythm
        self._rivals = Weighing()
        self._holders = holders
        self._done = done
        self._read_back = read_back
        self._handle: Handle | None = None
        self._seen: Seen | None = None  # as it was just before the newest pass
        self._wake, self._hurry = Bell(), Bell()
        self._watch = Watch(self._wake.ring, told)
        self._alike = 0

    @property
    def drifts(self) -> tuple[Drift, ...]:
        """The newest drifts, the last of them last; a few are remembered."""
        return self._watch.drifts

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

    @property
    def handle(self) -> Handle | None:
        """The namespace where it is open; it may be closed at any moment."""
        return self._handle

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
                self._watch.begin()
                asked, target = self.asked, self.target
                passed = await self._look(target)
                looked = outcome = self._rivals.noted(passed.outcome)
                drifted = self._watch.judge(looked, passed.seen, away=passed.away)
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
                del looked, passed  # its plan would be most of the memory while the slot rests
                if asked == self.asked and not self.retired:
                    await self._rest(outcome, drifted=drifted)
        finally:
            self._watch.ignore()
        if self.forgets and self._handle is not None:  # while it is open, no other can have its identity
            self._records.forget(self._handle.netns.identity)
        await self._let_go()

    async def _look(self, target: Target) -> Passed:
        started = time.monotonic()
        if self._handle is not None and not self._still_meant(self._handle):
            if identify(Netns(target.netns).file) is not None:
                self._watch.replaced(target)
            await self._let_go()
        seen = None
        try:
            if self._handle is None:
                self._handle = await self._threads.work(opened, target.netns, self._flags)
            handle: Handle = self._handle
            holder = self._holders.setdefault(handle.netns.identity, self)
            if holder is not self:
                await self._let_go()
                return Passed(outcome=self._give_way(target, holder))
            self._watch.listen(handle)
            first = self._seen is None
            passed = await self._threads.work(make_pass, target, handle, self._records, first=first)
            self._seen = seen = passed.seen
            if passed.outcome.state is State.FAILED and not self._still_meant(handle):
                await self._let_go()
                raise NamespaceMissing(f"netns = {target.netns!r}: it went away or became another one half-way")
            return passed
        except WeirError as error:
            missing = isinstance(error, NamespaceMissing | NotANamespace)
            gone = missing and isinstance(target.wish, Absent)
            state = State.REMOVED if gone else State.WAITING if missing else State.FAILED
            spent = time.monotonic() - started
            outcome = Outcome(target=target, state=state, reason=str(error), hint=error.hint, seconds=spent)
            return Passed(seen=seen, outcome=outcome)
        except Exception as error:
            log.exception("target %s (netns %s)", target.name, target.netns)
            await self._let_go()
            return Passed(outcome=_unexpected(target, error))

    async def _witnessed(self, outcome: Outcome) -> Outcome:
        """Have what a pass wrote read back, now that whoever waited for it is answered; return what came of it."""
        handle = self._handle
        if handle is None or not to_be_read_back(outcome):
            return outcome
        await asyncio.sleep(BEHIND_THE_ANSWER)
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
        ours, before = plan.rules.desired if plan is not None else None, self._rivals.found
        changed = await self._rivals.weigh(outcome, ours, self._handle, self._threads)
        self._watch.weighed(outcome.target, before, self._rivals.found, done=self._rivals.due is None)
        if changed:
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

    async def _rest(self, outcome: Outcome, *, drifted: bool) -> None:
        """Wait for the next pass: for a new wish not at all, for what may be part of a burst a moment."""
        if outcome.state is State.FAILED:
            # What the attempt itself has changed and taken back is no reason to try again at once.
            self._watch.read_all()
            self._wake.silence()
        await self._hurry.heard_within(pace.rest(outcome, told=self.told and not drifted))
        loop, is_open, open_ones = asyncio.get_running_loop(), self._handle is not None, len(self._holders)
        resync = pace.stretched(self._rhythm.resync, told=self.told, of=open_ones)
        pause = pace.pause(outcome, alike=self._alike, resync=resync, is_open=is_open)
        pass_at = loop.time() + min(pause, pause if self._rivals.due is None else self._rivals.due) - pace.REST
        while not self._wake.rung and (left := pass_at - loop.time()) > 0:
            look_after = pace.look_interval(
                outcome, self._rhythm.poll, alike=self._alike, is_open=is_open, told=self.told, of=open_ones
            )
            if not await self._wake.heard_within(min(left, look_after)):
                if look_after < left and await self._seen_otherwise():
                    return
                self._alike += outcome.state is State.WAITING

    async def _seen_otherwise(self) -> bool:
        """Tell whether others listen than the last time, or a setting is another: a fraction of what a pass costs."""
        if self._handle is not None:
            with contextlib.suppress(WeirError, OSError):  # a pass says what is wrong
                return await self._threads.work(look, self._handle) != self._seen
        return True

    async def _let_go(self) -> None:
        """Close the namespace, so that it can go; off the workers' path, since the kernel may take its time."""
        self._watch.ignore()
        handle, self._handle, self._seen = self._handle, None, None
        if handle is not None:
            try:
                await self._threads.follow_up(handle.close)
            finally:
                if self._holders.get(handle.netns.identity) is self:
                    del self._holders[handle.netns.identity]


def _unexpected(target: Target, error: Exception) -> Outcome:
    """Return the outcome of a bug, or of memory that ran out: this target tries again, the others go on."""
    return Outcome(target=target, state=State.FAILED, reason=f"unexpected: {error!r}", hint="the log says more")
