"""From a pod that is wanted to one that is captured."""

import asyncio
import os
import time
from contextlib import nullcontext

from agent.cni.protocol import Verdict
from agent.errors import NamespaceMissing
from agent.kernel.netns import Netns, identify
from agent.mesh.status import Acknowledged, Refused, Standing
from agent.mesh.wire import Workload
from agent.observe import spans
from agent.pods import traces
from agent.pods.course import Course
from agent.pods.probes import targets_of
from agent.pods.releasing import Releasing
from agent.pods.request import Request
from agent.pods.standing import Step
from agent.pods.surroundings import PASS, Surroundings
from agent.pods.wishes import Wanted
from agent.reconcile import BEHIND_THE_ANSWER, to_be_read_back
from agent.sources.kubernetes.facts import Pod
from agent.sources.kubernetes.sandboxes import Sandbox, Unfit, foreign_runtime, look
from agent.sources.kubernetes.sandboxes.runtimes import unfit
from agent.state import now
from agent.targets import Captured, Outcome, State, Target

_OPENING = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_NO_PROXY = "see whether the node's ztunnel runs: `kubectl get pods -A -l app=ztunnel -o wide`; `weir status` lists it"


class Capturing:
    """Takes the steps. To be used in the loop's thread."""

    def __init__(self, by: Surroundings, releasing: Releasing) -> None:
        """Take what they are taken with."""
        self._by = by
        self._releasing = releasing

    async def enrol(self, course: Course, wish: Wanted) -> None:
        """Take the steps that are missing until the pod is captured, or say what it waits for."""
        runs = wish.pod.addresses and course.not_before <= now()
        if runs and course.wanted_at is None and not (course.request or course.early or course.target):
            course.wanted_at = outside_since(course, wish.pod)
        with spans.child("find sandbox") if course.sandbox is None else nullcontext():
            sandbox = await self._sandbox(course, wish)
        if sandbox is None or course.rung():
            return
        self._announce(course, sandbox)
        if course.request is not None:  # nobody probes a pod that starts, so this need not wait for the proxy's word
            await self._probes(course, wish, sandbox)
        standing = self._by.proxies.standing(course.uid)
        kept = course.early or (course.target is not None and isinstance(course.target.wish, Captured))
        if not isinstance(standing, Acknowledged) and not kept:
            await self._wait_for_proxy(course, standing)
            return
        spans.has_come(traces.PROXY)
        await self._probes(course, wish, sandbox)
        if course.rung() and course.target is None:
            return  # something else may be wanted by now, and nothing is redirected yet
        target = Target(name=str(course.pod), netns=sandbox.netns, wish=wish.wish, migrate=self._by.migrate())
        if target != course.target:
            await self._pass(course, target)
        await self._judge(course)

    async def _sandbox(self, course: Course, wish: Wanted) -> Sandbox | None:
        """Return the pod's namespace; None where it isn't known, and then the state says why."""
        if course.request is not None:
            return await self._asked_sandbox(course, course.request, wish)
        if course.sandbox is not None:
            if identify(Netns(course.sandbox.netns).file) == course.sandbox.identity:
                return None if await self._is_walled(course, course.sandbox, wish.pod) else course.sandbox
            await self._releasing.let_go(course)
            course.not_before = 0.0
        if not wish.pod.addresses:
            said = f"its last ADD failed: {course.failed}" if course.failed else "it has no network yet"
            course.at(Step.STARTING, said)
            return None
        if (wait := course.not_before - now()) > 0:
            course.at(Step.STARTING, "its sandbox was deleted; another one may come")
            course.again(wait)
            return None
        found = _foreign(wish.pod) or await self._known(wish.pod) or await self._by.finding.of(wish.pod)
        if isinstance(found, Unfit):
            course.at(Step.UNFIT if found.lasting else Step.FINDING, found.reason, found.hint)
            if not found.lasting:
                course.again()
            return None
        course.sandbox = await self._by.threads.work(self._by.memory.remember, found)
        return course.sandbox

    async def _is_walled(self, course: Course, sandbox: Sandbox, pod: Pod) -> bool:
        """Tell, once a pod of another runtime runs, whether its processes show a kernel of its own; then let it go.

        A RuntimeClass can have any name. In such a pod nothing would be captured, whatever its namespace says.
        """
        if not pod.runtime_class or pod.phase != "Running" or course.examined == sandbox.identity:
            return False
        found = await self._by.finding.of(pod)
        course.examined = sandbox.identity
        if isinstance(found, Sandbox) or not found.lasting:
            return False
        await self._releasing.undo(course)
        self._redirect(course, None)
        course.at(Step.UNFIT, found.reason, found.hint)
        return True

    async def _known(self, pod: Pod) -> Sandbox | None:
        """Return the namespace in which the container runtime has started it uncaptured, if it still is its own."""
        known = await self._by.threads.work(self._by.memory.known, pod.uid)
        return known if known is not None and {*known.addresses} & {*pod.addresses} else None

    async def _asked_sandbox(self, course: Course, request: Request, wish: Wanted) -> Sandbox | None:
        """Return the namespace that the container runtime has named, once it was looked at."""
        asked = request.sandbox
        if course.sandbox is not None and identify(Netns(asked.netns).file) == course.sandbox.identity:
            return course.sandbox
        found: Sandbox | Unfit | None = _foreign(wish.pod)
        if found is None:
            found = await self._by.threads.work(
                look,
                course.uid,
                asked.netns,
                addresses=asked.addresses,
                container=asked.container,
                interface=asked.interface,
            )
        if isinstance(found, Unfit):
            course.at(Step.UNFIT, found.reason, found.hint)
            await course.fail(Verdict.REFUSED, found.reason, found.hint)
            return None
        if course.sandbox is not None:
            await self._releasing.let_go(course)
        course.sandbox, course.early, course.wanted_at = found, False, None
        return found

    def _announce(self, course: Course, sandbox: Sandbox) -> None:
        """Have the proxies serve it."""
        if course.announced == sandbox.identity:
            return
        descriptor = opened(sandbox)
        try:
            self._by.proxies.want(workload_of(course.pod), descriptor)
            spans.waits(traces.PROXY)
        finally:
            os.close(descriptor)
        course.announced = sandbox.identity

    async def _probes(self, course: Course, wish: Wanted, sandbox: Sandbox) -> None:
        """Have the node's table let its probes through."""
        probed = targets_of(wish.pod, sandbox.addresses)
        if probed != course.probed:
            if course.step is not Step.CAPTURED:
                course.at(Step.PROBES, "the node's table is to let its probes through")
            with spans.child("put probes", {"weir.probes": len(probed)}):
                await self._by.probes.put(course.uid, probed)
            course.probed = probed

    async def _wait_for_proxy(self, course: Course, standing: Standing | None) -> None:
        match standing:
            case Refused(proxy=proxy, words=words):
                reason, hint = f"{proxy} refuses to serve it: {words}", "its own log says more"
                course.at(Step.PROXY, reason, hint)
                if course.request is not None:
                    await course.fail(Verdict.REFUSED, reason, hint)
            case _:
                words = standing.words if standing is not None and not isinstance(standing, Acknowledged) else ""
                course.at(Step.PROXY, f"no proxy serves it yet: {words}", _NO_PROXY)

    async def _pass(self, course: Course, target: Target) -> None:
        """Have the rules so, and wait for the first pass over them."""
        before = course.target
        if before is not None and before.netns != target.netns:
            self._releasing.retire(course, before)
        self._by.kept_by[target.netns] = course
        if course.step is not Step.CAPTURED:
            course.at(Step.RULES, "its routes and table are to be written")
        if course.request is not None:
            await course.pass_of(target, self._by.rules.put, PASS)
        else:
            async with self._by.turns:
                await course.pass_of(target, self._by.rules.put, PASS)

    async def _judge(self, course: Course) -> None:
        """Say what the newest pass has come to, and to whom it matters."""
        outcome = course.outcome
        if outcome is None:
            course.at(Step.RULES, f"no pass over its rules within {PASS:g} seconds", "the node is overloaded")
            return
        match outcome.state:
            case State.APPLIED | State.UNCHANGED | State.DEGRADED:
                await self._captured(course, outcome)
            case State.WAITING if _lost(course):
                course.ring()
            case State.WAITING:
                course.at(Step.PROXY, outcome.reason, outcome.hint)
                self._redirect(course, None if not course.redirection else "pending")
            case _:
                course.at(Step.RULES, outcome.reason, outcome.hint)
                self._redirect(course, None if not course.redirection else "pending")
                if course.request is not None:
                    await course.fail(Verdict.REFUSED, outcome.reason, outcome.hint)

    async def _captured(self, course: Course, outcome: Outcome) -> None:
        asked = course.request is not None
        if asked:
            spans.event("answered", {"weir.verdict": str(Verdict.CAPTURED)})
        course.answer(Verdict.CAPTURED, outcome.reason if outcome.state is State.DEGRADED else "")
        course.late = now() - course.wanted_at if course.wanted_at is not None else 0.0
        if course.uncaptured is None or course.wanted_at is not None:
            course.uncaptured, course.wanted_at = course.late, None
        course.failed, course.early = "", False
        course.at(Step.CAPTURED, outcome.reason, outcome.hint)
        if asked and course.sandbox is not None:
            await self._remember(course, course.sandbox)
        if not to_be_read_back(outcome):
            self._redirect(course, "enabled")

    async def _remember(self, course: Course, sandbox: Sandbox) -> None:
        await asyncio.sleep(BEHIND_THE_ANSWER)
        kept = await self._by.threads.work(self._by.memory.remember, sandbox)
        if course.sandbox is sandbox:
            course.sandbox = kept
            if kept.netns != sandbox.netns:
                course.ring()

    def _redirect(self, course: Course, value: str | None) -> None:
        """Have the API say what is observed."""
        self._by.redirection.want(course, value)


