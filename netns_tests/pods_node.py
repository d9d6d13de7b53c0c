"""A node of Kubernetes as the daemon has it, but for the API: what that says is told by the test.

Everything else is real: the keeper and its workers, the server of ZDS, the socket for the CNI plugin, the node's table
(in a namespace of the test's world), and what is remembered over a restart. Pods' namespaces are those of the world.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

from prometheus_client import CollectorRegistry

from agent.cni.protocol import Request
from agent.daemon.cluster import Cluster, Sources, Surroundings, listener_of
from agent.daemon.drifting import Drifting
from agent.daemon.keeper import Keeper
from agent.daemon.node_settings import NodeSettings
from agent.daemon.pace import Rhythm
from agent.daemon.threads import Threads
from agent.pods.standing import PodState
from agent.sources.kubernetes.facts import Namespace, Pod
from agent.state import Records
from agent.targets import Outcome
from netns_tests.daemon import unix_request
from netns_tests.patience import slow
from netns_tests.pods_api import Api, Listing
from netns_tests.world import Host, World, eventually

__all__ = ["Node"]

T = TypeVar("T")
SECONDS = slow(20.0)


class Node:
    """One life of the agent on a node. Use it in a `with` block; another one on the same folder is a restart."""

    def __init__(
        self,
        world: World,
        folder: Path,
        api: Api,
        *,
        drain: float = 60.0,
        sources: Callable[[], Coroutine[Any, Any, Sources]] | None = None,
        **settings: Any,
    ) -> None:
        """`sources` are those of a real API, in the place of what a test tells."""
        self._sources = sources
        self.folder = folder / "run"
        self.api = api
        self.zds = folder / "ztunnel.sock"
        self.outcomes: list[Outcome] = []
        self._world, self._drain = world, drain
        self._defaults: Mapping[str, object] = settings.pop("defaults", {})
        self._settings = NodeSettings(
            **{"node": "here", "zds_socket": self.zds, "netns_directory": Path("/run/netns"), **settings}
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._workers, self._afterwards = ThreadPoolExecutor(2), ThreadPoolExecutor(1)
        self.failed: list[str] = []
        self.cluster: Cluster
        self.keeper: Keeper

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.wait(self._start())
        except BaseException:
            self._end()
            raise
        return self

    async def _start(self) -> None:
        threads = Threads(workers=self._workers, afterwards=self._afterwards)
        records, drifting = Records(self.folder, by_daemon=True), Drifting(CollectorRegistry())
        self.keeper = Keeper(
            threads=threads,
            flags=None,
            records=records,
            rhythm=Rhythm(),
            drain=self._drain,
            observe=self._passed,
            observe_read_back=self._passed,
            told=drifting,
        )
        self.keeper.take(())
        around = Surroundings(
            keeper=self.keeper,
            threads=threads,
            flags=None,
            directory=self.folder,
            resync=60.0,
            drain=self._drain,
            stop=self.failed.append,
            node_netns=self._world.node.name,
        )
        sources = await self._sources() if self._sources else self._told()
        listener = listener_of(self._settings, self.folder)
        self.cluster = Cluster(self._settings, around, sources, self._defaults, listener)
        drifting.event, self.cluster.probes.drifted = self.cluster.pods.drifted, drifting.on_node
        await self.cluster.start()

    def _told(self) -> Sources:
        api = self.api
        return Sources(api=api, watch=lambda changed, listed: Listing(api, changed, listed), find=api.search)

    def _passed(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.cluster.passed(outcome)

    def __exit__(self, *error: object) -> None:
        self.wait(self._stop())
        self._end()

    async def _stop(self) -> None:
        await self.cluster.stop()
        slots = tuple(self.keeper._slots.values())
        await self.keeper.close()
        for slot in slots:  # what is open goes with a process, and here there is none
            if slot._handle is not None:
                await asyncio.to_thread(slot._handle.close)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()
        self._workers.shutdown()
        self._afterwards.shutdown()

    def wait(self, coroutine: Coroutine[Any, Any, T], seconds: float = SECONDS) -> T:
        """Run something in the loop to its end."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(seconds)

    def call(self, fn: Callable[..., T], *arguments: Any) -> T:
        """Call something in the loop's thread."""

        async def called() -> T:
            return fn(*arguments)

        return self.wait(called())

    # The API.

    def put(self, pod: Pod, *, host: Host | None = None) -> None:
        """Have the API say this of a pod; a search then finds its namespace where one is given."""
        if host is not None:
            self.api.there[pod.uid] = host

        def put() -> None:
            self.api.pods[pod.uid] = pod
            self.cluster.listing.changed(pod.uid)  # type: ignore[attr-defined]

        self.call(put)

    def drop(self, uid: str) -> None:
        """Have the API say that a pod is gone."""

        def drop() -> None:
            self.api.pods.pop(uid, None)
            self.cluster.listing.changed(uid)  # type: ignore[attr-defined]

        self.call(drop)

    def label(self, labels: Mapping[str, str]) -> None:
        """Give the namespace shop other labels."""

        def label() -> None:
            self.api.namespaces["shop"] = Namespace(name="shop", labels=labels)
            for uid in tuple(self.api.pods):
                self.cluster.listing.changed(uid)  # type: ignore[attr-defined]

        self.call(label)

    # The container runtime.

    def ask(
        self,
        verb: str,
        pod: Pod,
        host: Host | None,
        *,
        container: str = "c0ffee",
        headers: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> tuple[int, Any]:
        """Ask as the plugin does; return the status and the answer."""
        asked = {
            "namespace": pod.namespace,
            "pod": pod.name,
            "uid": pod.uid,
            "container": container,
            "interface": "eth0",
            "netns": "" if host is None else str(host.path),
            "addresses": [] if host is None else [f"{host.v4}/24", f"{host.v6}/64"],
            **fields,
        }
        body = json.dumps(asked).encode()
        status, text = unix_request(self.folder / "cni.sock", "POST", f"/v1/cni/{verb}", body, headers)
        return status, json.loads(text)

    def add(self, pod: Pod, host: Host, **fields: Any) -> tuple[int, Any]:
        """Ask for a pod's capture."""
        return self.ask("add", pod, host, **fields)

    # What is seen.

    def state(self, uid: str) -> PodState | None:
        """Return how a pod stands."""
        return next((each for each in self.call(self.cluster.pods.states) if each.uid == uid), None)

    def step(self, uid: str) -> str:
        """Return the step that a pod has come to; empty where it isn't known."""
        found = self.state(uid)
        return str(found.step) if found else ""

    def until(self, uid: str, step: str) -> PodState:
        """Wait until a pod has come to a step."""
        began = time.monotonic()
        try:
            eventually(lambda: self.step(uid) == step, f"{uid} is {step}", SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.state(uid)} after {time.monotonic() - began:.1f} s") from None
        found = self.state(uid)
        assert found is not None
        return found

    def decide(self, asked: Request) -> Any:
        """Ask without the socket."""
        return self.wait(self.cluster.pods.decide(asked))

    def probes(self) -> str:
        """Return the node's table as nft prints it."""
        return self._world.node.command(
            "sh", "-c", "nft list table inet weir-pod 2>&1; nft list table inet weir-host 2>&1"
        )
