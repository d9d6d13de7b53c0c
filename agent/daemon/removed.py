"""The targets that a command took away, kept over a restart."""

import json
from collections.abc import Iterable
from pathlib import Path

from agent.state import write_whole


class Removed:
    """The targets that `remove` took away, with their drain in seconds: kept in a file until `apply`."""

    def __init__(self, path: Path) -> None:
        """Read the file, if it can be read."""
        self._path = path
        try:
            self._drains: dict[str, float] = {str(k): float(v) for k, v in json.loads(path.read_text()).items()}
        except (OSError, ValueError, AttributeError, TypeError):
            self._drains = {}

    def get(self, name: str) -> float | None:
        """Return a target's drain; None where nobody took it away."""
        return self._drains.get(name)

    def put(self, name: str, drain: float) -> None:
        """Keep a target's drain."""
        self._write({**self._drains, name: drain})

    def drop(self, name: str) -> None:
        """Forget a target."""
        if name in self._drains:
            self._write({key: drain for key, drain in self._drains.items() if key != name})

    def keep_only(self, names: Iterable[str]) -> None:
        """Forget all others."""
        for name in self._drains.keys() - set(names):
            self.drop(name)

    def _write(self, drains: dict[str, float]) -> None:
        write_whole(self._path, json.dumps(drains))
        self._drains = drains
