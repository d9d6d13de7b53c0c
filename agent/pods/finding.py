"""The namespaces of pods that nobody has named, found together: one pass over /proc serves all that ask meanwhile."""

import asyncio
from collections.abc import Mapping

from agent.pods.neighbours import Find
from agent.pods.probes import Threads
from agent.sources.kubernetes.facts import Pod
from agent.sources.kubernetes.sandboxes import Sandbox, Unfit, Why


class Finding:
    """Asks for one pod each, and looks for all at once. To be used in the loop's thread."""

    def __init__(self, find: Find, threads: Threads) -> None:
        """`find` is called in a worker, one call at a time."""
        self._find = find
        self._threads = threads
        self._asked: dict[str, Pod] = {}
        self._found: asyncio.Future[Mapping[str, Sandbox | Unfit]] | None = None
        self._looking = asyncio.Lock()

    async def of(self, pod: Pod) -> Sandbox | Unfit:
        """Return a pod's namespace, or why it has none."""
        self._asked[pod.uid] = pod
        if self._found is None:
            self._found = asyncio.ensure_future(self._look())
        found = await asyncio.shield(self._found)
        return found.get(pod.uid) or Unfit(uid=pod.uid, why=Why.NOT_FOUND, reason="it was not looked for")

    async def _look(self) -> Mapping[str, Sandbox | Unfit]:
        async with self._looking:  # who asks while others are looked for is served by the next one
            asked, self._asked, self._found = tuple(self._asked.values()), {}, None
            return await self._threads.work(self._find, asked)
