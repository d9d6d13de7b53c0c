"""Looking at a target without touching it: whether it is captured, and where its streams stand.

What is said here is observed in the kernel at this moment, never remembered; only a drain's deadline is.
"""

import socket
from dataclasses import dataclass

from agent import enrol, streams
from agent.comparison import Comparison, compare
from agent.guards import is_guarded
from agent.kernel import portid
from agent.kernel.conntrack import Conntrack
from agent.kernel.handle import Handle
from agent.kernel.sockets import SocketDiag
from agent.observed import Observed, in_words, observe
from agent.rivals import summary
from agent.state import Records, now
from agent.streams import Stream
from agent.targets import Absent, Rival, State, Target, TargetPlan
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
    """A target as it is. `kept` streams were open before enrolment, `captured` ones go through the proxy.

    `rivals` are rules of others that take from what is wanted, or may, where they were looked for. `owner` says in
    words whose the table is, where it is neither nobody's nor the daemon's.
    """

    target: Target
    state: State
    reason: str
    checks: tuple[Check, ...]
    plan: TargetPlan
    kept: tuple[Stream, ...]
    captured: tuple[Stream, ...]
    counters: tuple[Counter, ...]
    rivals: tuple[Rival, ...] = ()
    owner: str = ""

    @property
    def as_wanted(self) -> bool:
        """Whether every check holds."""
        return all(check.holds for check in self.checks)

    @property
    def captured_as_wanted(self) -> bool:
        """Whether new connections are captured, all that the wish names."""
        return not isinstance(self.target.wish, Absent) and self.as_wanted and self.state is not State.DRAINING


def inspect(
    target: Target, handle: Handle, records: Records, *, weigh: bool = False, keepers: frozenset[int] | None = None
) -> Inspection:
    """Return what a target is like. Reads only. Raises `WeirError`.

    With `weigh` rules of others are looked at too, for which a program of iptables may be started. `keepers` are the
    inodes of the daemon's sockets, so that its table isn't somebody else's; None is not to ask whose the table is.
    """
    observed = observe(handle, target)
    compared = compare(target, observed)
    with handle.inside(), SocketDiag() as diag, Conntrack() as conntrack:
        kept = streams.kept(diag, conntrack, compared.capture)
        captured = streams.captured(conntrack.flows(socket.IPPROTO_TCP), compared.capture)
    through = streams.through_proxy(captured, compared.capture)
    desired = compared.plan.rules.desired
    found = _rivals(handle, desired) if weigh and desired is not None else ()
    owner = (
        "" if observed.ruleset is None or keepers is None else _owner(handle, observed.ruleset.table, records, keepers)
    )
    checks = tuple(_checks(target, compared, owner))
    if weigh and desired is not None:
        told = summary(found) or "no rule of others changes what is captured"
        checks += (Check(name="rivals", holds=not any(each.certain for each in found), said=told),)
    state, reason = _state(target, observed, compared, checks)
    if state in (State.UNCHANGED, State.DEGRADED):
        # What doesn't hold has been said.
        held_by = f"the table is owned by {owner}" if owner and not compared.plan.rules else ""
        doubtful = summary(found) if not any(each.certain for each in found) else ""
        reason = "; ".join(filter(None, (reason, held_by, doubtful)))
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
        rivals=found,
        owner=owner,
    )


def _rivals(handle: Handle, desired: Ruleset) -> tuple[Rival, ...]:
    from agent.rivals.reading import rivals  # which brings the proofs with it

    return rivals(handle, desired)


def _owner(handle: Handle, table: str, records: Records, keepers: frozenset[int]) -> str:
    port = handle.owner(table)
    if not port:
        return ""
    with handle.inside():
        if portid.inode_of(port) in keepers:
            return ""
        whose = portid.owner(port)
    waits = is_guarded(records.directory, handle.netns.identity)
    return f"{whose}, which holds it until `weir confirm`" if waits else whose


def _counters(handle: Handle, ruleset: Ruleset | None) -> tuple[Counter, ...]:
    """Return what the rules have counted by now, by name: a ruleset that is only known says what it once was."""
    return tuple(sorted(handle.counters(ruleset.table), key=lambda each: each.name)) if ruleset else ()


def _checks(target: Target, compared: Comparison, owner: str) -> list[Check]:
    rules, routing = compared.plan.rules, compared.plan.routing
    owned = f"; the table is owned by {owner}" if owner else ""
    if isinstance(target.wish, Absent):
        return [
            Check(name="rules", holds=not rules, said=f"still there{owned}" if rules else "gone"),
            Check(name="routes", holds=not routing, said="still there" if routing else "gone"),
        ]
    if rules.actual is None:
        said = f"there is no table inet {rules.table}"
    else:
        said = (counted(len(rules.changes()), "difference") if rules else "as wanted") + owned
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
