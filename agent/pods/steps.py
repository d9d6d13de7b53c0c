"""The steps that capture a pod, and those that release it, each in the order that loses nothing.

Capturing: its namespace, the proxy's word that it listens there, the node's table, its rules; then whoever waits is
answered, and what is observed goes to the API. Releasing: the API, its rules (which wait for captured streams), the
proxies, the node's table. Every step is skipped where it is taken already, so that any of them can be the last before
something else is wanted.
"""

from agent.pods import traces
from agent.pods.capturing import Capturing
from agent.pods.course import Course
from agent.pods.releasing import Releasing
from agent.pods.standing import Step
from agent.pods.surroundings import Surroundings
from agent.pods.telling import tell
from agent.pods.wishes import Unwanted, Wanted


class Steps:
    """Takes the steps of every pod. To be used in the loop's thread."""

    def __init__(self, by: Surroundings) -> None:
        """Take what they are taken with."""
        self._by = by
        self._releasing = Releasing(by)
        self._capturing = Capturing(by, self._releasing)

    async def enrol(self, course: Course, wish: Wanted) -> None:
        """Take the steps that are missing until the pod is captured, or say what it waits for."""
        with traces.enrolling(course):
            await self._capturing.enrol(course, wish)

    async def release(self, course: Course, wish: Unwanted) -> None:
        """Take the steps that are missing until nothing is left of Weir."""
        traces.given_up(course.pod, wish.reason)
        await self._releasing.release(course, wish)

    async def let_go(self, course: Course) -> None:
        """Forget a sandbox that ends."""
        await self._releasing.let_go(course)

    async def undo(self, course: Course) -> None:
        """Leave nothing behind of an ADD that has failed."""
        await self._releasing.undo(course)
        traces.given_up(course.pod, course.failed)

    def told(self, course: Course, before: Step) -> None:
        """Say in the log, and on the pod, that it has come from a step to where it is."""
        traces.stepped(course)
        if course.step is Step.CAPTURED and before is not Step.CAPTURED and course.uncaptured is not None:
            self._by.captured(course.uncaptured)
        tell(course, before, self._by.redirection.event)
