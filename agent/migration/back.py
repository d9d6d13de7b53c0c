"""From Weir's rules back to the other agent's, step by step. Each can be repeated, also by another process."""

from agent.errors import GenerationMoved
from agent.kernel.conntrack import Conntrack
from agent.migration import parts, routes
from agent.migration.journal import Step
from agent.migration.put import forget_zoned, take_away
from agent.migration.steps import ATTEMPTS, Steps


class Backward(Steps):
    """The way from Weir's rules to the other agent's."""

    __slots__ = ()

    def run(self) -> None:
        """Take all steps. Raises `WeirError`."""
        self.begin(Step.OLD_ROUTES_BACK)
        routes.give_back(self.handle, self.old)
        self.begin(Step.OLD_RULES_BACK)
        with self.handle.inside():
            parts.put_back(self.old, self.tell, dns=False, patience=self.patience)
        self.begin(Step.OLD_VERIFY)
        with self.handle.inside():
            parts.verify_back(self.old, dns=False)
        self.begin(Step.TABLE_AWAY)
        self._take_away()
        with self.handle.inside(), Conntrack() as conntrack:
            # Until the old rules set a zone, a query from the port of an entry of these would be sent from another.
            forget_zoned(conntrack, both_ways=False)
        self.begin(Step.OLD_DNS_BACK)
        with self.handle.inside(), Conntrack() as conntrack:
            # Not before the table is gone, and before the old rule for answers is back (see the package).
            forget_zoned(conntrack, both_ways=False)
            parts.put_back(self.old, self.tell, dns=True, patience=self.patience)
            parts.verify_back(self.old, dns=True)
        self.begin(Step.ROUTES_AWAY)
        routes.delete_own(self.handle)
        self.records.forget(self.handle.netns.identity)
        self.begin(Step.RETURNED)

    def _take_away(self) -> None:
        for _ in range(ATTEMPTS):
            actual = self.handle.look(self.target.table)
            if actual is None:
                return
            try:
                take_away(self.handle, actual)
                return
            except GenerationMoved as error:
                moved = error
        raise moved
