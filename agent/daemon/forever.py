"""What is watched for as long as the daemon runs."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger("weir")
WATCH_INTERVAL = 1.0  # seconds between two attempts to watch a directory


async def forever(watch: Callable[[], Awaitable[None]]) -> None:
    """Keep watching; one that ends or fails (a directory that isn't there, inotify's limit, a bug) begins again."""
    said = ""
    while True:
        try:
            await watch()
            said = ""
        except OSError as error:
            if said != str(error):
                log.warning("watching begins again when it can: %s", error)
            said = str(error)
        except Exception as error:
            if said != repr(error):
                log.exception("watching begins again")
            said = repr(error)
        await asyncio.sleep(WATCH_INTERVAL)
