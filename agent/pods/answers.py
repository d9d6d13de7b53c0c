"""What the container runtime is told: from what the API has said so far, and by asking it directly on a miss."""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from agent.cni.protocol import Add, Answer, Attachment, Check, Collect, Delete, Request, Sandbox, Status, Verdict
from agent.errors import WeirError
from agent.kernel.netns import Netns, identify
from agent.pods.course import Course
from agent.pods.neighbours import Api, Listing
from agent.pods.standing import Step
from agent.sources.kubernetes.eligibility import Enrolment, Policy, decide
from agent.sources.kubernetes.facts import MIRROR, Namespace, Pod
from agent.state import now

log = logging.getLogger("weir")
# Seconds: for a captured pod, a little less than the plugin's own patience; for the first listing, which is about to
# be whole; for an answer of the API; for a listing that isn't whole before a runtime is told that nothing would work.
PATIENCE, LISTING, API, UNREADY = 6.0, 1.0, 3.0, 30.0
_NOT_LISTED = "the API has not listed this node's pods yet"


class Courses(Protocol):
    """Every pod's course: `agent.pods.node.Pods`."""

    async def add(self, pod: Pod, asked: Sandbox, patience: float) -> Answer:
        """Have a pod captured in a sandbox; return how that went."""

    def started_outside(self, pod: Pod, asked: Sandbox) -> None:
        """Take note of a pod that starts uncaptured."""

    def ended_outside(self, asked: Sandbox) -> None:
        """Take note that a sandbox ends."""

    def course_of(self, uid: str) -> Course | None:
        """Return the course of a pod."""

    def courses(self) -> Iterable[Course]:
        """Return the courses of all pods."""


class Answers:
    """Answers for the runtime. To be used in the loop's thread."""

    def __init__(self, courses: Courses, *, listing: Listing, listed: asyncio.Event, api: Api, policy: Policy) -> None:
        """Take what is asked; `listed` is set when the listing is whole."""
        self._courses = courses
        self._listing, self._listed = listing, listed
        self._api = api
        self._policy = policy
        self._began = now()

    async def of(self, asked: Request) -> Answer:
        """Return the answer to a question."""
        match asked:
            case Add(sandbox=sandbox):
                return await self._add(sandbox)
            case Delete(sandbox=sandbox):
                self._courses.ended_outside(sandbox)
                for course in self._meant(sandbox):
                    course.sandbox_ends(sandbox)
                return Answer(verdict=Verdict.DONE)
            case Check(sandbox=sandbox):
                return await self._check(sandbox)
            case Collect(kept=kept):
                self._collect(kept)
                return Answer(verdict=Verdict.DONE)
            case Status():
                return self._status()

    async def _add(self, sandbox: Sandbox) -> Answer:
        if sandbox.namespace in self._policy.excluded_namespaces:
            return Answer(verdict=Verdict.OUTSIDE, reason=f"the namespace {sandbox.namespace} is excluded")
        if not self._listing.complete:
            with suppress(TimeoutError):
                async with asyncio.timeout(LISTING):
                    await self._listed.wait()
        if not self._listing.complete:
            return Answer(verdict=Verdict.UNKNOWN, reason=f"{sandbox}: {_NOT_LISTED}", hint="see whether it answers")
        try:
            pod = await self._pod(sandbox)
            namespace = await self._namespace(sandbox.namespace)
        except (WeirError, TimeoutError) as error:
            said = str(error) or f"the API gave no answer within {API:g} seconds"
            return Answer(verdict=Verdict.UNKNOWN, reason=f"{sandbox}: {said}", hint="the runtime tries again")
        if isinstance(pod, Answer):
            return pod
        decision = decide(replace(pod, addresses=sandbox.addresses or pod.addresses), namespace, self._policy)
        if decision.enrolment is Enrolment.UNKNOWN:
            return Answer(verdict=Verdict.UNKNOWN, reason=f"{sandbox}: {decision.reason}")
        if not decision.wanted:
            if not pod.host_network:
                self._courses.started_outside(pod, sandbox)
            return Answer(verdict=Verdict.OUTSIDE, reason=decision.reason)
        return await self._courses.add(pod, sandbox, PATIENCE)

    async def _pod(self, sandbox: Sandbox) -> Pod | Answer:
        """Return the pod that is meant, or what to say where there is none."""
        pod = self._listing.find(sandbox.namespace, sandbox.pod)
        if pod is not None and _is(pod, sandbox):
            return pod
        async with asyncio.timeout(API):
            pod = await self._api.pod(sandbox.namespace, sandbox.pod)
        if pod is None:
            return Answer(verdict=Verdict.UNKNOWN, reason=f"{sandbox}: the API has no such pod")
        if not _is(pod, sandbox):
            return Answer(
                verdict=Verdict.REFUSED,
                reason=f"{sandbox}: its uid is {pod.uid}, and the runtime asks for {sandbox.uid}, which is gone",
                hint="nothing: the kubelet starts the pod that there is",
            )
        return pod

    async def _namespace(self, name: str) -> Namespace | None:
        known = self._listing.namespaces.get(name)
        if known is not None:
            return known
        async with asyncio.timeout(API):
            return await self._api.namespace(name)

    async def _check(self, sandbox: Sandbox) -> Answer:
        """Say whether a running pod is as it should be."""
        course = next(iter(self._meant(sandbox)), None)
        if course is None or course.step is Step.OUTSIDE:
            return Answer(verdict=Verdict.OUTSIDE)
        if course.step is Step.CAPTURED:
            return Answer(verdict=Verdict.CAPTURED)
        verdict = Verdict.UNKNOWN if course.step is Step.UNDECIDED else Verdict.REFUSED
        return Answer(verdict=verdict, reason=f"{sandbox} is not captured: {course.reason}", hint=course.hint)

    def _collect(self, kept: Iterable[Attachment]) -> None:
        """Forget the sandboxes that a runtime has no more, and whose namespaces are gone."""
        containers = {each.container for each in kept}
        for course in self._courses.courses():
            sandbox = course.sandbox
            if sandbox is None or course.asked or sandbox.container in containers:
                continue
            if identify(Netns(sandbox.netns).file) != sandbox.identity:
                course.sandbox_ends(
                    Sandbox(
                        namespace=course.pod.namespace,
                        pod=course.pod.name,
                        uid=course.uid,
                        container=sandbox.container,
                        netns=sandbox.netns,
                    )
                )

    def _status(self) -> Answer:
        if self._listing.complete or now() - self._began < UNREADY:
            return Answer(verdict=Verdict.DONE)
        return Answer(verdict=Verdict.REFUSED, reason=_NOT_LISTED, hint="see whether this node reaches the API")

    def _meant(self, sandbox: Sandbox) -> tuple[Course, ...]:
        """Return the courses of the pod that is meant: by its uid, or where nobody said that, by its name."""
        if sandbox.uid and (course := self._courses.course_of(sandbox.uid)) is not None:
            return (course,)
        return tuple(
            each
            for each in self._courses.courses()
            if (each.pod.namespace, each.pod.name) == (sandbox.namespace, sandbox.pod) and _is(each.pod, sandbox)
        )


def _is(pod: Pod, sandbox: Sandbox) -> bool:
    """Tell whether a pod is the one that the runtime means. It knows a static pod by the uid that its node gave it."""
    return sandbox.uid in ("", pod.uid, pod.annotations.get(MIRROR, pod.uid))
