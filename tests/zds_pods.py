"""Pods for tests of what proxies are told, without a kernel."""

from collections.abc import Collection
from dataclasses import dataclass

from agent.mesh.session import Served, Wish
from agent.mesh.wire import Netns, Workload


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace that is never sent."""

    identity: int

    def fileno(self) -> int:
        raise AssertionError("nothing is sent here")


class Wishes:
    """Every pod that is wanted."""

    def __init__(self, wishes: dict[str, Wish], *, complete: bool = True) -> None:
        self.wishes = wishes
        self.complete = complete

    def wish(self, uid: str) -> Wish | None:
        return self.wishes.get(uid)

    def uids(self) -> Collection[str]:
        return self.wishes.keys()


def served(uid: str, netns: int | Netns = 1) -> Served:
    """Return the wish that a pod be served in a namespace."""
    workload = Workload(uid=uid, namespace="n", name="p", service_account="s")
    return Served(workload, Place(netns) if isinstance(netns, int) else netns)
