"""Namespaces whose accounting was turned on for events: what it was before is written down, and put back afterwards.

A file each in ``observed`` of the run directory, written before anything is turned on, so that a killed daemon's
settings are put back by the next one.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import WeirError
from agent.kernel.conntrack import accounting
from agent.kernel.netns import Identity, Netns, OpenNetns, identify
from agent.state import clear_drafts, write_whole

if TYPE_CHECKING:
    from agent.kernel.handle import Handle


class Accounted:
    """The settings of one run directory's namespaces."""

    def __init__(self, directory: Path) -> None:
        """`directory` is the run directory."""
        self._directory = directory / "observed"
        clear_drafts(self._directory.glob("*.tmp"))

    def turn_on(self, handle: "Handle") -> tuple[str, ...]:
        """Turn on what events need in a namespace; return in words what can't be. Raises `WeirError`."""
        path = self._path(handle.netns.identity)
        with handle.inside():
            if not _is_of(path, handle.cookie):
                before = accounting.settings()
                if all(before.get(name) for name in accounting.SETTINGS):
                    return ()
                self._directory.mkdir(parents=True, exist_ok=True)
                known = {"netns": handle.netns.netns.text, "cookie": handle.cookie, "before": before}
                write_whole(str(path), json.dumps(known))
            return accounting.turn_on()

    def put_back(self, keeping: Iterable[Identity]) -> None:
        """Put the settings of every namespace back that isn't to be kept so; forget those that have gone."""
        kept = {self._path(each).name for each in keeping}
        for path in tuple(self._directory.glob("*.json")):
            if path.name not in kept:
                self._put_back(path)
                path.unlink(missing_ok=True)

    def _put_back(self, path: Path) -> None:
        with suppress(OSError, ValueError, KeyError, WeirError):
            known = json.loads(path.read_text())
            netns = Netns(known["netns"])
            identity = identify(netns.file)
            if identity is None or self._path(identity) != path:
                return  # its name means another one, or none: nothing of ours is there
            opened = OpenNetns(netns)
            try:
                with opened.entered():
                    if not known["cookie"] or _cookie() == known["cookie"]:
                        accounting.put_back(known["before"])
            finally:
                opened.close()

    def _path(self, identity: Identity) -> Path:
        return self._directory / f"{identity.device}-{identity.inode}.json"


def _is_of(path: Path, cookie: int) -> bool:
    """Tell whether a file is of the very namespace with this cookie: an inode is used again."""
    try:
        return bool(json.loads(path.read_text())["cookie"] == cookie)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _cookie() -> int:
    from agent.kernel.addresses import Rtnetlink

    with Rtnetlink() as asked:
        return asked.cookie
