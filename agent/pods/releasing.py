"""From a captured pod to one in which nothing of Weir is left."""

import logging
from contextlib import suppress

from agent.cni.protocol import Verdict
from agent.errors import WeirError
from agent.mesh.status import Released
from agent.pods.course import Course
from agent.pods.standing import Step
from agent.pods.surroundings import PASS, Surroundings
from agent.pods.wishes import Unwanted
from agent.sources.kubernetes.sandboxes import Sandbox
from agent.state import now
from agent.targets import Absent, State, Target

log = logging.getLogger("weir")
UNDONE = 1.0  # seconds that a failed ADD waits for its rules to be taken away
WORD = 2.0  # seconds that a release waits for the API, and for the proxies; both hear of it later all the same
AFTER_DELETION = 30.0  # seconds in which a pod whose sandbox was deleted is not looked for: the next one is told of


class Releasing:
    """Takes the steps. To be used in the loop's thread."""

    def __init__(self, by: Surroundings) -> None:
        """Take what they are taken with."""
        self._by = by

    async def release(self, course: Course, wish: Unwanted) -> None:
        """Take the steps that are missing until nothing is left of Weir."""
        course.wanted_at = None
        course.answer(Verdict.REFUSED if wish.gone else Verdict.OUTSIDE, wish.reason)
        if wish.gone:
            await self.let_go(course)
            course.at(Step.OUTSIDE, wish.reason)
            self._by.dropped(course)
            return
        if course.redirection:
            self._by.redirection.want(course, None)
            await self._by.redirection.written(course, WORD)
        if course.sandbox is not None and not await self._rules_go(course, course.sandbox, wish):
            return
        if not course.bare:
            course.at(Step.RELEASING, "proxies and the node's table are to let go of it")
            await self.forget(course, WORD, sandbox_stays=True)
        course.at(Step.OUTSIDE, wish.reason)
        if not course.redirection:
            self._by.dropped(course)

    async def _rules_go(self, course: Course, sandbox: Sandbox, wish: Unwanted) -> bool:
        """Release its namespace; tell whether nothing is left there."""
        drain = 0.0 if wish.over else self._by.drain()
        before = course.target.wish if course.target is not None else None
        if not isinstance(before, Absent) or drain < before.drain:
            target = Target(name=str(course.pod), netns=sandbox.netns, wish=Absent(drain=drain))
            self._by.kept_by[target.netns] = course
            async with self._by.turns:
                await course.pass_of(target, lambda each: self._by.rules.put(each, leaving=True), PASS)
        outcome = course.outcome
        if outcome is not None and outcome.state in (State.REMOVED, State.UNCHANGED):
            return True
        reason = outcome.reason if outcome is not None else f"no pass over its rules within {PASS:g} seconds"
        course.at(Step.DRAINING, f"{reason}; {wish.reason}", outcome.hint if outcome is not None else "")
        return False

    async def let_go(self, course: Course) -> None:
        """Forget a sandbox that ends: its rules go with it, and nobody waits for anything."""
        if course.target is not None:
            self.retire(course, course.target)
        course.not_before = now() + AFTER_DELETION
        await self.forget(course, 0.0)

    async def undo(self, course: Course) -> None:
        """Leave nothing behind of an ADD that has failed: within a second also no rules, where the kernel allows."""
        if course.target is not None:
            target = Target(name=course.target.name, netns=course.target.netns, wish=Absent())
            await course.pass_of(target, lambda each: self._by.rules.put(each, leaving=True), UNDONE)
        await self.forget(course, 0.0)

    async def forget(self, course: Course, seconds: float, *, sandbox_stays: bool = False) -> None:
        """Have the proxies and the node's table let go of a pod; wait so long for the proxies.

        A sandbox that stays is remembered: the pod may be wanted again.
        """
        if course.target is not None:
            self._by.kept_by.pop(course.target.netns, None)
        announced, probed = course.announced, course.probed
        course.target = course.outcome = course.announced = course.probed = None
        course.sandbox, course.early = None, False
        if announced is not None:
            released = await self._by.proxies.delete(course.uid, seconds)
            if seconds and not isinstance(released, Released):
                log.warning("%s is released, and a proxy may still serve it: %s", course.pod, released.words)
        if probed is not None:
            with suppress(WeirError):  # the node's table tries again by itself, and says so
                await self._by.probes.drop(course.uid)
        if not sandbox_stays:
            self._by.memory.forget(course.uid)

    def retire(self, course: Course, target: Target) -> None:
        """Keep a namespace no longer that is about to end."""
        self._by.rules.retire(target.netns)
        if self._by.kept_by.get(target.netns) is course:
            del self._by.kept_by[target.netns]
