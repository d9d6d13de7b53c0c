"""How pods stand, as a user is told."""

from agent.mesh.status import Refused, Standing, Unanswered
from agent.pods.course import Course
from agent.pods.standing import PodState, Step
from agent.pods.wishes import Unwanted, Wanted, Wish
from agent.sources.kubernetes.eligibility import Enrolment
from agent.sources.kubernetes.facts import REDIRECTION, Pod
from agent.state import now


def state_of(course: Course, standing: Standing | None = None, decision: str = "") -> PodState:
    """Return how a pod stands, also with the proxies where that matters; `decision` is why it is wanted, or not."""
    sandbox, wanted_at = course.sandbox, course.wanted_at
    reason, served = course.reason, True
    if course.step is Step.CAPTURED and isinstance(standing, Refused | Unanswered):
        reason, served = f"{reason}; no proxy serves it now: {standing.words}", False
    return PodState(
        uid=course.uid,
        namespace=course.pod.namespace,
        name=course.pod.name,
        enrolment=course.enrolment,
        step=course.step,
        reason=reason,
        hint=course.hint,
        since=course.since,
        uncaptured=course.uncaptured if wanted_at is None else now() - wanted_at,
        waiting=wanted_at is not None,
        netns=sandbox.netns if sandbox else "",
        identity=str(sandbox.identity) if sandbox else "",
        notes=course.notes,
        redirection=course.redirection,
        decision=decision,
        outcome=course.outcome,
        served=served,
    )


def state_without_course(pod: Pod, wish: Wish) -> PodState:
    """Return how a pod stands about which there is nothing to be done, or nothing yet."""
    return PodState(
        uid=pod.uid,
        namespace=pod.namespace,
        name=pod.name,
        enrolment=wish.enrolment if isinstance(wish, Wanted) else Enrolment.OUTSIDE,
        step=Step.OUTSIDE if isinstance(wish, Unwanted) else Step.STARTING,
        reason=wish.reason,
        since=now(),
        redirection=pod.annotations.get(REDIRECTION, ""),
        decision=wish.reason,
    )
