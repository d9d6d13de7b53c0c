"""What is wanted of one pod: the decision and its annotations, put together. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from agent.sources.kubernetes.annotations import READERS, asked
from agent.sources.kubernetes.eligibility import FINISHED, Because, Enrolment, Policy, decide
from agent.sources.kubernetes.facts import REDIRECTION, Namespace, Pod
from agent.targets import Captured
from rulesets.capture import Capture
from rulesets.settings import CaptureError

_PREFIXES = ("ambient.istio.io/", "istio.io/", "traffic.sidecar.istio.io/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The pod is to be captured so. `pod` is what is known of it, `notes` is what its annotations don't do."""

    pod: Pod
    wish: Captured
    enrolment: Enrolment
    reason: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwanted:
    """Nothing of Weir is to be there. `over`: its processes have ended, so that there is no stream to wait for."""

    reason: str
    over: bool = False
    gone: bool = False  # the API has it no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Unclear:
    """What is wanted can't be told, so the pod stays as it was. `unreadable`: for a field or annotation of its own."""

    reason: str
    hint: str = ""
    unreadable: bool = False


Wish = Wanted | Unwanted | Unclear


def wish_of(pod: Pod, namespace: Namespace | None, policy: Policy, defaults: Capture) -> Wish:
    """Return what is wanted of a pod of this node; `namespace` None: nobody knows it yet."""
    decision = decide(pod, namespace, policy)
    if decision.enrolment is Enrolment.UNKNOWN:
        return Unclear(reason=decision.reason)
    if not decision.wanted:
        return Unwanted(reason=decision.reason, over=decision.because is Because.FINISHED or pod.phase in FINISHED)
    try:
        wish, notes = _captured(_of_traffic(pod.annotations), defaults)
    except CaptureError as error:
        return Unclear(
            reason=f"annotation {error}",
            hint=f"correct it: `kubectl annotate --overwrite pod -n {pod.namespace} {pod.name} ...`",
            unreadable=True,
        )
    return Wanted(pod=pod, wish=wish, enrolment=decision.enrolment, reason=decision.reason, notes=notes)


def _of_traffic(annotations: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the annotations that decide about rules, or seem to."""
    found = (each for each in annotations.items() if each[0] in READERS or each[0].startswith(_PREFIXES))
    return tuple(sorted(each for each in found if each[0] != REDIRECTION))


@lru_cache(maxsize=256)
def _captured(annotations: tuple[tuple[str, str], ...], defaults: Capture) -> tuple[Captured, tuple[str, ...]]:
    """Return the wish for these annotations: one for all pods that have them."""
    found = asked(dict(annotations), defaults)
    return Captured(capture=found.capture), found.notes
