"""A node of Kubernetes: the pods, and all that keeps them captured, put together and taken apart."""

import asyncio
import logging
from collections import Counter as Tally
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry

from agent.cni.server import SOCKET_NAME, Places, serve
from agent.daemon.installing import Installing
from agent.daemon.keeper import Keeper
from agent.daemon.node_metrics import NodeMetrics, Seen
from agent.daemon.node_settings import NodeSettings, captured_by
from agent.daemon.threads import Threads
from agent.errors import ConfigError
from agent.mesh.listener import Listener
from agent.mesh.server import Mesh
from agent.pods import departure, handover, rivals
from agent.pods.neighbours import Api, Find, Listing
from agent.pods.node import Pods
from agent.pods.probes import NodeProbes
from agent.sources.kubernetes.counting import CallCount
from agent.sources.kubernetes.sandboxes import Sandboxes, find
from agent.targets import HOST, Outcome

if TYPE_CHECKING:  # 200 ms, which whoever runs no node does without
    from aiohttp import web

    from agent.sources.kubernetes.informer import ApiState

log = logging.getLogger("weir")


class Watched(Listing, Protocol):
    """What the API says, as it goes on: `agent.sources.kubernetes.informer.Informer`."""

    async def run(self) -> None:
        """List and watch for ever."""

    def state(self) -> "ApiState":
        """Return how the API is heard."""


class NodeApi(Api, rivals.Api, departure.Api, Protocol):
    """All that is asked of the API directly: `agent.sources.kubernetes.api.Api`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where pods come from.

    `watch` is given whom to call with the uid of a pod that has changed, and when all are listed. `close` ends what was
    opened. `calls` and `events_dropped` are what the API counts.
    """

    api: NodeApi
    watch: Callable[[Callable[[str], None], Callable[[], None]], Watched]
    find: Find = find
    close: Callable[[], Coroutine[object, object, None]] | None = None
    calls: Callable[[], tuple[CallCount, ...]] = tuple
    events_dropped: Callable[[], int] = int


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the daemon has beside pods. `node_netns` is where the node's table is."""

    keeper: Keeper
    threads: Threads
    flags: tuple[str, ...] | None
    directory: Path
    resync: float
    drain: float
    stop: Callable[[str], None]
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    node_netns: str = HOST


