"""From another agent's rules to Weir's, step by step. Each can be repeated, also by another process after a kill."""

from dataclasses import replace

from agent import enrol
from agent.comparison import Comparison
from agent.errors import GenerationMoved, NotAsWritten, TargetError
from agent.kernel import routing
from agent.kernel.conntrack import Conntrack
from agent.migration import parts, routes
from agent.migration.findings import compared
from agent.migration.journal import Step
from agent.migration.put import forget_zoned, put_beside, without_zone
from agent.migration.steps import ATTEMPTS, Steps
from agent.state import Record, now
from rulesets.model import Ruleset
from rulesets.routing import RoutingPlan


class Forward(Steps):
    """The way from the other agent's rules to Weir's."""

    __slots__ = ()

    def run(self) -> int:
        """Take all steps; return how many streams stay outside. Raises `WeirError`."""
        self.begin(Step.SAVE)
        self.begin(Step.ROUTES)
        wanted = compared(self.handle, self.target)
        routes.take_over(self.handle, self.old, wanted.plan.routing.desired)
        self.begin(Step.TABLE)
        with self.handle.inside():
            zoned = not parts.standing(self.old).zoned
        kept = self._put(zoned=zoned)
        self.begin(Step.VERIFY)
        self._verify(zoned=zoned)
        self.begin(Step.REMOVE)
        with self.handle.inside():
            parts.take_out(self.old, self.tell, dns=True, patience=self.patience)
        if not zoned:
            kept = self._put(zoned=True)
            self._verify(zoned=True)
        with self.handle.inside():
            parts.take_out(self.old, self.tell, dns=False, patience=self.patience)
        self.begin(Step.FLOWS)
        with self.handle.inside(), Conntrack() as conntrack:
            forget_zoned(conntrack, both_ways=True)
        self.begin(Step.OLD_ROUTES)
        routes.delete_old(self.handle, self.old, wanted.plan.routing.desired)
        self.begin(Step.MIGRATED)
        return kept

    def _put(self, *, zoned: bool) -> int:
        """Put Weir's table in place, or leave it where it is as wanted; return how many streams stay outside."""
        for _ in range(ATTEMPTS):
            try:
                return self._put_as(compared(self.handle, self.target), zoned=zoned)
            except GenerationMoved as error:
                moved = error
        raise moved

    def _put_as(self, wanted: Comparison, *, zoned: bool) -> int:
        identity, actual = self.handle.netns.identity, wanted.plan.rules.actual
        desired = _desired(wanted, zoned=zoned)
        known = self.records.read(identity, self.handle.cookie)
        if actual == desired and known is not None and known.settled and known.drain_until is None:
            return known.kept
        record = Record(
            name=self.target.name,
            netns=self.target.netns,
            cookie=self.handle.cookie,
            ports=wanted.capture.proxy_ports,
            by_daemon=self.records.by_daemon,
            kept_deadline=wanted.capture.kept_deadline,
        )
        # First what a removal needs to know, then what it would have to remove.
        self.records.write(identity, replace(record, settled=False))
        with self.handle.inside():
            tracked = parts.standing(self.old).tracked
        kept = put_beside(self.handle, wanted.capture, actual, desired, tracked)
        deadline = wanted.capture.kept_deadline
        until = now() + deadline if kept and deadline is not None else None
        self.records.write(identity, replace(record, kept=kept, kept_until=until))
        return kept

    def _verify(self, *, zoned: bool) -> None:
        """Read Weir's table, rules and routes back, while the other agent's still stand."""
        wanted = compared(self.handle, self.target)
        enrol.verify(self.handle, _desired(wanted, zoned=zoned))
        with self.handle.inside():
            plan = RoutingPlan(actual=routing.read(), desired=wanted.plan.routing.desired)
        if plan:
            raise NotAsWritten(statement="ip rule; ip route", said=plan.describe())


def _desired(wanted: Comparison, *, zoned: bool) -> Ruleset:
    if wanted.plan.rules.desired is None:
        raise TargetError("nothing is wanted there")
    return wanted.plan.rules.desired if zoned else without_zone(wanted.plan.rules.desired)
