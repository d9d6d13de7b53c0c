"""Keeps the installation in place for as long as the agent runs: inotify on both folders, and a pass when it speaks."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable

from asyncinotify import Inotify, Mask

from agent.cni.installation import CONFIGURATION_FAILURE, PROGRAM_FAILURE, ProgramError, Standing
from agent.cni.installer import Installer
from agent.errors import ConfigError

SPACING = 0.1  # seconds between two passes, however often files change
INTERVAL = 30.0  # seconds until a look that nothing has asked for
_TOO_OFTEN, _WITHIN = 5, 60.0  # so many times put back, in so many seconds: two writers undo each other's work

log = logging.getLogger("weir.cni")
_CHANGES = Mask.CREATE | Mask.DELETE | Mask.MOVE | Mask.MODIFY | Mask.CLOSE_WRITE | Mask.ATTRIB | Mask.ONLYDIR
_ENDED = Mask.IGNORED | Mask.UNMOUNT | Mask.MOVE_SELF


async def keep(installer: Installer, told: Callable[[Standing], None]) -> None:
    """Put the installation in place and keep it there. `told` is called with how it stands, after each pass.

    What others write is answered within a second. Returns when a folder goes, and raises `OSError` where one isn't
    there or inotify has reached its limits: begin again later. The installer is nobody else's meanwhile.
    """
    await _pass(installer, told, deque())  # whatever inotify may say
    changed = asyncio.Event()
    with Inotify() as inotify:
        for folder in (installer.wanted.conf_directory, installer.wanted.bin_directory):
            inotify.add_watch(folder, _CHANGES | Mask.MOVE_SELF)
        changed.set()  # for what has happened before
        watching = asyncio.create_task(_listen(inotify, changed))
        try:
            await _passes(installer, told, changed, watching)
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching


async def _listen(inotify: Inotify, changed: asyncio.Event) -> None:
    try:
        async for event in inotify:
            if event.mask & _ENDED:
                return
            changed.set()
    finally:
        changed.set()


async def _passes(
    installer: Installer, told: Callable[[Standing], None], changed: asyncio.Event, watching: asyncio.Task[None]
) -> None:
    times: deque[float] = deque(maxlen=_TOO_OFTEN + 1)
    wait = INTERVAL
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await changed.wait()
        if watching.done():
            return
        await asyncio.sleep(SPACING)  # what replaces a file takes two or three steps
        changed.clear()
        wait = await _pass(installer, told, times)


async def _pass(installer: Installer, told: Callable[[Standing], None], times: deque[float]) -> float:
    """Make one pass, tell of it, and return in how many seconds to make the next one."""
    try:
        standing = await asyncio.to_thread(installer.put)
    except ConfigError as error:
        failure = PROGRAM_FAILURE if isinstance(error, ProgramError) else CONFIGURATION_FAILURE
        standing = Standing(ready=False, reason=str(error), hint=error.hint, failure=failure, again=1.0)
    for path in standing.changed:
        log.info("wrote or deleted %s", path)
    if standing.changed:
        times.append(time.monotonic())
        if len(times) > _TOO_OFTEN and times[-1] - times[0] < _WITHIN:
            log.warning(
                "put back %d times within %.0f seconds, last %s: another program writes there too. Cilium's is told to "
                "leave others' alone by cni.exclusive=false; an own conflist touches no file of another",
                len(times),
                times[-1] - times[0],
                standing.changed[-1],
            )
            times.clear()
    told(standing)
    return INTERVAL if standing.again is None else standing.again
