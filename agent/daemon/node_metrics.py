"""Metrics of a node of Kubernetes: Istio's names where they mean the same, Weir's own beside them.

A node's pods are counted by step, never one by one, but for a few that wait: a node has the same number of series with
500 pods as with five, and a scrape asks the kernel for nothing.
"""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.cni.protocol import VERBS
from agent.cni.server import Served
from agent.mesh.status import Counters
from agent.observe.spans import exemplar
from agent.pods.standing import PodState, Step
from agent.sources.kubernetes.counting import SECONDS as CALL_SECONDS
from agent.sources.kubernetes.counting import CallCount
from agent.sources.kubernetes.informer import ApiState

MOST_WAITING = 50  # pods with a series of their own: those that wait longest
_CNI_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_OUTSIDE_SECONDS = (0.0, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 3600)
_STATUSES = (200, 400, 403, 404, 409, 413, 500, 503, 504)  # of the plugin's socket; another one counts as 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a scrape sees of a node. `installs` is by result; `ready` None where nothing is installed.

    `working` are the pods that something is done about now. `mended` is how often somebody else's change to the node's
    table was undone.
    """

    pods: tuple[PodState, ...]
    working: int
    proxies: int
    mesh: Counters
    installs: Tally[str]
    ready: bool | None
    elements: int
    mended: int
    api: ApiState | None
    calls: tuple[CallCount, ...]
    events_dropped: int


class NodeMetrics:
    """What is counted as it happens, and what is read when scraped."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register what is counted; `watch` adds what is read."""
        self._registry = registry
        self._requests = Counter(
            "istio_cni_plugin_requests",
            "Questions of CNI plugins, by the HTTP status of the answer.",
            ["response_code"],
            registry=registry,
        )
        self._seconds = Histogram(
            "weir_cni_seconds",
            "Time that the answer to a CNI plugin took.",
            ["verb"],
            registry=registry,
            buckets=_CNI_SECONDS,
        )
        self._events = Counter(
            "nodeagent_reconcile_events",
            "Changes of pods that the API has told.",
            ["type"],
            registry=registry,
        )
        self._outside = Histogram(
            "weir_pod_uncaptured_seconds",
            "Time that a pod ran outside, though it was to be captured, until it was.",
            registry=registry,
            buckets=_OUTSIDE_SECONDS,
        )
        for status in _STATUSES:
            self._requests.labels(response_code=str(status))
        for kind in ("add", "update", "delete"):
            self._events.labels(type=kind)
        for verb in (*VERBS, "cmdadd"):
            self._seconds.labels(verb=verb)

    def served(self, served: Served) -> None:
        """Count the answer to a plugin."""
        status = served.status if served.status in _STATUSES else 500
        self._requests.labels(response_code=str(status)).inc()
        if served.verb:
            self._seconds.labels(verb=served.verb).observe(served.seconds, exemplar=exemplar())

    def changed(self, kind: str) -> None:
        """Count a change of a pod: add, update or delete."""
        self._events.labels(type=kind).inc()

    def captured(self, outside: float) -> None:
        """Count a pod that is captured, after so many seconds outside."""
        self._outside.observe(outside)

    def watch(self, seen: Callable[[], Seen]) -> None:
        """Read the rest from what `seen` returns, at each scrape."""
        self._registry.register(_Node(seen))


class _Node(Collector):
    def __init__(self, seen: Callable[[], Seen]) -> None:
        self._seen = seen

    def describe(self) -> Iterable[Metric]:
        return ()  # else the registry asks for everything before there is anything

    def collect(self) -> Iterator[Metric]:
        seen = self._seen()
        yield from _of_pods(seen)
        yield from _of_proxies(seen)
        yield from _of_installation(seen)
        yield from _of_api(seen)
        yield GaugeMetricFamily("weir_node_table_elements", "Elements of the node's table.", value=seen.elements)
        yield CounterMetricFamily(
            "weir_node_table_mended", "Changes of others to the node's table that were undone.", value=seen.mended
        )


