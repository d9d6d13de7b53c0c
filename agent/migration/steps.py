"""What the steps of both directions share: the journal is written before each of them."""

from collections.abc import Callable
from dataclasses import dataclass

from agent.kernel.handle import Handle
from agent.migration.journal import Journal, Progress, Step
from agent.migration.old import Old
from agent.state import Records
from agent.targets import Target

ATTEMPTS = 5  # at what somebody else changes between the look and the write


@dataclass(frozen=True, slots=True)
class Steps:
    """A migration under way, whose namespace is held against every other Weir. `patience` is in seconds, for a lock."""

    target: Target
    handle: Handle
    records: Records
    journal: Journal
    old: Old
    tell: Callable[[str], None]
    patience: int

    def begin(self, step: Step) -> None:
        """Write down that a step begins, then say so."""
        progress = Progress(
            name=self.target.name, netns=self.target.netns, cookie=self.handle.cookie, step=step, old=self.old
        )
        self.journal.write(self.handle.netns.identity, progress)
        self.tell(f"step: {step}")
