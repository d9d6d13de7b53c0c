"""How far a migration has come: one file for each namespace, written before each step begins.

It outlives the migration, since `--back` needs what it holds. A file counts only for the very namespace that it was
written for, as a `Record` does; what can't be read counts for none.
"""

import json
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from agent.errors import WeirError
from agent.kernel.netns import Identity, Netns, identify
from agent.migration import old as old_rules
from agent.migration.old import Old
from agent.state import write_whole


class Step(StrEnum):
    """The steps of both directions, in their order. Each can be repeated."""

    SAVE = "save"
    ROUTES = "routes"
    TABLE = "table"
    VERIFY = "verify"
    REMOVE = "remove"
    FLOWS = "flows"
    OLD_ROUTES = "old-routes"
    MIGRATED = "migrated"

    OLD_ROUTES_BACK = "old-routes-back"
    OLD_RULES_BACK = "old-rules-back"
    OLD_VERIFY = "old-verify"
    TABLE_AWAY = "table-away"
    OLD_DNS_BACK = "old-dns-back"
    ROUTES_AWAY = "routes-away"
    RETURNED = "returned"


_WHOLE = frozenset({Step.SAVE, Step.ROUTES, Step.TABLE, Step.VERIFY})
_BACK = frozenset(step for at, step in enumerate(Step) if at > list(Step).index(Step.MIGRATED))


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One namespace's migration: the newest step that was begun, and what the other agent had before the first."""

    name: str
    netns: str
    cookie: int
    step: Step
    old: Old

    @property
    def back(self) -> bool:
        """Whether it leads back to the other agent's rules."""
        return self.step in _BACK

    @property
    def done(self) -> bool:
        """Whether nothing is left to be done."""
        return self.step in (Step.MIGRATED, Step.RETURNED)

    @property
    def untouched(self) -> bool:
        """Whether none of the other agent's rules has been taken out yet."""
        return self.step in _WHOLE

    def document(self) -> dict[str, object]:
        """Return it as JSON can hold it."""
        return {
            "name": self.name,
            "netns": self.netns,
            "cookie": self.cookie,
            "direction": "back" if self.back else "forward",
            "step": str(self.step),
            "done": self.done,
            "old": self.old.document(),
        }


class Journal:
    """The migrations of one run directory."""

    def __init__(self, directory: Path) -> None:
        """Keep files below `directory`, the run directory."""
        self._directory = directory / "migrations"

    def read(self, identity: Identity, cookie: int) -> Progress | None:
        """Return how far the migration of a namespace has come; None where there was none."""
        found = _read(self._path(identity))
        return found if found is not None and found.cookie == cookie else None

    def write(self, identity: Identity, progress: Progress) -> None:
        """Keep it, replacing what was there before. Raises `PermissionMissing`."""
        write_whole(self._path(identity), json.dumps(progress.document()))

    def unfinished(self) -> tuple[Progress, ...]:
        """Return the migrations that somebody began and nobody ended, of namespaces that are still there."""
        found = (_read(path) for path in self._files())
        return tuple(each for each in found if each is not None and not each.done and self._is_there(each))

    def clear_away(self) -> None:
        """Delete the files of namespaces that have gone."""
        for path in self._files():
            found = _read(path)
            if found is not None and not self._is_there(found):
                path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(self._directory.glob("*.json"))

    def _is_there(self, progress: Progress) -> bool:
        identity = identify(Netns(progress.netns).file)
        return identity is not None and os.path.exists(self._path(identity))

    def _path(self, identity: Identity) -> Path:
        return self._directory / f"{identity.device}-{identity.inode}.json"


def _read(path: Path) -> Progress | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Progress(
            name=str(found["name"]),
            netns=Netns(str(found["netns"])).text,
            cookie=int(found["cookie"]),
            step=Step(found["step"]),
            old=old_rules.parse(found["old"]),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError, WeirError):
        return None
