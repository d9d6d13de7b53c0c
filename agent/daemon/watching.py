"""One namespace listened to: what is told of its rules and routes, and which of what a pass finds is drift."""

import asyncio
import socket
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Protocol

from agent.daemon.work import Seen
from agent.drift import MOST_DRIFTS, Drift, Kind, judging, polled
from agent.drift.deeds import Deed, Deeds, by_port
from agent.drift.judging import Baseline
from agent.kernel.handle import Handle
from agent.kernel.notifications import LARGEST
from agent.kernel.subscription import received
from agent.kernel.tablequery import TableName
from agent.targets import Captured, Outcome, Rival, State, Target
from rulesets.model import Ruleset
from rulesets.routing import Routing

# Bytes that are read at once, a datagram counting as so many at least, and seconds until more are: whoever changes
# rules without end must not keep the loop.
_MOST_READ, _LEAST, _REST = 1 << 16, 1 << 10, 0.1
_MOST_FOREIGN = 4  # tables of others that are remembered until they are weighed
_NO_DEEDS = Deeds()
_NOTHING_FOREIGN: tuple[tuple[Deed, ...], bool] = ((), False)
_SETTLED = (State.UNCHANGED, State.APPLIED, State.DEGRADED)


@lru_cache(maxsize=256)
def _one_of(rules: Ruleset | None, routing: Routing) -> Baseline:
    """Return one value for like namespaces."""
    return Baseline(rules=rules, routing=routing)


class Told(Protocol):
    """Who is told of drift."""

    def drifted(self, target: Target, found: tuple[Drift, ...]) -> None:
        """Take what has drifted in a target."""

    def repaired(self, seconds: float) -> None:
        """Take the time from the first notification of drift until the target was captured again."""


