"""What the log has of targets: each change once."""

import logging
from collections import Counter
from collections.abc import Iterable

from agent.targets import Absent, Outcome, State

log = logging.getLogger("weir")


class Said:
    """What was last said of each target, and how often that it was written."""

    def __init__(self) -> None:
        """Begin with nothing said."""
        self._said: dict[str, tuple[State, str]] = {}
        self.applied = Counter[str]()  # how often each was written

    def keep_only(self, names: Iterable[str]) -> None:
        """Forget all others."""
        kept = set(names)
        self._said = {name: said for name, said in self._said.items() if name in kept}

    def forget(self, name: str) -> None:
        """Forget a target."""
        self._said.pop(name, None)
        self.applied.pop(name, None)

    def tell(self, outcome: Outcome) -> None:
        """Log the outcome of a pass, where it is news."""
        name, said = outcome.target.name, (outcome.state, outcome.reason)
        self.applied[name] += bool(outcome.plan) and outcome.state in (State.APPLIED, State.DEGRADED, State.REMOVED)
        before = self._said.get(name)
        self._said[name] = said
        if outcome.state is State.DRAINING and before is not None and before[0] is State.DRAINING:
            return  # its time runs down; how many streams are left is a metric
        # The look that follows a change says nothing new; the next change does.
        captured = not isinstance(outcome.target.wish, Absent)
        settled = outcome.state is State.UNCHANGED and captured and not outcome.rivals
        if before == said or (settled and before is not None and before[0] is State.APPLIED):
            return
        log_outcome(outcome)


def log_outcome(outcome: Outcome) -> None:
    """Log the outcome of a pass."""
    level = {State.FAILED: logging.ERROR, State.DEGRADED: logging.WARNING}.get(outcome.state, logging.INFO)
    hint = f" ({outcome.hint})" if outcome.hint else ""
    who = (outcome.target.name, outcome.target.netns)
    log.log(level, "target %s (netns %s): %s: %s%s", *who, outcome.state, outcome.reason, hint)
