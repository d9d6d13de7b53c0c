"""What is said of a pod that has come to another step: in the log, and as an Event on the pod."""

import logging
from typing import Protocol

from agent.drift import Drift
from agent.pods.course import Course
from agent.pods.standing import Step
from agent.sources.kubernetes.facts import Pod

log = logging.getLogger("weir")
# The reason of an Event, and whether it is a warning.
_EVENTS = {
    Step.UNREADABLE: ("CaptureUnreadable", True),
    Step.UNFIT: ("CaptureRefused", True),
    Step.FINDING: ("CaptureWaiting", True),
    Step.PROXY: ("CaptureWaiting", True),
    Step.RULES: ("CaptureFailed", True),
    Step.DRAINING: ("CaptureDraining", False),
}
_GOES_ON = (Step.CAPTURED, Step.DRAINING, Step.PROXY, Step.FINDING)
_QUIET = (Step.OUTSIDE, Step.STARTING, Step.PROBES, Step.RELEASING)


class Event(Protocol):
    """Keeps an Event on a pod."""

    def __call__(self, pod: Pod, reason: str, note: str, *, warning: bool) -> None:
        """Keep it."""


def tell_drift(course: Course, drift: Drift, event: Event) -> None:
    """Have an Event on a pod whose rules, or what they need, somebody has changed; the log has it already."""
    by = f", by {drift.culprit}" if drift.culprit else ""
    event(course.pod, "CaptureDrift", f"{drift.kind}: {drift.said}{by}"[:1000], warning=True)


def tell(course: Course, before: Step, event: Event) -> None:
    """Say that a course has come from a step to another, or stays and has another reason."""
    step, late = course.step, course.late
    hint = f" ({course.hint})" if course.hint else ""
    if step is Step.CAPTURED and step is not before:
        outside = f"; it was outside for {late:.1f} s" if late else ""
        log.log(logging.WARNING if late else logging.INFO, "%s: captured: %s%s", course.pod, course.reason, outside)
        if late or before is Step.DRAINING:
            note = f"Its traffic is captured{outside.replace('; it was', ' after it had been')}."
            event(course.pod, "Captured", note, warning=False)
        return
    # What becomes of an ADD is said where it is answered. What goes on is no news: time runs down, streams end.
    goes_on = step is before and step in _GOES_ON
    quiet = goes_on or step in _QUIET or course.request is not None or (step is Step.RULES and course.outcome is None)
    level = logging.DEBUG if quiet else logging.WARNING if step in _EVENTS and _EVENTS[step][1] else logging.INFO
    log.log(level, "%s: %s: %s%s", course.pod, step, course.reason, hint)
    if step is Step.OUTSIDE and before in (Step.RELEASING, Step.DRAINING) and not course.gone:
        log.info("%s: released: %s", course.pod, course.reason)
        event(course.pod, "Released", f"Its traffic is not captured any more: {course.reason}.", warning=False)
    elif not quiet and step in _EVENTS:
        reason, warning = _EVENTS[step]
        event(course.pod, reason, f"{course.reason}{hint}"[:1000], warning=warning)
