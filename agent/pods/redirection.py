"""What the API is told of pods: the annotation of their state, and Events. Whoever tells waits for neither."""

import asyncio
import logging

from agent.errors import WeirError
from agent.observe import spans
from agent.pods.course import Course
from agent.pods.neighbours import Api
from agent.sources.kubernetes.facts import Pod

log = logging.getLogger("weir")
AT_ONCE = 4  # requests: the API is everybody's
FIRST_RETRY, LONGEST_RETRY = 0.5, 30.0  # seconds


class Redirection:
    """The annotation ``ambient.istio.io/redirection`` of every pod, written when it differs from what is observed."""

    def __init__(self, api: Api) -> None:
        """Take the API. Nothing is asked of it before something is wanted."""
        self._api = api
        self._wanted: dict[str, str] = {}  # by uid; empty is no annotation
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._events: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._closed = False

    @property
    def unwritten(self) -> int:
        """How many pods the API is still to be told of."""
        return len(self._wanted)

    def want(self, course: Course, value: str | None) -> None:
        """Have a pod's annotation be so; None is to have none."""
        wanted = value or ""
        if course.gone or (course.redirection == wanted and course.uid not in self._tasks):
            self._wanted.pop(course.uid, None)
            return
        self._wanted[course.uid] = wanted
        if course.uid not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._write(course))
            self._tasks[course.uid] = task

    async def written(self, course: Course, seconds: float) -> None:
        """Wait until it is so, or so long."""
        task = self._tasks.get(course.uid)
        if task is not None:
            await asyncio.wait([task], timeout=seconds)

    def event(self, pod: Pod, reason: str, note: str, *, warning: bool) -> None:
        """Have the API keep an Event on a pod."""
        task = asyncio.get_running_loop().create_task(self._api.event(pod, reason, note, warning=warning))
        self._events.add(task)
        task.add_done_callback(self._events.discard)

    async def close(self) -> None:
        """Stop; what is under way ends."""
        self._closed = True
        tasks = [*self._tasks.values(), *self._events]
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, course: Course) -> None:
        wait, said = FIRST_RETRY, ""
        try:
            while (value := self._wanted.get(course.uid)) is not None and not course.gone:
                try:
                    async with self._turns:
                        with spans.child("write status", {"weir.annotation": value}):
                            await self._api.redirect_state(course.pod, value or None)
                    course.redirection = value
                except WeirError as error:
                    if said != str(error):
                        log.warning("%s: its annotation can't be written, and is tried again: %s", course.pod, error)
                    said = str(error)
                    await asyncio.sleep(wait)
                    wait = min(LONGEST_RETRY, wait * 2)
                    continue
                if self._wanted.get(course.uid) == value:
                    return
        finally:
            self._wanted.pop(course.uid, None)
            del self._tasks[course.uid]
            if not (course.gone or self._closed):
                course.ring()
