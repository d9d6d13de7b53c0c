"""`NodeProbes` at work in a namespace that stands for the node: its loop in a thread, its kernel calls in workers."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any, Self, TypeVar

from agent.daemon.threads import Threads
from agent.pods.probes import NodeProbes
from netns_tests.namespace import Namespace
from netns_tests.patience import slow
from rulesets.host import HOST_TABLE, ProbeTarget
from rulesets.netlink import OWNED

__all__ = ["OWNED", "Probing", "elements", "targets"]

T = TypeVar("T")
SECONDS = slow(20.0)


def targets(uid: str, *addresses: str, ports: tuple[int, ...] = ()) -> tuple[ProbeTarget, ...]:
    """Return what is probed of a pod."""
    return tuple(ProbeTarget(address=ip_address(each), owner=uid, ports=ports) for each in addresses)


def elements(node: Namespace) -> dict[str, str]:
    """Return the elements of the node's table as `nft` lists them, each with its comment; none without a table."""
    if f"table inet {HOST_TABLE}" not in node.command("nft", "list", "tables"):
        return {}
    found = {}
    for listed in node.command("nft", "list", "table", "inet", HOST_TABLE).split("elements = {")[1:]:
        for line in listed.partition("}")[0].replace(",", "\n").splitlines():
            value, _, comment = line.strip().partition(' comment "')
            if value:
                found[value] = comment.rstrip('"')
    return found


class Probing:
    """One life of an agent, as far as probes go. Use it in a `with` block; the table outlives it."""

    def __init__(
        self, node: Namespace, *, flags: tuple[str, ...] | None = OWNED, keep: bool = False, resync: float = 3600.0
    ) -> None:
        """`keep`: the table is looked after too."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._workers, self._afterwards = ThreadPoolExecutor(2), ThreadPoolExecutor(1)
        self._node, self._flags, self._keep, self._resync = node, flags, keep, resync
        self._keeping: Future[None] | None = None
        self.probes: NodeProbes

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait(self._begin())
        if self._keep:
            self._keeping = asyncio.run_coroutine_threadsafe(self.probes.keep(), self._loop)
        return self

    async def _begin(self) -> None:
        threads = Threads(workers=self._workers, afterwards=self._afterwards)
        self.probes = NodeProbes(threads, flags=self._flags, resync=self._resync, netns=self._node.name)

    def __exit__(self, *error: object) -> None:
        try:
            if self._keeping is not None:
                self._keeping.cancel()
            self.wait(self.probes.close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(SECONDS)
            self._loop.close()
            self._workers.shutdown()
            self._afterwards.shutdown()

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something in the loop to its end."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(SECONDS)

    def put(self, uid: str, *addresses: str, ports: tuple[int, ...] = ()) -> None:
        """Have a pod probed."""
        self.wait(self.probes.put(uid, targets(uid, *addresses, ports=ports)))

    def drop(self, uid: str) -> None:
        """Have a pod probed no more."""
        self.wait(self.probes.drop(uid))

    def fill(self, **pods: tuple[str, ...]) -> None:
        """Have these pods probed at these addresses, and no others."""
        self.wait(self.probes.fill({uid: targets(uid, *each) for uid, each in pods.items()}))

    def mended(self) -> int:
        """How often the table had to be mended."""
        return self.probes.mended

    def as_written(self) -> bool:
        """Whether libnftables lists just what was written."""
        return self._workers.submit(self.probes._table.mend).result(SECONDS) == ""
