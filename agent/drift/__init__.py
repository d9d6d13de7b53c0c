"""Drift: what has changed behind Weir's back, and who did it, as far as the kernel tells."""

from dataclasses import dataclass
from enum import StrEnum

MOST_DRIFTS = 8
"""How many drifts of a target are remembered, the newest."""


class Kind(StrEnum):
    """What drifted. The slug is the kind's name in the log, in metrics and in documents (docs/drift.md)."""

    TABLE_CHANGED = "table-changed"
    TABLE_GONE = "table-gone"
    FOREIGN_CHAIN = "foreign-chain"
    LEGACY_RULES = "legacy-rules"
    POLICY_RULE = "policy-rule"
    ROUTE = "route"
    LISTENER_GONE = "listener-gone"
    FAMILIES = "families"
    SYSCTL = "sysctl"
    HELPER = "helper"
    NODE_ELEMENT = "node-element"
    NAMESPACE_REPLACED = "namespace-replaced"
    OVERRUN = "overrun"


@dataclass(frozen=True, slots=True, kw_only=True)
class Culprit:
    """The process that made a change, by its number and the name that it went by (comm): printable, in one line."""

    pid: int
    name: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.name})"

    def document(self) -> dict[str, object]:
        """Return the culprit as JSON has it."""
        return {"pid": self.pid, "name": self.name}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """One thing that drifted: what was found in words, who did it (None: nobody can tell), when in Unix seconds."""

    kind: Kind
    said: str
    culprit: Culprit | None
    at: float

    def document(self) -> dict[str, object]:
        """Return the drift as a status document has it."""
        return {
            "kind": str(self.kind),
            "said": self.said,
            "culprit": None if self.culprit is None else self.culprit.document(),
            "at": self.at,
        }
