"""Word of the proxies' cgroups that come, go and are made anew: inotify on the directories above them."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import PurePosixPath

from asyncinotify import Inotify, Mask

from agent.errors import TargetError
from agent.kernel import cgroups
from agent.targets import Captured, Target

# Seconds until it is noticed that other targets are wanted.
INTERVAL = 1.0
_NAMES = Mask.CREATE | Mask.DELETE | Mask.MOVE | Mask.ONLYDIR


async def watch_cgroups(changed: Callable[[str], None], targets: Callable[[], Iterable[Target]]) -> None:
    """Call `changed` with the netns of each of the targets whose proxy's cgroup has come, or has another number by now.

    Not when one goes: a pass then would only delay the one that its return needs. Begins with a call for each that is
    there, for what has happened before. Returns where no target names one, or no cgroup2 is mounted: begin again later.
    """
    wanted = _wanted(targets())
    if not wanted:
        return
    numbers: dict[str, int] = {}
    with Inotify() as inotify:
        while wanted:
            try:
                for path, places in wanted.items():
                    _watch(inotify, path)  # before it is looked at, so that nothing is missed
                    number = cgroups.number(path)
                    if number is not None and numbers.get(path) != number:
                        numbers[path] = number
                        for netns in places:
                            changed(netns)
            except TargetError:
                return  # each pass says why
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL):
                    await inotify.get()
            wanted = _wanted(targets())


def _wanted(targets: Iterable[Target]) -> dict[str, list[str]]:
    """Return the cgroups that targets name by their paths, and the netns of those targets."""
    found: dict[str, list[str]] = {}
    for target in targets:
        match target.wish:
            case Captured(capture=capture) if capture.proxy_cgroup is not None:
                found.setdefault(str(capture.proxy_cgroup.cgroup), []).append(target.netns)
    return found


def _watch(inotify: Inotify, path: str) -> None:
    """Watch every directory above a cgroup that is there: of those that come later, the one above tells."""
    top = cgroups.root()
    for above in PurePosixPath(path).parents:
        with suppress(OSError):
            inotify.add_watch(top / above, _NAMES)
