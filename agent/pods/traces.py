"""The trace of a pod's enrolment: from the first word of it until it is captured, read back, and the API told."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from agent.observe import spans
from agent.pods.course import Course
from agent.pods.standing import Step
from agent.reconcile import to_be_read_back
from agent.sources.kubernetes.facts import Pod

PROXY = "proxy acknowledgement"
_QUEUE = "queue"
_NOTHING: AbstractContextManager[None] = nullcontext()


def asked(pod: Pod) -> None:
    """Begin a trace: the container runtime asks for a pod, and what it does goes on in ours."""
    if spans.tracer() is not None:
        _begin(pod, "cni")


def enrolling(course: Course) -> AbstractContextManager[None]:
    """Be in a pod's trace while steps are taken, and begin it where the pod can be captured and isn't."""
    return _NOTHING if spans.tracer() is None else _enrolling(course)


@contextmanager
def _enrolling(course: Course) -> Iterator[None]:
    tracer, name = spans.tracer(), str(course.pod)
    there = tracer.open.get(name) if tracer is not None else None
    mine = there is not None and there.held is None
    with spans.within(name):
        if not mine and course.step is not Step.CAPTURED and (course.request is not None or course.pod.addresses):
            _begin(course.pod, "restart" if course.early else "api")
        spans.has_come(_QUEUE)
        yield
        _settle(course)


def stepped(course: Course) -> None:
    """Take note that a pod has come to another step, or has another reason for where it is."""
    spans.event(str(course.step), {"weir.reason": course.reason})


def given_up(pod: Pod, why: str) -> None:
    """End a pod's trace, if one is open, without its being captured."""
    spans.end(str(pod), error=why)


def _begin(pod: Pod, source: str) -> None:
    trace = spans.begin("enrol", str(pod))
    if trace is not None:
        trace.attributes |= {
            "k8s.namespace.name": pod.namespace,
            "k8s.pod.name": pod.name,
            "k8s.pod.uid": pod.uid,
            "weir.source": source,
            "weir.target": str(pod),
        }
        trace.marks[_QUEUE] = trace.start


def _settle(course: Course) -> None:
    outcome = course.outcome
    if course.step is Step.UNFIT:
        given_up(course.pod, course.reason)
        return
    read = outcome is not None and not to_be_read_back(outcome)
    if course.step is Step.CAPTURED and read and course.redirection == "enabled":
        spans.end(str(course.pod))
