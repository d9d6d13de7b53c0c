"""`Pods`: every pod of this node that is to be captured, or still is."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from agent.cni.protocol import Answer, Request
from agent.cni.protocol import Sandbox as Asked
from agent.drift import Drift
from agent.errors import WeirError
from agent.pods import traces
from agent.pods.answers import Answers
from agent.pods.beginning import Beginning
from agent.pods.course import Course
from agent.pods.finding import Finding
from agent.pods.neighbours import Api, Find, Listing, Memory, Probes, Proxies, Rules
from agent.pods.outside import Outside
from agent.pods.probes import Threads
from agent.pods.redirection import Redirection
from agent.pods.standing import PodState, Step
from agent.pods.states import state_of, state_without_course
from agent.pods.steps import Steps
from agent.pods.surroundings import Surroundings
from agent.pods.telling import tell_drift
from agent.pods.wishes import Unclear, Unwanted, Wish, wish_of
from agent.sources.kubernetes.eligibility import Policy
from agent.sources.kubernetes.facts import REDIRECTION, Pod
from agent.state import now
from agent.targets import Outcome, Target
from rulesets.capture import Capture

log = logging.getLogger("weir")
_LOOK = 0.05  # seconds between two looks at whether every pod is released
SWEEP = 30.0  # seconds between two looks for pods that the API never listed


class Pods:
    """The pods of this node. To be used in the loop's thread."""

    def __init__(
        self,
        *,
        listing: Listing,
        api: Api,
        proxies: Proxies,
        probes: Probes,
        rules: Rules,
        memory: Memory,
        find: Find,
        threads: Threads,
        policy: Policy,
        defaults: Capture,
        drain: float,
        migrate: bool = False,
        captured: Callable[[float], None] = lambda _outside: None,
    ) -> None:
        """Take what is needed; `drain` is in seconds. Nothing happens before `listed`, or a question of the runtime.

        `defaults` is how a pod is captured that says nothing else, `migrate` whether Weir's rules are to come in the
        place of another agent's. `captured` is told of each pod that is captured anew how many seconds it was outside.
        The others have to call `changed`, `listed`, `standing_changed` and `passed`.
        """
        self._listing, self._api, self._proxies = listing, api, proxies
        self._memory, self._threads = memory, threads
        self._policy, self._defaults, self._drain, self._migrate = policy, defaults, drain, migrate
        self._courses: dict[str, Course] = {}
        self._by_netns: dict[str, Course] = {}
        self._finding = Finding(find, threads)
        self._outside = Outside(memory, threads, taken=self._courses.__contains__)
        self._redirection = Redirection(api)
        self._leaving = False  # whether every pod is to be released
        self._begun = self._closed = False
        self._listed = asyncio.Event()
        self.settled = asyncio.Event()  # the pods that were there at the start are known, and their proxies told
        self._tasks: list[asyncio.Task[object]] = []
        self._beginning = Beginning(
            listing=listing,
            proxies=proxies,
            probes=probes,
            rules=rules,
            memory=memory,
            find=find,
            threads=threads,
        )
        self._steps = Steps(
            Surroundings(
                proxies=proxies,
                probes=probes,
                rules=rules,
                memory=memory,
                threads=threads,
                finding=self._finding,
                redirection=self._redirection,
                drain=lambda: self._drain,
                migrate=lambda: self._migrate,
                captured=captured,
                kept_by=self._by_netns,
                dropped=self._dropped,
            )
        )
        self._answers = Answers(self, listing=listing, listed=self._listed, api=api, policy=policy)

    # What others tell.

    def changed(self, uid: str) -> None:
        """Take note that the API has another word of a pod."""
        course, pod = self._courses.get(uid), self._listing.pods.get(uid)
        if course is not None:
            if pod is not None:
                course.pod = pod
                course.redirection = pod.annotations.get(REDIRECTION, "")
            elif uid not in self._listing.unreadable:
                course.gone = True
        elif pod is not None and self._begun and (self._matters(pod)):
            course = self._course(pod)
            course.from_start = not pod.addresses
        elif pod is None and uid not in self._listing.unreadable:
            self._outside.forget(uid)
        if course is not None and (self._begun or course.asked):
            course.ring()

    def listed(self) -> None:
        """Take note that the API has listed every pod of the node."""
        self._listed.set()
        if not self._tasks and not self._closed:
            self._tasks.append(asyncio.get_running_loop().create_task(self._begin()))

    def standing_changed(self, uid: str) -> None:
        """Take note that a proxy may have another word of a pod."""
        course = None if self._closed else self._courses.get(uid)
        if course and (self._begun or course.asked) and course.step is not Step.CAPTURED:
            course.ring()

    def passed(self, outcome: Outcome) -> None:
        """Take the outcome of a pass over a pod's rules, or of reading back what it wrote."""
        course = self._by_netns.get(outcome.target.netns)
        if course is not None and not self._closed:
            course.passed(outcome)

    def drifted(self, target: Target, drift: Drift) -> None:
        """Have an Event on the pod whose rules somebody has changed."""
        course = self._by_netns.get(target.netns)
        if course is not None:
            tell_drift(course, drift, self._redirection.event)

    def change_defaults(self, defaults: Capture, *, migrate: bool) -> None:
        """Capture pods so that say nothing else."""
        self._defaults, self._migrate = defaults, migrate
        self._ring_all()

    async def decide(self, asked: Request) -> Answer:
        """Answer the container runtime."""
        return await self._answers.of(asked)

    # What others ask.

    def states(self) -> tuple[PodState, ...]:
        """Return how every pod of the node stands."""
        known = {
            uid: state_of(course, self._proxies.standing(uid), self._wish(course).reason)
            for uid, course in self._courses.items()
        }
        others = {
            uid: state_without_course(pod, self._wish_of(pod))
            for uid, pod in self._listing.pods.items()
            if uid not in known
        }
        return (*known.values(), *others.values())

    def course_of(self, uid: str) -> Course | None:
        """Return the course of a pod."""
        return self._courses.get(uid)

    def courses(self) -> tuple[Course, ...]:
        """Return the courses of all pods."""
        return tuple(self._courses.values())

    def claims(self, name: str, netns: str) -> bool:
        """Tell whether a namespace in which Weir's rules were found is a pod's: by the pod's name, or as its own."""
        mine = any(each.sandbox and each.sandbox.netns == netns for each in self.courses())
        # One whose namespace isn't found can still be released by what is remembered of its rules.
        named = (each for each in self.courses() if str(each.pod) == name)
        mine = mine or any(each.sandbox or not isinstance(self._wish(each), Unwanted) for each in named)
        return mine or any(f"pod/{each.namespace}/{each.name}" == name for each in self._listing.unreadable.values())

    async def add(self, pod: Pod, asked: Asked, patience: float) -> Answer:
        """Have a pod captured in a sandbox; return how that went."""
        traces.asked(pod)
        with self._threads.waited_for():
            return await self._course(pod).add(asked, patience)

    def started_outside(self, pod: Pod, asked: Asked) -> None:
        """Take note of a pod that starts uncaptured."""
        self._outside.started(pod, asked)

    def ended_outside(self, asked: Asked) -> None:
        """Take note that a sandbox ends."""
        self._outside.ended(asked)

    def release_all(self, drain: float) -> None:
        """Want no pod captured any more; `drain` is in seconds."""
        self._leaving, self._drain = True, drain
        self._ring_all()

    async def until_released(self, seconds: float) -> tuple[PodState, ...]:
        """Wait until nothing of Weir is in any pod, or so long; return those where something is left."""
        until = now() + seconds
        while now() < until and self._busy():  # noqa: ASYNC110 (each pod would need an event)
            await asyncio.sleep(_LOOK)
        if untold := self._redirection.unwritten:
            log.warning("the API could not be told in time that %d pods are released: their annotation stays", untold)
        return tuple(state_of(each) for each in self._courses.values() if not each.bare)

    def _busy(self) -> bool:
        return self._redirection.unwritten > 0 or not all(e.bare and not e.working for e in self._courses.values())

    async def close(self) -> None:
        """Stop. Nothing in any pod is changed."""
        self._closed = True
        tasks = [each.close() for each in self._courses.values()]
        for each in self._tasks:
            each.cancel()
        await asyncio.gather(*(each for each in (*tasks, *self._tasks) if each is not None), return_exceptions=True)
        await self._outside.close()
        await self._redirection.close()

    # What is taken up, and let go of.

    async def _begin(self) -> None:
        try:
            known = await self._beginning.known()
            await self._beginning.take_up(known, self._wish_of, self._course)
        except Exception:
            log.critical("the pods that are there can't be taken up", exc_info=True)
            raise
        self._begun = True
        for uid in tuple(self._listing.pods):
            self.changed(uid)  # what the API has said while they were taken up
        for course in tuple(self._courses.values()):
            course.ring()
        self.settled.set()
        await self._threads.work(
            self._memory.keep_only, {*self._listing.pods, *self._listing.unreadable, *self._courses}
        )
        while True:
            await asyncio.sleep(SWEEP)
            await self._sweep()

    async def _sweep(self) -> None:
        """Let go of pods that a direct question has brought, and that the API never listed: they went in between."""
        for course in tuple(self._courses.values()):
            uid, pod = course.uid, course.pod
            if course.gone or uid in self._listing.pods or uid in self._listing.unreadable:
                continue
            with suppress(WeirError, TimeoutError):
                found = await self._api.pod(pod.namespace, pod.name)
                if uid not in self._listing.pods and (found is None or found.uid != uid):
                    course.gone = True
                    course.ring()

    # What is wanted.

    def _wish(self, course: Course) -> Wish:
        if self._leaving:
            return Unwanted(reason="Weir is being uninstalled")
        if course.gone:
            return Unwanted(reason="the API has it no more", gone=True)
        unreadable = self._listing.unreadable.get(course.uid)
        if unreadable is not None:
            return Unclear(reason=str(unreadable.error), hint="correct the field", unreadable=True)
        return self._wish_of(course.pod)

    def _wish_of(self, pod: Pod) -> Wish:
        return wish_of(pod, self._listing.namespaces.get(pod.namespace), self._policy, self._defaults)

    def _matters(self, pod: Pod) -> bool:
        """Tell whether anything is to be done about a pod."""
        return bool(pod.annotations.get(REDIRECTION)) or not isinstance(self._wish_of(pod), Unwanted)

    def _course(self, pod: Pod) -> Course:
        """Return a pod's course, made where there is none."""
        if (known := self._courses.get(pod.uid)) is not None:
            return known
        course = self._courses[pod.uid] = Course(pod, steps=self._steps, wish=self._wish)
        course.redirection = pod.annotations.get(REDIRECTION, "")
        return course

    def _dropped(self, course: Course) -> None:
        """Keep nothing of a pod in which nothing of Weir is."""
        if course.bare and not course.rung() and self._courses.get(course.uid) is course and not self._leaving:
            course.close()
            del self._courses[course.uid]

    def _ring_all(self) -> None:
        for pod in self._listing.pods.values():
            if self._begun and pod.uid not in self._courses and self._matters(pod):
                self._course(pod)
        for course in self._courses.values():
            course.ring()
