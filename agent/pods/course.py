"""The course of one pod: what it has come to, and one task that carries out the newest wish.

Whatever happens rings: a change in the API, a question of the container runtime, a proxy's word, a pass over the rules.
The task reads what is wanted then, takes the steps that are missing, and ends. So nothing about one pod ever happens
twice at once, a burst is answered together, and a pod that is as it should be costs no task.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from agent.cni import protocol as cni
from agent.cni.protocol import Answer, Verdict
from agent.errors import WeirError
from agent.kernel.netns import Identity
from agent.pods.request import Request, is_of, same_place
from agent.pods.standing import Step
from agent.pods.wishes import Unclear, Unwanted, Wanted, Wish
from agent.reconcile import to_be_read_back
from agent.sources.kubernetes.eligibility import Enrolment
from agent.sources.kubernetes.facts import Pod
from agent.sources.kubernetes.sandboxes import Sandbox
from agent.state import now
from agent.targets import Outcome, Target
from rulesets.host import ProbeTarget

log = logging.getLogger("weir")
FIRST_RETRY, LONGEST_RETRY = 0.25, 30.0  # seconds


class Steps(Protocol):
    """What leads to a wish: `agent.pods.steps.Steps`."""

    async def enrol(self, course: "Course", wish: Wanted) -> None:
        """Take the steps that are missing until the pod is captured, or say what it waits for."""

    async def release(self, course: "Course", wish: Unwanted) -> None:
        """Take the steps that are missing until nothing is left of Weir."""

    async def let_go(self, course: "Course") -> None:
        """Forget a sandbox that ends."""

    async def undo(self, course: "Course") -> None:
        """Leave nothing behind of an ADD that has failed."""

    def told(self, course: "Course", before: Step) -> None:
        """Say in the log, and on the pod, that it has come from a step to where it is."""


class Course:
    """One pod. To be used in the loop's thread."""

    __slots__ = (
        "_alike",
        "_ended",
        "_newest",
        "_passed",
        "_rung",
        "_steps",
        "_task",
        "_timer",
        "_wish",
        "announced",
        "early",
        "enrolment",
        "examined",
        "failed",
        "from_start",
        "gone",
        "hint",
        "late",
        "not_before",
        "notes",
        "outcome",
        "pod",
        "probed",
        "reason",
        "redirection",
        "request",
        "sandbox",
        "since",
        "step",
        "target",
        "uncaptured",
        "wanted_at",
    )

    def __init__(self, pod: Pod, *, steps: Steps, wish: "Callable[[Course], Wish]") -> None:
        """Take the pod as it is known. `wish` returns what is wanted of it now. Nothing happens before `ring`."""
        self.pod = pod
        self.gone = False  # the API has it no more
        self.request: Request | None = None  # of the container runtime: the one that the task is at
        self.sandbox: Sandbox | None = None
        self.early = False  # it was captured in an earlier life of the agent
        self.examined: Identity | None = None  # the namespace whose processes were looked at: whose kernel they have
        self.announced: Identity | None = None  # the namespace in which the proxies are to serve it
        self.probed: tuple[ProbeTarget, ...] | None = None  # what of it is in the node's table
        self.target: Target | None = None  # what its rules are to be
        self.outcome: Outcome | None = None  # of the newest pass over them for that target
        self.redirection = ""  # its annotation, as far as known
        self.from_start = False  # it was to be captured since its start, for all that is known
        self.failed = ""  # why its last ADD failed
        self.not_before = 0.0  # when its namespace may be looked for, in seconds since boot
        self.wanted_at: float | None = None  # since when it is outside although it is wanted, in seconds since boot
        self.uncaptured: float | None = None
        self.late = 0.0  # seconds for which it was outside, when it has just been captured
        self.step, self.reason, self.hint, self.since = Step.OUTSIDE, "", "", now()
        self.enrolment = Enrolment.UNKNOWN
        self.notes: tuple[str, ...] = ()
        self._steps = steps
        self._wish = wish
        self._newest: Request | None = None
        self._ended: list[cni.Sandbox] = []  # sandboxes that end
        self._rung = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._passed: asyncio.Future[Outcome] | None = None
        self._alike = 0

    @property
    def uid(self) -> str:
        """The pod's uid."""
        return self.pod.uid

    def rung(self) -> bool:
        """Tell whether something has happened since the newest wish was read."""
        return self._rung

    @property
    def working(self) -> bool:
        """Whether something is done about it now."""
        return self._task is not None

    @property
    def bare(self) -> bool:
        """Whether nothing of Weir is there, and nobody asks for it."""
        return not (self.sandbox or self.announced or self.probed or self.target or self._newest or self._ended)

    @property
    def asked(self) -> bool:
        """Whether the container runtime waits for it."""
        return self._newest is not None

    def ring(self) -> None:
        """Have the newest wish carried out."""
        self._rung = True
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def again(self, seconds: float | None = None) -> None:
        """Ring after a while; by default after longer and longer, while the same step fails."""
        if self._timer is not None:
            self._timer.cancel()
        if seconds is None:
            seconds = min(LONGEST_RETRY, FIRST_RETRY * 2.0 ** min(self._alike, 10))
            self._alike += 1
        self._timer = asyncio.get_running_loop().call_later(seconds, self.ring)

    async def add(self, asked: cni.Sandbox, patience: float) -> Answer:
        """Have the pod captured in a sandbox, and return how that went; the wait is `patience` seconds at most.

        A caller that is cancelled leaves nothing half-done.
        """
        before = self._newest
        same = before is not None and same_place(before.sandbox, asked)
        request = before if before is not None and same else Request(asked, again=self._has(asked))
        if before is not None and before is not request:
            before.refuse("another sandbox of the pod was made meanwhile")
        self._newest = request
        self.ring()
        return await request.answered(patience, given_up=self.ring)

    def _has(self, asked: cni.Sandbox) -> bool:
        return self.step is Step.CAPTURED and self.sandbox is not None and is_of(self.sandbox, asked)

    def sandbox_ends(self, asked: cni.Sandbox) -> None:
        """Take note that a sandbox ends. Never waits, never fails; another one of the pod stays."""
        self._ended.append(asked)
        self.ring()

    def at(self, step: Step, reason: str, hint: str = "") -> None:
        """Take note how far it has come."""
        if step is not self.step:
            self.since, self._alike = now(), 0
        news = (step, reason) != (self.step, self.reason)
        before, self.step, self.reason, self.hint = self.step, step, reason, hint
        if news:
            self._steps.told(self, before)

    def answer(self, verdict: Verdict, reason: str = "", hint: str = "") -> None:
        """Answer the container runtime, if it waits."""
        request, self.request = self.request, None
        self._newest = None if self._newest is request else self._newest
        if request is not None:
            request.answer(Answer(verdict=verdict, reason=reason, hint=hint))

    async def fail(self, verdict: Verdict, reason: str, hint: str = "") -> None:
        """Fail the ADD: leave nothing, then say why."""
        self.failed = reason
        try:
            if self.request is not None and not self.request.again:
                await self._steps.undo(self)
        finally:
            self.answer(verdict, reason, hint)

    # Passes over its rules.

    async def pass_of(self, target: Target, wanted: Callable[[Target], None], seconds: float) -> Outcome | None:
        """Have the rules be so, and return the outcome of the first pass for that; None where none came in time."""
        self.target, self.outcome = target, None
        passed: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._passed = passed
        try:
            wanted(target)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    return await passed
            return None
        finally:
            self._passed = None

    def passed(self, outcome: Outcome) -> None:
        """Take the outcome of a pass over its rules, or of reading back what that wrote."""
        if outcome.target is not self.target:
            return
        before, self.outcome = self.outcome, outcome
        if self._passed is not None and not self._passed.done():
            self._passed.set_result(outcome)
        elif before is None or _told(before) != _told(outcome):
            self.ring()

    # The task.

    async def _run(self) -> None:
        try:
            while self._rung:
                self._rung = False
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
                await self._advance()
        finally:
            self._task = None

    async def _advance(self) -> None:
        try:
            ended, self._ended, self.request = self._ended, [], self._newest
            for each in ended:
                await self._end(each)
            if self.request is not None and self.request.given_up:
                await self.fail(Verdict.REFUSED, f"{self.pod} is not captured in time: {self.reason}", self.hint)
            wish = self._wish(self)
            match wish:
                case Wanted():
                    self.enrolment, self.notes = wish.enrolment, wish.notes
                    await self._steps.enrol(self, wish)
                case Unwanted():
                    self.enrolment, self.notes = Enrolment.OUTSIDE, ()
                    await self._steps.release(self, wish)
                case Unclear():
                    self.at(Step.UNREADABLE if wish.unreadable else Step.UNDECIDED, wish.reason, wish.hint)
                    if self.request is not None:
                        verdict = Verdict.REFUSED if wish.unreadable else Verdict.UNKNOWN
                        await self.fail(verdict, wish.reason, wish.hint)
        except WeirError as error:
            self.at(self.step, str(error), error.hint)
            await self._failed(str(error), error.hint)
        except Exception as error:
            log.exception("%s (uid %s)", self.pod, self.uid)
            self.at(self.step, f"unexpected: {error!r}", "the log says more")
            await self._failed(self.reason, self.hint)

    async def _failed(self, reason: str, hint: str) -> None:
        """Answer whoever waits, and try again later."""
        try:
            if self.request is not None:
                with suppress(WeirError):
                    await self.fail(Verdict.REFUSED, reason, hint)
        finally:
            self.again()

    async def _end(self, ended: cni.Sandbox) -> None:
        if self.request is not None and same_place(self.request.sandbox, ended):
            await self.fail(Verdict.REFUSED, "its sandbox was deleted meanwhile")
        elif self.sandbox is not None and is_of(self.sandbox, ended):
            await self._steps.let_go(self)

    def close(self) -> asyncio.Task[None] | None:
        """Stop; return the task that was under way."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        return self._task


def _told(outcome: Outcome) -> tuple[object, ...]:
    return outcome.state, outcome.reason, outcome.captured, to_be_read_back(outcome)
