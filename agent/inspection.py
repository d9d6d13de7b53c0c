"""Looking at a target without touching it: whether it is captured, and where its streams stand.

What is said here is observed in the kernel at this moment, never remembered; only a drain's deadline is.
"""

import socket
from dataclasses import dataclass

from agent import enrol, streams
from agent.comparison import Comparison, compare
from agent.kernel.conntrack import Conntrack
from agent.kernel.handle import Handle
from agent.kernel.sockets import SocketDiag
from agent.observed import Observed, in_words, observe
from agent.state import Records, now
from agent.streams import Stream
from agent.targets import Absent, State, Target, TargetPlan
from agent.words import counted
from rulesets.model import Counter, Ruleset
from rulesets.routing import RoutingPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that must hold for a target to be as wanted; `said` is what was found, in words."""

    name: str
    holds: bool
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A target as it is. `kept` streams were open before enrolment, `captured` ones go through the proxy."""

    target: Target
    state: State
    reason: str
    checks: tuple[Check, ...]
    plan: TargetPlan
    kept: tuple[Stream, ...]
    captured: tuple[Stream, ...]
    counters: tuple[Counter, ...]

    @property
    def as_wanted(self) -> bool:
        """Whether every check holds."""
        return all(check.holds for check in self.checks)

    @property
    def captured_as_wanted(self) -> bool:
        """Whether new connections are captured, all that the wish names."""
        return not isinstance(self.target.wish, Absent) and self.as_wanted and self.state is not State.DRAINING


def inspect(target: Target, handle: Handle, records: Records) -> Inspection:
    """Return what a target is like. Reads only. Raises `WeirError`."""
    observed = observe(handle, target)
    compared = compare(target, observed)
    with handle.inside(), SocketDiag() as diag, Conntrack() as conntrack:
        kept = streams.kept(diag, conntrack, compared.capture)
        captured = streams.captured(conntrack.flows(socket.IPPROTO_TCP), compared.capture)
    through = streams.through_proxy(captured, compared.capture)
    checks = tuple(_checks(target, compared))
    state, reason = _state(target, observed, compared, checks)
    record = records.read(handle.netns.identity, handle.cookie)
    if (
        observed.ruleset is not None
        and not enrol.redirects(observed.ruleset)
        and record
        and record.drain_until is not None
    ):
        left = max(0.0, record.drain_until - now())
        state, reason = State.DRAINING, f"{counted(len(through), 'captured stream')} may go on for {left:.0f} s"
    return Inspection(
        target=target,
        state=state,
        reason=reason,
        checks=checks,
        plan=compared.plan,
        kept=kept,
        captured=through,
        counters=_counters(handle, observed.ruleset),
    )


def _counters(handle: Handle, ruleset: Ruleset | None) -> tuple[Counter, ...]:
    """Return what the rules have counted by now, by name: a ruleset that is only known says what it once was."""
    return tuple(sorted(handle.counters(ruleset.table), key=lambda each: each.name)) if ruleset else ()


def _checks(target: Target, compared: Comparison) -> list[Check]:
    rules, routing = compared.plan.rules, compared.plan.routing
    if isinstance(target.wish, Absent):
        return [
            Check(name="rules", holds=not rules, said="still there" if rules else "gone"),
            Check(name="routes", holds=not routing, said="still there" if routing else "gone"),
        ]
    if rules.actual is None:
        said = f"there is no table inet {rules.table}"
    else:
        said = counted(len(rules.changes()), "difference") if rules else "as wanted"
    lacking = "; ".join(filter(None, (in_words(compared.closed), compared.missing)))
    return [
        Check(name="rules", holds=not rules, said=said),
        Check(name="routes", holds=not routing, said=_routes(routing) if routing else "as wanted"),
        Check(name="proxy", holds=not lacking, said=lacking or "answers on its ports"),
        Check(
            name="families",
            holds=not compared.direct,
            said="; ".join(compared.left_out) or "all that the namespace has",
        ),
    ]


def _state(target: Target, observed: Observed, compared: Comparison, checks: tuple[Check, ...]) -> tuple[State, str]:
    # What is said of the proxy and of families stands for itself.
    prefix = {"rules": "rules: ", "routes": "routes: "}
    failed = "; ".join(f"{prefix.get(each.name, '')}{each.said}" for each in checks if not each.holds)
    if isinstance(target.wish, Absent):
        return (State.FAILED, failed) if failed else (State.REMOVED, "nothing of Weir is there")
    if not enrol.is_steady(observed.ruleset):
        return State.WAITING, compared.awaited(steady=False) or "not captured"
    if failed or compared.left_out:
        return State.DEGRADED, failed or "; ".join(compared.left_out)
    return State.UNCHANGED, "all is as wanted"


def _routes(plan: RoutingPlan) -> str:
    lacking = len(plan.added.rules) + len(plan.added.routes)
    surplus = len(plan.removed.rules) + len(plan.removed.routes)
    said = [f"{lacking} missing"] if lacking else []
    return ", ".join([*said, *([f"{surplus} too many"] if surplus else [])])