def _of_pods(seen: Seen) -> Iterator[Metric]:
    by_step = Tally(each.step for each in seen.pods)
    steps = GaugeMetricFamily("weir_pods", "Pods of this node, by the step that they have come to.", labels=["step"])
    for step in Step:
        steps.add_metric([step], by_step[step])
    yield steps
    outcomes = [each.outcome for each in seen.pods if each.outcome is not None]
    yield GaugeMetricFamily("weir_pods_working", "Pods that something is done about now.", value=seen.working)
    yield GaugeMetricFamily(
        "weir_pods_kept_streams",
        "Streams from before pods were captured that stay outside.",
        value=sum(each.kept for each in outcomes),
    )
    yield GaugeMetricFamily(
        "weir_pods_draining_streams",
        "Captured streams that releases wait for.",
        value=sum(each.draining for each in outcomes),
    )
    waiting = sorted((each for each in seen.pods if each.waiting), key=lambda each: -(each.uncaptured or 0.0))
    yield GaugeMetricFamily("weir_pods_waiting", "Pods outside that are to be captured.", value=len(waiting))
    late = GaugeMetricFamily(
        "weir_pod_waiting_seconds",
        f"Time that a pod has run outside though it is to be captured; the {MOST_WAITING} longest.",
        labels=["namespace", "pod", "step"],
    )
    for each in waiting[:MOST_WAITING]:
        late.add_metric([each.namespace, each.name, each.step], each.uncaptured or 0.0)
    yield late


def _of_proxies(seen: Seen) -> Iterator[Metric]:
    mesh = seen.mesh
    yield GaugeMetricFamily("ztunnel_connected", "Proxies that are connected.", value=seen.proxies)
    answers = sum(mesh.acknowledged.values()) + mesh.refused
    yield HistogramMetricFamily(
        "weir_proxy_answer_seconds",
        "Time that a proxy took to answer a request.",
        buckets=[("+Inf", answers)],
        sum_value=mesh.seconds,
    )
    requests = CounterMetricFamily("weir_proxy_acknowledged", "Requests that proxies acknowledged.", labels=["request"])
    for request, number in mesh.acknowledged.items():
        requests.add_metric([request], number)
    yield requests
    for name, text, number in (
        ("weir_proxy_refused", "Requests that proxies refused.", mesh.refused),
        ("weir_proxy_connections", "Connections of proxies.", mesh.connections),
        ("weir_proxy_connections_refused", "Connections of users who may not.", mesh.refused_connections),
        ("weir_proxy_connections_broken", "Connections ended by a fault of the proxy.", mesh.broken_connections),
    ):
        yield CounterMetricFamily(name, text, value=number)


def _of_installation(seen: Seen) -> Iterator[Metric]:
    installs = CounterMetricFamily(
        "istio_cni_installs", "Passes of the installer that wrote or failed.", labels=["result"]
    )
    failures = ("COPY_BINARIES_FAILURE", "CREATE_CNI_CONFIG_FAILURE", "CREATE_KUBECONFIG_FAILURE")
    for result in sorted({"SUCCESS", *failures, *seen.installs}):
        installs.add_metric([result], seen.installs[result])
    yield installs
    if seen.ready is not None:
        yield GaugeMetricFamily("istio_cni_install_ready", "Whether the plugin is in place.", value=seen.ready)


def _of_api(seen: Seen) -> Iterator[Metric]:
    calls = HistogramMetricFamily(
        "weir_api_seconds", "Time until the API answered.", labels=["verb", "resource", "status"]
    )
    for each in seen.calls:
        calls.add_metric(
            [each.verb, each.resource, str(each.status)], buckets=_summed(each.buckets), sum_value=each.seconds
        )
    yield calls
    yield CounterMetricFamily("weir_events_dropped", "Events that were not told.", value=seen.events_dropped)
    if seen.api is not None:
        yield GaugeMetricFamily("weir_api_connected", "Whether the API is being watched.", value=seen.api.connected)
        yield GaugeMetricFamily(
            "weir_pods_unreadable", "Pods with a field that can't be read.", value=seen.api.unreadable
        )
        yield CounterMetricFamily("weir_api_relists", "Listings after the first.", value=seen.api.relists)
        yield CounterMetricFamily("weir_api_watch_restarts", "Watches after the first.", value=seen.api.restarts)


def _summed(buckets: tuple[int, ...]) -> list[tuple[str, float]]:
    """Return buckets as Prometheus has them: each with all that is less."""
    total, found = 0, []
    for bound, number in zip((*map(str, CALL_SECONDS), "+Inf"), buckets, strict=True):
        total += number
        found.append((bound, float(total)))
    return found
