"""What the doctor says: findings, each with what was seen, why it matters, and what to do."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum


class Level(StrEnum):
    """How bad it is. `UNCHECKED`: nobody knows, since it couldn't be looked at."""

    ERROR = "error"
    WARNING = "warning"
    UNCHECKED = "unchecked"
    NOTE = "note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that isn't as it should be. `check` is a name for programs, `where` the node or a target.

    `what` has the value that was seen, `why` what comes of it, `do` what helps, `command` a line that does so, ready to
    paste where there is one.
    """

    check: str
    where: str = ""
    level: Level
    what: str
    why: str
    do: str = ""
    command: str = ""

    def document(self) -> dict[str, str]:
        """Return it as JSON can hold it."""
        return {name: str(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """All that was found, the worst first; `examined` are the node and the targets, `checks` how many were made."""

    findings: tuple[Finding, ...]
    examined: tuple[str, ...]
    checks: int

    def with_findings(self, found: Iterable[Finding]) -> "Diagnosis":
        """Return it with findings of others: one check each, and of targets that it may not have examined."""
        found = tuple(found)
        where = dict.fromkeys((*self.examined, *(each.where for each in found)))
        return Diagnosis(
            findings=ordered((*self.findings, *found)), examined=tuple(where), checks=self.checks + len(found)
        )

    def count(self, level: Level) -> int:
        """Return how many findings are of a level."""
        return sum(each.level is level for each in self.findings)

    @property
    def code(self) -> int:
        """The exit code: 0 all is well, 1 something is doubtful or couldn't be checked, 2 something doesn't work."""
        if self.count(Level.ERROR):
            return 2
        return 1 if self.count(Level.WARNING) or self.count(Level.UNCHECKED) else 0


def placed(found: Iterable[Finding], where: str, *, wanted: bool = True) -> list[Finding]:
    """Return findings with where they were found; where nothing is to be captured each is a note only."""
    placed_ = (replace(each, where=where) for each in found)
    return [each if wanted or each.level is Level.UNCHECKED else replace(each, level=Level.NOTE) for each in placed_]


def ordered(found: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings, the worst first, else in their order."""
    return tuple(sorted(found, key=lambda each: list(Level).index(each.level)))
