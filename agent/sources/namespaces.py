"""Word of namespaces that come and go: inotify where names are kept, a look at each open one every second."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from asyncinotify import Inotify, Mask

from agent.kernel.netns import NETNS_DIRECTORY


async def watch_names(changed: Callable[[str], None], directory: Path = NETNS_DIRECTORY) -> None:
    """Call `changed` with the name of every namespace that gets or loses its name, until cancelled.

    ``ip netns add`` makes the file first and mounts the namespace on it a moment later, which inotify doesn't show: at
    the call it may not be one yet. The directory itself may come later too; until then there is nothing to watch.
    """
    while not directory.is_dir():
        await asyncio.sleep(1.0)
    with Inotify() as inotify:
        inotify.add_watch(directory, Mask.CREATE | Mask.DELETE | Mask.MOVE | Mask.ATTRIB)
        async for event in inotify:
            if event.name is not None:
                changed(str(event.name))


async def watch_file(path: Path, changed: Callable[[], None]) -> None:
    """Call `changed` whenever a file is written or replaced, until cancelled.

    Its directory is watched, since editors and configuration tools replace files by renaming another over them.
    """
    while not path.parent.is_dir():
        await asyncio.sleep(1.0)
    with Inotify() as inotify:
        inotify.add_watch(path.parent, Mask.CLOSE_WRITE | Mask.MOVED_TO | Mask.DELETE)
        async for event in inotify:
            if event.name is not None and str(event.name) == path.name:
                changed()
