"""What the agent takes up after a start: the pods that are there already, and how far each of them has come."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack

from agent.errors import WeirError
from agent.kernel.netns import Identity
from agent.mesh.roster import Descriptor
from agent.mesh.wire import Workload
from agent.pods.capturing import opened, workload_of
from agent.pods.course import Course
from agent.pods.neighbours import Find, Listing, Memory, Probes, Proxies, Rules
from agent.pods.probes import Threads, targets_of
from agent.pods.wishes import Unwanted, Wanted, Wish
from agent.sources.kubernetes.facts import REDIRECTION, Pod
from agent.sources.kubernetes.sandboxes import Sandbox, Unfit
from rulesets.host import ProbeTarget

log = logging.getLogger("weir")
# Seconds for a proxy to connect and be told of every pod before anybody looks at their rules: each answer of its finds
# the interpreter busy with that otherwise.
HEAD_START = 1.0
KEPT = Identity(0, 0)  # the proxies were told to go on serving a pod whose namespace isn't found


class Beginning:
    """Takes up the pods of the node, once. To be used in the loop's thread."""

    def __init__(
        self,
        *,
        listing: Listing,
        proxies: Proxies,
        probes: Probes,
        rules: Rules,
        memory: Memory,
        find: Find,
        threads: Threads,
    ) -> None:
        """Take what is needed."""
        self._listing, self._proxies, self._probes, self._rules = listing, proxies, probes, rules
        self._memory, self._find, self._threads = memory, find, threads

    async def known(self) -> Mapping[str, Sandbox]:
        """Return the sandboxes that an earlier life knew of, by uid, as far as they are there."""
        try:
            return await self._threads.work(self._memory.all_known)
        except (WeirError, OSError) as error:
            log.warning("what an earlier agent knew of sandboxes can't be read, so they are looked for: %s", error)
            return {}

    async def take_up(
        self, known: Mapping[str, Sandbox], wish_of: Callable[[Pod], Wish], course_of: Callable[[Pod], Course]
    ) -> None:
        """Tell proxies and the node's table of every pod that is captured, or may be.

        One that was captured and isn't to be any more is among them: it is released in its own time. `course_of`
        returns the course of a pod, made where there is none.
        """
        pods = dict(self._listing.pods)
        wishes = {uid: wish_of(pod) for uid, pod in pods.items()}
        found = await self._found(pods, wishes, known)
        probed: dict[str, tuple[ProbeTarget, ...]] = {}
        with ExitStack() as descriptors:
            told: list[tuple[Workload, Descriptor | None]] = []
            for uid, pod in pods.items():
                sandbox = known.get(uid) or found.get(uid)
                early = _annotated(pod) or self._was_captured(sandbox)
                if isinstance(wishes[uid], Unwanted) and not early:
                    continue
                course = course_of(pod)
                course.from_start = True
                if course.announced is None and not course.asked and course.sandbox is None:
                    told += self._telling(course, sandbox, early, descriptors)
                if course.sandbox is not None or course.announced == KEPT:
                    probed[uid] = targets_of(pod, course.sandbox.addresses if course.sandbox else ())
            self._take_up_unreadable(pods, known, probed)
            self._proxies_are_told(told, course_of, pods)
        await self._probes_are_let_through(probed, pods, course_of)
        await self._proxies.until_snapshot(HEAD_START)

    def _was_captured(self, sandbox: Sandbox | None) -> bool:
        return sandbox is not None and self._rules.remembers(sandbox.identity, sandbox.cookie)

    async def _found(
        self, pods: Mapping[str, Pod], wishes: Mapping[str, Wish], known: Mapping[str, Sandbox]
    ) -> dict[str, Sandbox]:
        """Return the namespaces of running pods that nobody has named, by one pass over /proc."""
        asked = [
            pod
            for uid, pod in pods.items()
            if uid not in known and pod.addresses and (isinstance(wishes[uid], Wanted) or _annotated(pod))
        ]
        if not asked:
            return {}
        try:
            found: Mapping[str, Sandbox | Unfit] = await self._threads.work(self._find, asked)
        except (WeirError, OSError) as error:
            log.warning("the namespaces of %d pods can't be looked for: %s", len(asked), error)
            return {}
        return await self._threads.work(
            self._remembered, [each for each in found.values() if isinstance(each, Sandbox)]
        )

    def _remembered(self, found: Iterable[Sandbox]) -> dict[str, Sandbox]:
        """Return sandboxes with paths that last, and keep them for the next life; in a worker thread."""
        kept = {}
        for each in found:
            try:
                kept[each.uid] = self._memory.remember(each)
            except WeirError as error:
                log.warning("%s can't be kept: %s", each, error)
        return kept

    def _telling(
        self, course: Course, sandbox: Sandbox | None, early: bool, descriptors: ExitStack
    ) -> list[tuple[Workload, Descriptor | None]]:
        """Return what proxies are to be told of one pod, and take note of it; nothing where it has no network yet."""
        try:
            workload = workload_of(course.pod)
        except WeirError as error:
            log.error("no proxy can be told of %s: %s", course.pod, error)
            return []
        if sandbox is not None:
            try:
                descriptor = opened(sandbox)
            except WeirError as error:
                log.warning("%s: %s", course.pod, error)
            else:
                descriptors.callback(os.close, descriptor)
                course.sandbox, course.early, course.announced = sandbox, early, sandbox.identity
                return [(workload, descriptor)]
        if course.pod.addresses or course.redirection:
            course.announced = KEPT
            return [(workload, None)]
        return []

    def _take_up_unreadable(
        self, pods: Mapping[str, Pod], known: Mapping[str, Sandbox], probed: dict[str, tuple[ProbeTarget, ...]]
    ) -> None:
        """Have pods stay as they are that can't be read, and were captured."""
        for uid in self._listing.unreadable:
            if uid not in pods and uid in known and self._was_captured(known[uid]):
                self._proxies.keep(uid)
                probed[uid] = tuple(ProbeTarget(address=each, owner=uid) for each in known[uid].addresses)

    def _proxies_are_told(
        self,
        told: list[tuple[Workload, Descriptor | None]],
        course_of: Callable[[Pod], Course],
        pods: Mapping[str, Pod],
    ) -> None:
        unusable = self._proxies.complete(told)
        for workload, error in unusable:
            log.warning("%s: %s", workload, error)
            course = course_of(pods[workload.uid])
            course.sandbox, course.early, course.announced = None, False, KEPT
        kept = sum(descriptor is None for _, descriptor in told)
        log.info("taking up %d pods, %d of them without a namespace that was found", len(told), kept)

    async def _probes_are_let_through(
        self,
        probed: Mapping[str, tuple[ProbeTarget, ...]],
        pods: Mapping[str, Pod],
        course_of: Callable[[Pod], Course],
    ) -> None:
        try:
            await self._probes.fill(probed)
        except WeirError as error:
            log.error("the node's table can't be written, and is tried again: %s (%s)", error, error.hint)
            return
        for uid, each in probed.items():
            if uid in pods:
                course = course_of(pods[uid])
                if course.probed is None and not course.asked:
                    course.probed = each


def _annotated(pod: Pod) -> bool:
    return bool(pod.annotations.get(REDIRECTION))
