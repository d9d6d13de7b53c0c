"""What the API says of a node's pods, told by a test; and what it was told."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any

from agent.errors import DaemonError
from agent.sources.kubernetes.api import Presence
from agent.sources.kubernetes.facts import DATAPLANE_MODE, REDIRECTION, Namespace, Pod
from agent.sources.kubernetes.informer import ApiState
from agent.sources.kubernetes.sandboxes import Sandbox, Unfit, Why, look
from netns_tests.world import Host

__all__ = ["AMBIENT", "Api", "Listing", "Unreadable", "pod_of"]

AMBIENT = {DATAPLANE_MODE: "ambient"}


def pod_of(host: Host | None, name: str = "web-0", *, uid: str = "", **changed: Any) -> Pod:
    """Return a pod of the namespace shop as the API has it, with the addresses of a namespace where one is given."""
    addresses = () if host is None else (ip_address(host.v4), ip_address(host.v6))
    return Pod(
        **{
            "namespace": "shop",
            "name": name,
            "uid": uid or f"uid-of-{name}",
            "service_account": "default",
            "phase": "Running" if addresses else "Pending",
            "addresses": addresses,
            **changed,
        }
    )


@dataclass(frozen=True)
class Unreadable:
    """A pod with a field that can't be read."""

    namespace: str
    name: str
    error: str


@dataclass
class Api:
    """What the API has, and what it was told. It lives longer than a node's agent."""

    pods: dict[str, Pod] = field(default_factory=dict)
    unreadable: dict[str, Unreadable] = field(default_factory=dict)
    namespaces: dict[str, Namespace] = field(default_factory=lambda: {"shop": Namespace(name="shop", labels=AMBIENT)})
    complete: bool = True
    away: bool = False
    unseen: set[str] = field(default_factory=set)  # what a direct question finds, and the listing doesn't have yet
    asked: list[str] = field(default_factory=list)
    written: list[tuple[str, str | None]] = field(default_factory=list)
    events: list[tuple[str, str, str]] = field(default_factory=list)
    there: dict[str, Host] = field(default_factory=dict)  # where a search finds a pod's namespace
    searches: int = 0
    changed: Callable[[str], None] = lambda _uid: None

    def find_in_listing(self, namespace: str, name: str) -> Pod | None:
        listed = (each for uid, each in self.pods.items() if uid not in self.unseen)
        return next((each for each in listed if (each.namespace, each.name) == (namespace, name)), None)

    async def pod(self, namespace: str, name: str) -> Pod | None:
        self._ask(f"pod {namespace}/{name}")
        return next((each for each in self.pods.values() if (each.namespace, each.name) == (namespace, name)), None)

    async def namespace(self, name: str) -> Namespace | None:
        self._ask(f"namespace {name}")
        return self.namespaces.get(name)

    async def redirect_state(self, pod: Pod, value: str | None) -> object:
        self._ask(f"redirect {pod.uid}")
        found = self.pods.get(pod.uid)
        if found is None:
            return None
        self.written.append((pod.uid, value))
        kept = {key: each for key, each in found.annotations.items() if key != REDIRECTION}
        self.pods[pod.uid] = replace(found, annotations={**kept, **({REDIRECTION: value} if value else {})})
        asyncio.get_running_loop().call_soon(self.changed, pod.uid)
        return None

    async def event(self, pod: Pod, reason: str, note: str, *, warning: bool) -> None:
        self.events.append((pod.name, reason, note))

    async def daemon_set(self, namespace: str, name: str) -> Presence:
        return Presence.THERE

    async def sidecars_elsewhere(self, most: int = 500) -> tuple[Pod, ...]:
        return ()

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.away:
            raise DaemonError("the API is away")

    def search(self, pods: Iterable[Pod]) -> Mapping[str, Sandbox | Unfit]:
        """Find namespaces as a search of /proc would."""
        self.searches += 1
        found: dict[str, Sandbox | Unfit] = {}
        for pod in pods:
            host = self.there.get(pod.uid)
            if host is None:
                found[pod.uid] = Unfit(uid=pod.uid, why=Why.NOT_FOUND, reason="no process of it was found")
            else:
                found[pod.uid] = look(pod.uid, str(host.path), addresses=pod.addresses)
        return found


class Listing:
    """The agent's view of the API."""

    def __init__(self, api: Api, changed: Callable[[str], None], listed: Callable[[], None]) -> None:
        self.api, self.changed, self._listed = api, changed, listed
        api.changed = changed

    @property
    def pods(self) -> Mapping[str, Pod]:
        return {uid: each for uid, each in self.api.pods.items() if uid not in self.api.unseen}

    def state(self) -> ApiState:
        return ApiState(
            connected=not self.api.away,
            complete=self.complete,
            since=0.0,
            error="the API is away" if self.api.away else "",
            relists=0,
            restarts=0,
            bookmarks=0,
            pods=len(self.pods),
            unreadable=len(self.unreadable),
        )

    @property
    def unreadable(self) -> Mapping[str, Unreadable]:
        return self.api.unreadable

    @property
    def namespaces(self) -> Mapping[str, Namespace]:
        return self.api.namespaces

    @property
    def complete(self) -> bool:
        return self.api.complete

    def find(self, namespace: str, name: str) -> Pod | None:
        return self.api.find_in_listing(namespace, name)

    async def run(self) -> None:
        while not self.api.complete:  # noqa: ASYNC110 (a test sets it from another thread)
            await asyncio.sleep(0.01)
        for uid in self.pods:
            self.changed(uid)
        self._listed()
        await asyncio.Event().wait()
