"""Running a job for each target: in worker threads, since the main thread never enters a namespace, with progress."""

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from agent.errors import WeirError
from agent.kernel.handle import Handle
from agent.kernel.netns import Netns, identify
from agent.targets import Target

WORKERS = 4
MANY = 12  # from so many targets on, progress is shown on a terminal

_T = TypeVar("_T")


def with_handles(
    targets: Iterable[Target], job: Callable[[Target, Handle], _T], *, progress: bool = True
) -> list[tuple[Target, _T | WeirError]]:
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

    workers = ThreadPoolExecutor(min(WORKERS, len(targets)) or 1, "kernel")
    try:
        results = workers.map(run, targets)
        return list(zip(targets, _shown(results, len(targets)) if progress else results, strict=True))
    finally:
        workers.shutdown(wait=False, cancel_futures=True)  # Ctrl-C waits for nobody


class Opened:
    """One target that is looked at again and again: its namespace stays open for as long as its name means it."""

    def __init__(self, target: Target) -> None:
        """Take the target; nothing is opened yet."""
        self._target = target
        self._handle: Handle | None = None
        self._worker = ThreadPoolExecutor(1, "kernel")

    def run(self, job: Callable[[Target, Handle], _T]) -> _T:
        """Return what the job comes to. Raises `WeirError`."""
        return self._worker.submit(self._run, job).result()

    def close(self) -> None:
        """Let go of the namespace, without waiting for it."""
        self._worker.submit(self._let_go)
        self._worker.shutdown(wait=False)

    def _run(self, job: Callable[[Target, Handle], _T]) -> _T:
        netns = Netns(self._target.netns)
        if self._handle is not None and identify(netns.file) != self._handle.netns.identity:
            self._let_go()
        if self._handle is None:
            self._handle = Handle(netns)
        return job(self._target, self._handle)

    def _let_go(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()


def _shown(results: Iterable[_T], total: int) -> Iterable[_T]:
    if total < MANY or not sys.stderr.isatty():
        return results
    from rich.console import Console
    from rich.progress import track

    return track(results, description="targets", total=total, console=Console(stderr=True), transient=True)
