"""An informer at work in a loop of its own thread, asked from a test's."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar

from agent.sources.kubernetes.api import Api
from agent.sources.kubernetes.informer import ApiState, Informer
from agent.sources.kubernetes.watching import Patience
from netns_tests.patience import slow
from netns_tests.world import eventually

__all__ = ["Informing"]

T = TypeVar("T")


class Informing:
    """Use it in a `with` block. `changed` are the uids told so far, `wholes` how often all was said to be there."""

    def __init__(self, kubeconfig: Path, node: str, *, patience: Patience = Patience()) -> None:  # noqa: B008
        self.changed: list[str] = []
        self.wholes = 0
        self.api = Api.open(kubeconfig, node=node)
        self.informer = Informer(self.api, node, self.changed.append, self._whole, patience=patience)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._running: asyncio.Task[NoReturn] | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self.go_on()
        return self

    def __exit__(self, *error: object) -> None:
        self.wait_a_while()
        self.ask(lambda api: api.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def go_on(self) -> None:
        """List and watch."""

        async def begin() -> None:
            self._running = asyncio.create_task(self.informer.run())

        self._run(begin())

    def wait_a_while(self) -> None:
        """List and watch no more; what is known stays known."""

        async def end() -> None:
            if self._running is not None:
                self._running.cancel()
                await asyncio.gather(self._running, return_exceptions=True)

        self._run(end())

    def ask(self, question: Callable[[Api], Awaitable[T]]) -> T:
        """Ask the API something."""

        async def asked() -> T:
            return await question(self.api)

        return self._run(asked())

    def state(self) -> ApiState:
        """Return how the API is heard."""
        return self.informer.state()

    def names(self) -> list[str]:
        """Return the names of the pods that are known."""
        return sorted(each.name for each in tuple(self.informer.pods.values()))

    def until(self, true: Callable[[], object], what: str) -> None:
        """Wait until something is so."""
        eventually(true, what, slow(30.0))

    def until_whole(self) -> None:
        """Wait until all was listed."""
        self.until(lambda: self.informer.complete, "pods and namespaces are listed")

    def _whole(self) -> None:
        self.wholes += 1

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(slow(60.0))