class Cluster:
    """Everything of a node of Kubernetes. To be used in the loop's thread."""

    def __init__(
        self,
        settings: NodeSettings,
        around: Surroundings,
        sources: Sources,
        defaults: Mapping[str, object],
        listener: Listener,
    ) -> None:
        """Put it together; `defaults` are those of the file. Nothing happens before `start`. Raises `WeirError`."""
        self._settings, self._around, self._sources, self._listener = settings, around, sources, listener
        capture, migrate = captured_by(defaults)
        self._probe_sources = capture.probe_sources
        self._metrics = NodeMetrics(around.registry)
        self._heard: set[str] = set()
        self.mesh = Mesh(changed=self._standing_changed)
        self.probes = NodeProbes(
            around.threads,
            flags=around.flags,
            sources=self._probe_sources,
            resync=around.resync,
            netns=around.node_netns,
        )
        self.sandboxes = Sandboxes(around.directory / "sandboxes")
        self.listing = sources.watch(self._changed, self._listed)
        self.pods = Pods(
            listing=self.listing,
            api=sources.api,
            proxies=self.mesh,
            probes=self.probes,
            rules=around.keeper,
            memory=self.sandboxes,
            find=sources.find,
            threads=around.threads,
            policy=settings.policy,
            defaults=capture,
            drain=around.drain,
            migrate=migrate,
            captured=self._metrics.captured,
        )
        self.installing = None if settings.plugin is None else Installing(settings, settings.plugin, around.directory)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._server: web.AppRunner | None = None
        self._metrics.watch(self._seen)

    async def start(self) -> None:
        """Begin to keep pods. Raises `WeirError`."""
        self.mesh.listen(self._listener)
        cni, istio = self._around.directory / SOCKET_NAME, self._settings.istio_socket
        places = Places(socket=cni, istio=istio, netns=self._settings.netns_directory)
        self._server = await serve(self.pods.decide, places, count=self._metrics.served)
        self._begin("api", self.listing.run())
        self._begin("node's table", self.probes.keep())
        self._begin("what was before", self._resume())

    def _changed(self, uid: str) -> None:
        there = uid in self.listing.pods or uid in self.listing.unreadable
        self._metrics.changed(("update" if uid in self._heard else "add") if there else "delete")
        (self._heard.add if there else self._heard.discard)(uid)
        self.pods.changed(uid)

    def _standing_changed(self, uid: str) -> None:
        self.pods.standing_changed(uid)

    def _listed(self) -> None:
        """Take the first whole listing, unless it shows another agent."""
        settings, plugin = self._settings, self._settings.plugin
        trusted = rivals.SYSTEM | {settings.proxy_namespace, settings.agent_namespace}
        try:
            first = plugin is not None and rivals.is_new(self._around.directory, plugin.conf_directory)
            for warning in rivals.refuse_pods(self.listing.pods.values(), first=first, trusted=trusted):
                log.warning("%s", warning)
        except ConfigError as error:
            self._around.stop(f"{error} ({error.hint})")
            return
        self.pods.listed()
        if self.installing is not None:
            self._begin("plugin", self.installing.run())
        if first:
            self._begin("other nodes", self._warn_of_others())

    async def _warn_of_others(self) -> None:
        for warning in await rivals.warnings_elsewhere(self._sources.api, set(self.listing.pods)):
            log.warning("%s", warning)

    async def _resume(self) -> None:
        """Release what an earlier life has captured and no pod claims, once every pod is known."""
        await self.pods.settled.wait()
        self._around.keeper.resume(spared=lambda record: self.pods.claims(record.name, record.netns))

    def _begin(self, name: str, work: Coroutine[object, object, None]) -> None:
        task = self._tasks[name] = asyncio.get_running_loop().create_task(work, name=name)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("%s: ended, which it never should", task.get_name(), exc_info=error)

    def why_not_ready(self) -> str:
        """Return why the node isn't ready, in words; empty where it is."""
        if not self.pods.settled.is_set():
            return "the API has not listed this node's pods yet"
        if self.installing is not None and not self.installing.standing.ready:
            return f"plugin: {self.installing.standing.reason}"
        return ""

    def status(self) -> dict[str, object]:
        """Return what status shows of the node, beside targets."""
        standing = None if self.installing is None else self.installing.standing
        return {
            "pods": [each.document() for each in self.pods.states()],
            "kubernetes": {
                "node": self._settings.node,
                "listed": self.listing.complete,
                "api": self.listing.state().document(),
                "mesh": self.mesh.state().document(),
                "plugin": None if standing is None else standing.document(),
                "probes": self.probes.document(),
            },
        }

    def _seen(self) -> Seen:
        installing = self.installing
        return Seen(
            pods=self.pods.states(),
            working=sum(each.working for each in self.pods.courses()),
            proxies=self.mesh.connected,
            mesh=self.mesh.counters,
            installs=installing.results if installing is not None else Tally(),
            ready=None if installing is None else installing.standing.ready,
            elements=self.probes.elements,
            mended=self.probes.mended,
            api=self.listing.state(),
            calls=self._sources.calls(),
            events_dropped=self._sources.events_dropped(),
        )

    def change_defaults(self, defaults: Mapping[str, object]) -> None:
        """Capture pods so that say nothing else. Raises `ConfigError` for what an agent can't change while it runs."""
        capture, migrate = captured_by(defaults)
        if capture.probe_sources != self._probe_sources:
            raise ConfigError(
                "probe_sources: the node's table has the sources that the agent was started with",
                hint="restart the agents: `kubectl rollout restart daemonset/weir`",
            )
        self.pods.change_defaults(capture, migrate=migrate)

    def passed(self, outcome: Outcome) -> None:
        """Take the outcome of a pass, or of reading back what it wrote."""
        self.pods.passed(outcome)

    async def stop_keeping(self) -> None:
        """End what would put the plugin and the node's table back."""
        for name in ("plugin", "node's table"):
            await self._end(name)

    async def depart(self) -> None:
        """Leave everything as it is, or nothing where Weir is uninstalled."""
        settings = self._settings
        parts = departure.Parts(
            api=self._sources.api,
            pods=self.pods,
            probes=self.probes,
            installer=self.installing.installer if self.installing else None,
            stop_keeping=self.stop_keeping,
            namespace=settings.agent_namespace,
            daemon_set=settings.daemon_set,
            node=settings.node,
            run_directory=self._around.directory,
        )
        await departure.depart(parts)

    async def end(self, *, departing: bool) -> None:
        """Stop. Nothing that was written is changed, unless Weir is uninstalled (`departing` asks whether it is)."""
        if departing:
            await self.depart()
        await self.stop()

    async def stop(self) -> None:
        """Stop. Nothing that was written is changed."""
        if self._server is not None:
            await self._server.cleanup()
        for name in tuple(self._tasks):
            await self._end(name)
        await self.pods.close()
        self.mesh.close()
        await self.probes.close()
        self.sandboxes.close()
        if self._sources.close is not None:
            await self._sources.close()

    async def _end(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


def listener_of(settings: NodeSettings, directory: Path) -> Listener:
    """Return where proxies come in, as early as can be: what they ask for waits there.

    Raises `ConfigError` where another agent is on the node; then nothing has changed.
    """
    zds = settings.zds_socket
    listener = Listener.inherited(zds)
    rivals.refuse_sockets(
        zds=zds, cni=directory / SOCKET_NAME, istio=settings.istio_socket, inherited=listener is not None
    )
    if settings.plugin is not None:
        rivals.refuse_configurations(settings.plugin.conf_directory)
    listener = listener or Listener.at(zds)
    handover.keep(listener)
    return listener
