"""The pods of this node and all namespaces, as the API had them when last heard of.

Only what `facts` reads of them is kept. While the API is away everything stays; what was missed is found afterwards.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NoReturn

from agent.sources.kubernetes.api import Api
from agent.sources.kubernetes.facts import Namespace, Pod
from agent.sources.kubernetes.stores import NamespaceStore, PodStore, Unreadable
from agent.sources.kubernetes.watching import Follower, Patience, Resource

__all__ = ["ApiState", "Informer", "Unreadable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiState:
    """How the API is heard. `since` is when `connected` last changed, in seconds since boot; `error` what failed last.

    `relists` counts listings after the first of each resource, `restarts` watches after the first, `bookmarks` those
    received. `complete`: pods and namespaces were listed whole once. `pods` is how many of this node are known.
    """

    connected: bool
    complete: bool
    since: float
    error: str
    relists: int
    restarts: int
    bookmarks: int
    pods: int
    unreadable: int

    def document(self) -> dict[str, object]:
        """Return it as JSON has it."""
        return {
            "connected": self.connected,
            "complete": self.complete,
            "since": round(self.since, 3),
            "error": self.error,
            "relists": self.relists,
            "restarts": self.restarts,
            "bookmarks": self.bookmarks,
            "pods": self.pods,
            "unreadable": self.unreadable,
        }


class Informer:
    """What the API says of one node. To be used in one loop.

    `changed` is called with a pod's uid when the pod was added, has changed in what is kept of it, or is gone; when it
    can no longer be read, or can again; and when the labels of its namespace have changed. `listed` is called once,
    when pods and namespaces were listed whole; `changed` may be called before. Both are called in the loop, and have to
    be quick.
    """

    def __init__(
        self,
        api: Api,
        node: str,
        changed: Callable[[str], None],
        listed: Callable[[], None],
        *,
        patience: Patience = Patience(),  # noqa: B008 (frozen)
    ) -> None:
        self._told_whole, self._whole = listed, False
        self._pods, self._namespaces = PodStore(changed), NamespaceStore(self._namespace_changed)
        self._changed = changed
        pods = Resource(name="pods", path="/api/v1/pods", query={"fieldSelector": f"spec.nodeName={node}"})
        namespaces = Resource(name="namespaces", path="/api/v1/namespaces")
        calls = api.requests
        self._followers: tuple[Follower[Pod | Unreadable], Follower[Namespace | Unreadable]] = (
            Follower(calls, pods, self._pods, patience=patience, listed=self._see_whether_whole),
            Follower(calls, namespaces, self._namespaces, patience=patience, listed=self._see_whether_whole),
        )

    async def run(self) -> NoReturn:
        """List and watch until cancelled. Whatever fails is in `state`, and tried again."""
        async with asyncio.TaskGroup() as group:
            for each in self._followers:
                group.create_task(each.run())
        raise AssertionError("followers never return")

    @property
    def pods(self) -> Mapping[str, Pod]:
        """The pods of this node by uid, each as it was when it could last be read."""
        return MappingProxyType(self._pods.pods)

    @property
    def unreadable(self) -> Mapping[str, Unreadable]:
        """The pods that can't be read as they are now, by uid."""
        return MappingProxyType(self._pods.unreadable)

    @property
    def namespaces(self) -> Mapping[str, Namespace]:
        """All namespaces by name."""
        return MappingProxyType(self._namespaces.namespaces)

    @property
    def complete(self) -> bool:
        """Whether pods and namespaces were listed whole once."""
        return all(each.lists for each in self._followers)

    def find(self, namespace: str, name: str) -> Pod | None:
        """Return the pod of this node that has a name now."""
        return self._pods.find(namespace, name)

    def state(self) -> ApiState:
        """Return how the API is heard."""
        both = self._followers
        away = [each for each in both if not each.connected]
        return ApiState(
            connected=not away,
            complete=self.complete,
            since=min(each.since for each in away) if away else max(each.since for each in both),
            error=next((each.error for each in both if each.error), ""),
            relists=sum(max(0, each.lists - 1) for each in both),
            restarts=sum(each.restarts for each in both),
            bookmarks=sum(each.bookmarks for each in both),
            pods=len({*self._pods.pods, *self._pods.unreadable}),
            unreadable=len(self._pods.unreadable),
        )

    def _see_whether_whole(self) -> None:
        if self.complete and not self._whole:
            self._whole = True
            self._told_whole()

    def _namespace_changed(self, name: str) -> None:
        for uid in self._pods.of_namespace(name):
            self._changed(uid)