def workload_of(pod: Pod) -> Workload:
    """Return a pod as its proxy is to know it. Raises `TargetError`."""
    return Workload(uid=pod.uid, namespace=pod.namespace, name=pod.name, service_account=pod.service_account)


def outside_since(course: Course, pod: Pod) -> float:
    """Return since when a running pod is outside that nobody has captured: in seconds since boot.

    That is since its start for one that was to be captured all the time, else since it is known to be wanted.
    """
    if not course.from_start or pod.started is None:
        return now()
    return now() - max(0.0, time.time() - pod.started)


def opened(sandbox: Sandbox) -> int:
    """Return a descriptor of a namespace. Raises `NamespaceMissing`."""
    path = Netns(sandbox.netns).file
    try:
        return os.open(path, _OPENING)
    except OSError as error:
        raise NamespaceMissing(f"{sandbox}: {path}: {error.strerror}", hint="its sandbox has gone meanwhile") from None


def _foreign(pod: Pod) -> Unfit | None:
    why = foreign_runtime(pod.runtime_class) if pod.runtime_class else None
    return None if why is None else unfit(pod.uid, why, f"runtimeClassName {pod.runtime_class}")


def _lost(course: Course) -> bool:
    """Tell whether the pod's namespace has gone, or another stands in its place."""
    sandbox = course.sandbox
    return sandbox is not None and identify(Netns(sandbox.netns).file) != sandbox.identity
