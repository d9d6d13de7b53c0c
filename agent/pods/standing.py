"""How a pod of this node stands, in words and as JSON."""

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from agent import report
from agent.sources.kubernetes.eligibility import Enrolment
from agent.state import now
from agent.targets import Captured, Outcome
from rulesets.capture import Capture


class Step(StrEnum):
    """How far a pod has come, or what it waits for."""

    OUTSIDE = "outside"  # nothing of Weir is wanted there, and nothing is
    UNDECIDED = "undecided"  # what is wanted can't be told; it stays as it was
    UNREADABLE = "unreadable"  # an annotation or a field can't be read; it stays as it was
    STARTING = "starting"  # it has no network yet: the container runtime will ask
    FINDING = "finding"  # its namespace isn't found
    UNFIT = "unfit"  # it has no namespace whose rules its traffic would meet
    PROXY = "proxy"  # no proxy has said that it serves it
    PROBES = "probes"  # the node's table is to hold its probes
    RULES = "rules"  # its routes and table are to be written
    CAPTURED = "captured"
    DRAINING = "draining"  # new connections go direct; captured streams are waited for
    RELEASING = "releasing"  # proxies and the node's table are to let go of it


@dataclass(frozen=True, slots=True, kw_only=True)
class PodState:
    """One pod. `step` says how far it has come, `reason` the same in words, and `hint` what to do about it.

    `since` is when the step began, in seconds since boot. `uncaptured` are the seconds that the pod has run outside
    although it was to be captured: still growing while `waiting`; None where it never was. `netns` and `identity` are
    those of its namespace, empty while it isn't known; `notes` a sentence each on annotations that say something else
    than they seem to. `decision` says what decided whether it is to be captured.
    `outcome` is that of the newest pass over its rules. Not `served`: it is captured, and no proxy
    is there that takes its connections.
    """

    uid: str
    namespace: str
    name: str
    enrolment: Enrolment
    step: Step
    reason: str
    hint: str = ""
    since: float = 0.0
    uncaptured: float | None = None
    waiting: bool = False
    netns: str = ""
    identity: str = ""
    notes: tuple[str, ...] = ()
    redirection: str = ""
    decision: str = ""
    outcome: Outcome | None = None
    served: bool = True

    def __str__(self) -> str:
        return f"pod/{self.namespace}/{self.name}"

    @property
    def captured(self) -> bool:
        """Whether new connections go to the proxy, as last seen."""
        return self.step is Step.CAPTURED and self.served and self.outcome is not None and self.outcome.captured

    @property
    def _settings(self) -> dict[str, object] | None:
        """How it is captured, where that isn't as Weir does by itself; None while nothing is to be written there."""
        wish = None if self.outcome is None else self.outcome.target.wish
        return _written(wish.capture) if isinstance(wish, Captured) else None

    def document(self) -> dict[str, object]:
        """Return it as JSON has it; `seconds` is for how long it has been so."""
        return {
            "pod": str(self),
            "uid": self.uid,
            "namespace": self.namespace,
            "name": self.name,
            "enrolment": str(self.enrolment),
            "step": str(self.step),
            "captured": self.captured,
            "reason": self.reason,
            "hint": self.hint,
            "seconds": round(max(0.0, now() - self.since), 3),
            "uncaptured_seconds": self.uncaptured,
            "waiting": self.waiting,
            "netns": self.netns,
            "identity": self.identity,
            "notes": list(self.notes),
            "redirection": self.redirection,
            "decision": self.decision,
            "settings": self._settings,
            "target": None if self.outcome is None else report.of_outcome(self.outcome).document(),
        }


@lru_cache(maxsize=256)
def _written(capture: Capture) -> dict[str, object]:
    """Return the settings of a capture, which most pods of a node share."""
    return capture.written()
