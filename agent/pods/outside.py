"""The sandboxes of pods that are not captured: remembered, so that one that is wanted later needn't be looked for."""

import asyncio
import logging
from collections.abc import Callable

from agent.cni.protocol import Sandbox as Asked
from agent.errors import WeirError
from agent.pods.neighbours import Memory
from agent.pods.probes import Threads
from agent.pods.request import same_place
from agent.reconcile import BEHIND_THE_ANSWER
from agent.sources.kubernetes.facts import Pod
from agent.sources.kubernetes.sandboxes import Sandbox, look

log = logging.getLogger("weir")


class Outside:
    """What the container runtime has said of them. To be used in the loop's thread."""

    def __init__(self, memory: Memory, threads: Threads, taken: Callable[[str], bool]) -> None:
        """Take where it is kept; `taken` tells whether a pod has a course, which remembers it by itself."""
        self._taken = taken
        self._memory = memory
        self._threads = threads
        self._asked: dict[str, Asked] = {}  # by uid
        self._tasks: set[asyncio.Task[None]] = set()

    def started(self, pod: Pod, asked: Asked) -> None:
        """Take note of a pod that starts uncaptured. Nobody waits for that."""
        self._asked[pod.uid] = asked
        task = asyncio.get_running_loop().create_task(self._remember(pod.uid, asked))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def ended(self, asked: Asked) -> None:
        """Take note that a sandbox ends; another one of the same pod stays."""
        for uid, each in tuple(self._asked.items()):
            if (each.namespace, each.pod) == (asked.namespace, asked.pod) and same_place(each, asked):
                self.forget(uid)

    def forget(self, uid: str) -> None:
        """Take note that a pod is gone."""
        self._asked.pop(uid, None)
        if not self._taken(uid):
            self._memory.forget(uid)

    async def close(self) -> None:
        """Stop."""
        for each in self._tasks:
            each.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _remember(self, uid: str, asked: Asked) -> None:
        try:
            await asyncio.sleep(BEHIND_THE_ANSWER)
            await self._threads.follow_up(self._look_and_remember, uid, asked)
        except (WeirError, OSError) as error:
            log.debug("%s: its sandbox is not remembered: %s", asked, error)
        if uid not in self._asked and not self._taken(uid):  # it has ended meanwhile
            self._memory.forget(uid)

    def _look_and_remember(self, uid: str, asked: Asked) -> None:
        found = look(uid, asked.netns, addresses=asked.addresses, container=asked.container, interface=asked.interface)
        if isinstance(found, Sandbox):
            self._memory.remember(found)
