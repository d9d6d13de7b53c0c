"""Word of namespaces that come and go, and of a file that changes: inotify where they are kept."""

from collections.abc import Callable
from pathlib import Path

from asyncinotify import Inotify, Mask

from agent.kernel.netns import NETNS_DIRECTORY

_ENDED = Mask.IGNORED | Mask.UNMOUNT | Mask.MOVE_SELF
_NAMES = Mask.CREATE | Mask.DELETE | Mask.MOVE | Mask.ATTRIB | Mask.MOVE_SELF | Mask.ONLYDIR
_FILES = Mask.CLOSE_WRITE | Mask.MOVE | Mask.CREATE | Mask.DELETE | Mask.MOVE_SELF | Mask.ONLYDIR


async def watch_names(changed: Callable[[str | None], None], directory: Path = NETNS_DIRECTORY) -> None:
    """Call `changed` with the name of every namespace that gets or loses its name; None: with any of them.

    Returns when the directory goes, and raises `OSError` when it isn't there: begin again later. Begins with one call,
    for what has happened before. ``ip netns add`` makes the file first and mounts the namespace on it a moment later,
    which inotify doesn't show: at the call it may not be one yet.
    """
    with Inotify() as inotify:
        inotify.add_watch(directory, _NAMES)
        changed(None)
        async for event in inotify:
            if event.mask & _ENDED:
                return
            changed(None if event.name is None else str(event.name))


async def watch_file(path: Path, changed: Callable[[], None]) -> None:
    """Call `changed` whenever a file may have been written or replaced; perhaps too often, so look whether it was.

    Its directory is watched, since editors and configuration tools replace files by renaming another over them; and
    that to which a symbolic link leads. Begins, ends and fails as `watch_names` does.
    """
    directories = _directories(path)
    with Inotify() as inotify:
        for directory in directories:
            inotify.add_watch(directory, _FILES)
        changed()
        async for event in inotify:
            if event.mask & _ENDED:
                return
            if event.name is None or _may_be(path, str(event.name)):
                changed()
                if _directories(path) != directories:
                    return


def _directories(path: Path) -> frozenset[Path]:
    return frozenset((path.parent, path.resolve().parent))


def _may_be(path: Path, name: str) -> bool:
    # A Kubernetes volume changes by exchanging a link in the middle of the chain, whatever it is called.
    return name == path.name or path.is_symlink()
