"""What is wanted of a namespace, and what came of it."""

from dataclasses import dataclass
from enum import StrEnum

from agent.words import printable
from rulesets.capture import Capture
from rulesets.diff import Plan
from rulesets.host import HOST_TABLE
from rulesets.pod import POD_TABLE
from rulesets.routing import RoutingPlan

HOST = "host"


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """The namespace's traffic is to be captured."""

    capture: Capture


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """Nothing of Weir is to be in the namespace.

    Captured streams may go on for `drain` seconds from the moment that the wish is first carried out; then, or at once
    where it is 0, their sockets are destroyed, so that both ends see an error.
    """

    drain: float = 0.0


Wish = Captured | Absent


class Observation(StrEnum):
    """What a target is watched for only where its settings ask for it, since it costs something."""

    CONNECTIONS = "connections"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One namespace and the wish for it. `netns` is as written: NAME, a path, ``pid:N``, or ``host``.

    `migrate`: a daemon is to put Weir's rules in the place of another agent's that it finds there. `observe` is what it
    is to watch there beyond what costs next to nothing.
    """

    name: str
    netns: str
    wish: Wish
    migrate: bool = False
    observe: tuple[Observation, ...] = ()

    @property
    def table(self) -> str:
        """The name of Weir's table there: another one on the node, so that a wrong namespace can't overwrite it."""
        return HOST_TABLE if self.netns == HOST else POD_TABLE


class State(StrEnum):
    """How a target stands after a reconcile."""

    UNCHANGED = "unchanged"
    APPLIED = "applied"
    REMOVED = "removed"
    WAITING = "waiting"
    DRAINING = "draining"
    DEGRADED = "degraded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetPlan:
    """All that would change in a namespace: the table, and the rules and routes beside it. False when nothing would."""

    rules: Plan
    routing: RoutingPlan

    def __bool__(self) -> bool:
        return bool(self.rules) or bool(self.routing)

    def describe(self) -> str:
        """Return the changes as lines; empty when there are none."""
        return "\n".join(text for text in (self.routing.describe(), self.rules.describe()) if text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A rule of somebody else's that is met before Weir's, and takes traffic from these, or may.

    `place` says whose it is and where it stands, `rule` is its text. `packet` is the plainest that it takes, `fate`
    what becomes of that, both in words. `why` says why nobody can tell whether it takes any; empty where it does.
    """

    place: str
    rule: str = ""
    packet: str = ""
    fate: str = ""
    why: str = ""

    @property
    def certain(self) -> bool:
        """Whether it takes the packet."""
        return not self.why

    def __str__(self) -> str:
        by = f"{self.place}: {self.rule}" if self.rule else self.place
        return printable(
            f"{self.packet} {self.fate}, by {by}"
            if self.certain
            else f"{self.packet or 'any packet'}, by {by} ({self.why})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a reconcile came to. `reason` is in words, for every state; `hint` says what to do where there is something.

    `plan` is what was or would be changed. `seconds` is the time that it took. `captured`: new connections go to the
    proxy, which listens, and those of families that can't be captured are refused. `kept` counts the streams that are
    outside although the namespace is captured, `draining` those that are still captured although it is to be
    released. `again` is the time in seconds after which there is something to do without anything changing.
    `read_back`: whether libnftables lists just what was written; None where nothing was, or nobody has looked yet.
    `taken_over`: the table was as wanted and nobody's, and is the daemon's from this pass on. `rivals` are rules of
    others that take from what is to be captured, or may, as they were when last looked at.
    """

    target: Target
    state: State
    reason: str
    hint: str = ""
    plan: TargetPlan | None = None
    seconds: float = 0.0
    captured: bool = False
    kept: int = 0
    draining: int = 0
    again: float | None = None
    read_back: bool | None = None
    taken_over: bool = False
    rivals: tuple[Rival, ...] = ()