class Watch:
    """Listens to one target's namespace and judges its passes. To be used in the loop's thread.

    At rest it holds nothing but what the last pass left, which like namespaces share.
    """

    __slots__ = (
        "_base",
        "_deeds",
        "_foreign",
        "_handle",
        "_listening",
        "_mark",
        "_since",
        "_told",
        "_wake",
        "drifts",
    )

    def __init__(self, wake: Callable[[], None], told: Told | None) -> None:
        """Call `wake` whenever something is told; nothing is listened to before `listen`."""
        self.drifts: tuple[Drift, ...] = ()
        self._wake, self._told = wake, told
        self._listening: tuple[socket.socket, ...] = ()
        self._deeds: Deeds | None = None  # since the last pass, where there are any
        self._foreign = _NOTHING_FOREIGN  # until others' rules were weighed
        self._handle: Handle | None = None
        self._base: tuple[Target, Baseline, Seen] | None = None
        self._mark = 0
        self._since: float | None = None  # when drift was first told of that isn't repaired yet

    def listen(self, handle: Handle) -> None:
        """Have the loop wake the target when rules, routes or interfaces of an open namespace change."""
        if self._listening:
            return
        self._listening, self._handle = handle.subscribe(), handle
        for each, hear in zip(self._listening, self._hearing(), strict=True):
            asyncio.get_running_loop().add_reader(each.fileno(), self._read, each, hear)

    def ignore(self) -> None:
        """Listen no longer, and forget the namespace."""
        # Before the sockets are closed: the loop would go on watching whatever gets their numbers next.
        for each in self._listening:
            asyncio.get_running_loop().remove_reader(each.fileno())
        self._listening, self._handle = (), None
        self._deeds = self._base = self._since = None
        self._foreign = _NOTHING_FOREIGN

    def read_all(self) -> None:
        """Read what has come, and waits for the loop."""
        for each, hear in zip(self._listening, self._hearing(), strict=False):
            self._read(each, hear)

    def begin(self) -> None:
        """Note that a pass begins: it sees what was told until now."""
        self._mark = self._deeds.mark if self._deeds is not None else 0

    def replaced(self, target: Target) -> None:
        """Take it that the target's name means another namespace, while the one that it meant was kept."""
        if self._base is not None and self._base[0].netns == target.netns:
            said = f"netns = {target.netns!r}: means another namespace by now"
            self._tell(target, (Drift(kind=Kind.NAMESPACE_REPLACED, said=said, culprit=None, at=time.time()),))

    def judge(self, outcome: Outcome, seen: Seen | None, *, away: bool) -> bool:
        """Tell which of what a pass has found is drift, and keep what it leaves for the next; return whether any was.

        `seen` is what was polled just before it, None where it didn't come so far; `away`: the table was written by a
        daemon of before, and isn't as it was.
        """
        self.read_all()
        target, deeds, now = outcome.target, self._deeds or _NO_DEEDS, time.time()
        found = self._found(outcome, seen, away=away, now=now)
        if deeds.lost:
            said = "notifications were lost, so that everything was looked at"
            found = (*found, Drift(kind=Kind.OVERRUN, said=said, culprit=None, at=now))
        if found:
            if self._since is None and (deeds.found or deeds.lost):
                self._since = deeds.since
            self._tell(target, found)
        if self._since is not None and outcome.captured:
            if self._told is not None:
                self._told.repaired(time.monotonic() - self._since)
            self._since = None
        settled = outcome.state in _SETTLED and isinstance(target.wish, Captured)
        self._note_foreign(target, seen)
        self._rebase(outcome, seen, settled=settled, drifted=bool(found))
        if self._deeds is not None and not self._deeds.end_pass(self._mark, wrote=bool(outcome.plan) and settled):
            self._deeds = None
        return bool(found)

    def weighed(self, target: Target, before: tuple[Rival, ...], after: tuple[Rival, ...], *, done: bool) -> None:
        """Tell which rules of others that take from the target have just come; `done`: they were all looked at."""
        deeds, legacy = self._foreign
        if after != before and (deeds or legacy):
            found = judging.of_rivals(before, after, deeds, legacy_moved=legacy, now=time.time())
            if found:
                self._tell(target, found)
        if done:
            self._foreign = _NOTHING_FOREIGN

    def _found(self, outcome: Outcome, seen: Seen | None, *, away: bool, now: float) -> tuple[Drift, ...]:
        target, plan = outcome.target, outcome.plan
        if not isinstance(target.wish, Captured):
            return ()
        if away and plan is not None:
            return judging.while_away(plan, now=now)
        if self._base is None or self._base[0] != target:
            return ()
        _, before, last = self._base
        deeds = (self._deeds or _NO_DEEDS).found
        found = list(judging.of_objects((each for each in deeds if each.number <= self._mark), now=now))
        if plan is not None:
            found += judging.of_plan(plan, before, deeds, now=now)
        elif outcome.state is State.FAILED:
            found += judging.of_failure(TableName(family="inet", name=target.table), deeds, now=now)
        if seen is not None:
            if not outcome.captured:
                ports = target.wish.capture.proxy_ports
                found += judging.of_listeners(last.listeners, seen.listeners, ports, now=now)
            found += polled.of_settings(last.polled, seen.polled, now=now)
        return tuple(found)

    def _rebase(self, outcome: Outcome, seen: Seen | None, *, settled: bool, drifted: bool) -> None:
        """Note what the next pass is to be compared with."""
        target, plan = outcome.target, outcome.plan
        if settled and plan is not None and seen is not None:
            self._base = target, _one_of(plan.rules.desired, plan.routing.desired), seen
        elif self._base is not None and self._base[0] != target:
            self._base = None
        elif drifted and self._base is not None:
            # It is told, and not mended yet: the next pass finds it again, and has nothing new to tell.
            base = self._base[1] if plan is None else Baseline(rules=plan.rules.actual, routing=plan.routing.actual)
            self._base = target, base, seen or self._base[2]

    def _note_foreign(self, target: Target, seen: Seen | None) -> None:
        """Remember who came into whose tables, until others' rules are weighed."""
        if self._base is None or self._base[0] != target:
            return
        ours = TableName(family="inet", name=target.table)
        deeds, legacy = self._foreign
        by_table = {each.table: each for each in deeds}
        by_table |= {
            each.table: each
            for each in (self._deeds or _NO_DEEDS).found
            if each.table not in (None, ours) and not each.gone
        }
        moved = seen is not None and seen.polled.legacy != self._base[2].polled.legacy
        if by_table or legacy or moved:
            self._foreign = tuple(by_table.values())[-_MOST_FOREIGN:], legacy or moved

    def _tell(self, target: Target, found: tuple[Drift, ...]) -> None:
        lost = any(each.kind is Kind.OVERRUN for each in found)  # the newest one is enough to know
        kept = (each for each in self.drifts if not lost or each.kind is not Kind.OVERRUN)
        self.drifts = (*kept, *found)[-MOST_DRIFTS:]
        if self._told is not None:
            self._told.drifted(target, found)

    def _hearing(self) -> tuple[Callable[[Deeds, bytes], None], Callable[[Deeds, bytes], None]]:
        """Return how what comes by each socket is taken, in their order."""
        return self._hear_tables, self._hear_routing

    def _hear_tables(self, deeds: Deeds, told: bytes) -> None:
        if self._handle is not None:  # its socket has no port before it has written
            deeds.hear_tables(told, ours=self._handle.port)

    def _hear_routing(self, deeds: Deeds, told: bytes) -> None:
        if self._handle is not None:
            deeds.hear_routing(told, whose=partial(by_port, namespace=self._handle.netns.identity))

    def _heard(self) -> Deeds:
        if self._deeds is None:
            self._deeds = Deeds()
        return self._deeds

    def _read(self, changes: socket.socket, hear: Callable[[Deeds, bytes], None]) -> None:
        """Read what has come, and what is too much at once in a moment."""
        room = _MOST_READ
        while room > 0:
            try:
                told = received(changes, LARGEST)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: something was lost
                self._heard().lose()
            else:
                room -= max(len(told), _LEAST)
                if not told:
                    continue
                if self._base is not None:  # before the first pass has ended nothing can drift
                    hear(self._heard(), told)
            self._wake()
        loop = asyncio.get_running_loop()
        loop.remove_reader(changes.fileno())
        loop.call_later(_REST, self._go_on, changes, hear)

    def _go_on(self, changes: socket.socket, hear: Callable[[Deeds, bytes], None]) -> None:
        if changes in self._listening:
            asyncio.get_running_loop().add_reader(changes.fileno(), self._read, changes, hear)
