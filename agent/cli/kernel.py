"""Running a job for each target: in worker threads, since the main thread never enters a namespace, with progress."""

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from agent.errors import WeirError
from agent.kernel.handle import Handle
from agent.kernel.netns import Netns
from agent.targets import Target

WORKERS = 4
MANY = 12  # from so many targets on, progress is shown on a terminal

_T = TypeVar("_T")


def with_handles(targets: Iterable[Target], job: Callable[[Target, Handle], _T]) -> list[tuple[Target, _T | WeirError]]:
    """Return what the job came to for each target, in their order: its result, or the error that stopped it."""
    targets = tuple(targets)

    def run(target: Target) -> _T | WeirError:
        try:
            handle = Handle(Netns(target.netns))
            try:
                return job(target, handle)
            finally:
                handle.close()
        except WeirError as error:
            return error

    with ThreadPoolExecutor(min(WORKERS, len(targets)) or 1, "kernel") as workers:
        return list(zip(targets, _shown(workers.map(run, targets), len(targets)), strict=True))


def _shown(results: Iterable[_T], total: int) -> Iterable[_T]:
    if total < MANY or not sys.stderr.isatty():
        return results
    from rich.console import Console
    from rich.progress import track

    return track(results, description="targets", total=total, console=Console(stderr=True), transient=True)
