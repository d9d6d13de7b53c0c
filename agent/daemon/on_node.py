"""The daemon's part for a node of Kubernetes: made of what it has, and of the API."""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry

from agent.daemon.cluster import Cluster, Sources, Surroundings, listener_of
from agent.daemon.keeper import Keeper
from agent.daemon.node_settings import NodeSettings
from agent.daemon.settings import Settings
from agent.daemon.threads import Threads
from agent.errors import DaemonError
from agent.state import Records


async def cluster_of(
    settings: Settings,
    keeper: Keeper,
    threads: Threads,
    flags: tuple[str, ...] | None,
    records: Records,
    defaults: Mapping[str, object],
    stop: Callable[[str], None],
    registry: CollectorRegistry,
) -> Cluster:
    """Return a node of Kubernetes with the daemon's keeper; proxies can connect by then. Raises `WeirError`."""
    node = settings.kubernetes
    if node is None:
        raise DaemonError("nobody has said which node this is")
    around = Surroundings(
        keeper=keeper,
        threads=threads,
        flags=flags,
        directory=records.directory,
        resync=settings.rhythm.resync,
        drain=settings.drain,
        stop=stop,
        registry=registry,
    )
    listener = listener_of(node, records.directory)
    try:
        return Cluster(node, around, await _sources(node), defaults, listener)
    except BaseException:
        listener.close()
        raise


async def _sources(node: NodeSettings) -> Sources:
    from agent.sources.kubernetes.api import opened
    from agent.sources.kubernetes.informer import Informer

    api = await opened(node.kubeconfig, node=node.node)
    return Sources(
        api=api,
        watch=lambda changed, listed: Informer(api, node.node, changed=changed, listed=listed),
        close=api.close,
        calls=api.calls,
        events_dropped=lambda: api.events_dropped,
    )
