"""Migrations carried out: who may take the steps, what is done before the first, and what came of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from agent.errors import LockHeld, TargetError, WeirError
from agent.kernel.handle import Handle
from agent.migration import routes
from agent.migration.back import Backward
from agent.migration.findings import Found, Judged, compared, find, judge
from agent.migration.forward import Forward
from agent.migration.journal import Journal, Progress, Step
from agent.migration.old import Old
from agent.migration.parts import LOCK_PATIENCE
from agent.state import Records
from agent.targets import Captured, Target, TargetPlan
from rulesets.capture import Capture
from rulesets.equivalence import Unknown
from rulesets.vocabulary import Family


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How a migration is to go.

    `expected` are slugs of wanted differences; none is all of them. `patience` is in seconds, for a lock.
    """

    back: bool = False
    dry_run: bool = False
    accept_differences: bool = False
    expected: tuple[str, ...] = ()
    patience: int = LOCK_PATIENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrated:
    """What came of it. `refused` says why nothing was changed, in words; empty otherwise.

    `judged` is None where nothing had to be compared. `plan` and `old` are what would be or was put in and taken out;
    in the other direction, the other way round. `changed` is whether anything was done.
    """

    target: Target
    old: Old
    reason: str
    refused: str = ""
    judged: Judged | None = None
    plan: TargetPlan | None = None
    changed: bool = False
    back: bool = False

    @property
    def unknown(self) -> bool:
        """Whether nothing was changed since nobody can tell how packets would fare."""
        return bool(self.refused) and self.judged is not None and isinstance(self.judged.proof, Unknown)


def migrate(target: Target, handle: Handle, records: Records, wanted: Wanted, tell: Callable[[str], None]) -> Migrated:
    """Migrate a namespace, or take up what was begun; `tell` is told of each step before it begins.

    Raises `WeirError`: `Busy` where another Weir is at work there. What was done until then stays as it is, and the
    next call takes it up.
    """
    journal = Journal(records.directory)
    if wanted.dry_run:
        return _begin(target, handle, records, journal, wanted, tell)
    with records.held(handle.netns.identity):
        journal.clear_away()
        try:
            return _begin(target, handle, records, journal, wanted, tell)
        except WeirError as error:
            left = journal.read(handle.netns.identity, handle.cookie)
            if isinstance(error, LockHeld):
                error.hint = ""
            if left is not None and not left.done:
                taken_up = f"half-done at the step {left.step}, connections go on: the same command takes it up"
                error.hint = "; ".join(filter(None, (error.hint, taken_up)))
            raise


def _begin(
    target: Target,
    handle: Handle,
    records: Records,
    journal: Journal,
    wanted: Wanted,
    tell: Callable[[str], None],
) -> Migrated:
    known = journal.read(handle.netns.identity, handle.cookie)
    if wanted.back:
        return _back(target, handle, records, journal, known, wanted, tell)
    if not isinstance(target.wish, Captured):
        raise TargetError(f"target {target.name!r}: isn't to be captured, so there is nothing to migrate to")
    begun = known is not None and not known.done
    found = find(handle)
    if not begun and not found.old:
        return Migrated(target=target, old=found.old, reason="no rules of another agent are there: nothing to migrate")
    old = _merged(known, found.old) if known is not None and begun else _with_routes_of(found.old, known)
    wish = compared(handle, target)
    awaited = wish.awaited(steady=False)
    if awaited:
        raise TargetError(
            f"target {target.name!r}: {awaited}",
            hint="start the proxy in the namespace first; nothing was changed",
        )
    if not begun:
        routes.refuse_others(handle, old, wish.plan.routing.desired)
    judged = None
    if not begun or (known is not None and known.untouched and found.old):
        lost = _lost(found, old, wish.capture, wish.plan)
        if lost:
            raise TargetError(f"target {target.name!r}: {lost}", hint=_KEEP_MARK)
        judged = judge(found, target, wish, wanted.expected)
        if judged.in_the_way and not wanted.accept_differences:
            return Migrated(
                target=target, old=old, reason="not migrated", refused=judged.in_the_way, judged=judged, plan=wish.plan
            )
    result = Migrated(target=target, old=old, reason="would be migrated", judged=judged, plan=wish.plan)
    if wanted.dry_run:
        return result
    kept = Forward(target, handle, records, journal, old, tell, wanted.patience).run()
    outside = f"; {kept} from before outside" if kept else ""
    return replace(result, reason=f"{_whose(old)} rules have given way to Weir's{outside}", changed=True)


def _merged(known: Progress, found: Old) -> Old:
    """Return what is to give way, where that was begun: what is there now, while nothing of it has been taken out.

    Its routes may have been taken over already, and are known by then only from the beginning.
    """
    if not (known.untouched and found):
        return known.old
    rules, routes = (*known.old.rules, *found.rules), (*known.old.routes, *found.routes)
    return replace(found, rules=tuple(dict.fromkeys(rules)), routes=tuple(dict.fromkeys(routes)))


def _with_routes_of(old: Old, known: Progress | None) -> Old:
    """Return what is there, with the rules and routes that an earlier migration took over: --back puts them back too.

    An agent that wrote its chains anew meanwhile may have found Weir's doing the same for it.
    """
    if known is None or known.step is not Step.MIGRATED:
        return old
    return replace(old, rules=old.rules or known.old.rules, routes=old.routes or known.old.routes)


_KEEP_MARK = "migrate with the settings of the old rules; `weir apply` changes them afterwards, and ends such streams"


def _lost(found: Found, old: Old, capture: Capture, plan: TargetPlan) -> str:
    """Say which captured streams would lose their way back to the proxy under the wish; empty where none would."""
    marks = sorted(str(each) for each in found.marks)
    if not found.marks:
        return ""
    if not capture.inbound:
        return f"inbound = false, and the old rules capture what comes in (by connection mark {', '.join(marks)})"
    if found.marks != {capture.connection_mark}:
        return f"connection_mark = {str(capture.connection_mark)!r}, and the old rules use {', '.join(marks)}"
    routed = {each.family for each in plan.routing.desired.rules}
    left = [str(each.family) for each in old.rules if each.family not in routed]
    reachable = [family for family in Family if str(family) in left]
    return f"{', '.join(dict.fromkeys(left))} would not be captured, and the old rules capture it" if reachable else ""


def _back(
    target: Target,
    handle: Handle,
    records: Records,
    journal: Journal,
    known: Progress | None,
    wanted: Wanted,
    tell: Callable[[str], None],
) -> Migrated:
    if known is None:
        raise TargetError(
            f"target {target.name!r}: was not migrated, so there is nothing to go back to",
            hint="what was migrated is known until the next boot",
        )
    if known.step is Step.RETURNED:
        return Migrated(target=target, old=known.old, reason=f"{_whose(known.old)} rules are back already", back=True)
    result = Migrated(target=target, old=known.old, reason="would go back", back=True)
    if wanted.dry_run:
        return result
    Backward(target, handle, records, journal, known.old, tell, wanted.patience).run()
    return replace(result, reason=f"{_whose(known.old)} rules are back, and Weir's are gone", changed=True)


def _whose(old: Old) -> str:
    return " and ".join(f"{each}'s" for each in old.owners) or "the old"
