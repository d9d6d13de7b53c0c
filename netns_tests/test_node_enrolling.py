"""Pods of a node under load: their namespace is enrolled and un-enrolled, agent and proxy restart, and nothing breaks.

The pods come by the real plugin, in a chain behind Debian's bridge, host-local and portmap.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from netns_tests.enrolling import FAMILIES, alive, slow
from netns_tests.mesh_proxy_process import MeshProxy
from netns_tests.node.stage import Node, Pod
from netns_tests.stream import Stream
from netns_tests.traffic import EchoServer, Hammer, exchange
from netns_tests.world import Host, eventually
from rulesets.capture import PROBE_SOURCES
from tests.cni import AMBIENT

APP, PROBED = 8080, 8081
MANY = 100  # connections
PROBES = [{"name": "app", "readinessProbe": {"tcpSocket": {"port": PROBED}}}]
NOBODY = {"istio.io/dataplane-mode": "none"}
REDIRECTION = "ambient.istio.io/redirection"
# Source ports apart on purpose: see `netns_tests.world`.
PORTS = {"web": "46000 63999", "client": "28000 45999", "outside": "10000 27999"}
pytestmark = pytest.mark.timeout(600)  # the first one builds the plugin


class Scene:
    """Two pods whose namespace can be enrolled, a client that never is, and an outside."""

    def __init__(self, node: Node, outside: Host) -> None:
        """Start the pods."""
        self.node, self.outside = node, outside
        (self.client,) = node.start("client", labels=NOBODY)
        self.web = node.start("web-0", "web-1", containers=PROBES)
        for pod in (self.client, *self.web):
            pod.sysctl("net/ipv4/ip_local_port_range", PORTS[pod.pod.partition("-")[0]])
            # What waits at the listener of a proxy that ends goes to that of the one beside it. Else the kernel resets
            # it: some of 20,000 connections wherever two proxies overlap, whoever the agent is.
            pod.sysctl("net/ipv4/tcp_migrate_req", 1)
        self._load: list[Hammer] = []

    def streams(self, stack: ExitStack) -> list[Stream]:
        """Open a stream of each family out of each pod and into it."""
        found = []
        for pod in self.web:
            for family in FAMILIES:
                found += [
                    Stream(pod, self.outside, (self.outside.address(family), 0)),
                    Stream(self.client, pod, (pod.address(family), 0)),
                ]
        return [stack.enter_context(each) for each in found]

    @contextmanager
    def load(self) -> Iterator[None]:
        """Have connections made out of the pods, into them, and probes of the node; none may fail."""
        with ExitStack() as stack:
            outside = stack.enter_context(EchoServer(self.outside))
            for pod in self.web:
                stack.enter_context(EchoServer(pod, APP))
            ways: list[tuple[Host, tuple[str, int]]] = []
            for number, pod in enumerate(self.web):
                ways.append((pod, (self.outside.address(FAMILIES[number]), outside.port)))
                ways.append((self.client, (pod.address(FAMILIES[number]), APP)))
            self._load = [stack.enter_context(Hammer(where, target, clients=1)) for where, target in ways]
            stack.enter_context(self._probing())
            yield
            for hammer in self._load:
                result = hammer.result()
                assert not result.failed, str(result)

    @contextmanager
    def _probing(self) -> Iterator[None]:
        enough = threading.Event()

        def probe() -> None:
            while not enough.wait(0.005):
                for family in FAMILIES:
                    exchange(self.node.host, (self.web[0].address(family), PROBED))

        with EchoServer(self.web[0], PROBED):
            probing = self.node.host.thread(probe)
            try:
                yield
            finally:
                enough.set()
                probing.result(20)

    def many_more(self) -> None:
        """Wait for more connections, in the state of things now."""
        before = [len(each) for each in self._load]
        done = lambda: all(len(each) > n + MANY for each, n in zip(self._load, before, strict=True))  # noqa: E731
        eventually(done, "load", slow(30))

    def captured(self) -> list[bool]:
        """Say of a new connection out of each pod and into it whether it was captured."""
        found = []
        with EchoServer(self.outside) as server:
            for pod in self.web:
                with EchoServer(pod, APP + 2):
                    for family in FAMILIES:
                        found.append(not exchange(pod, (self.outside.address(family), server.port)).direct)
                        found.append(not exchange(self.client, (pod.address(family), APP + 2)).direct)
        return found

    def annotations(self) -> list[str | None]:
        """The pods' redirection, as the API has it."""
        pods = (self.node.api.get("pods", "shop", each.pod) for each in self.web)
        return [each["metadata"].get("annotations", {}).get(REDIRECTION) for each in pods]

    def probed_from(self) -> set[str]:
        """The sources of the node's probes."""
        with EchoServer(self.web[1], PROBED):
            return {exchange(self.node.host, (self.web[1].address(family), PROBED)).seen[0] for family in FAMILIES}


YES, NO = [True] * 8, [False] * 8
SOURCES = {str(each) for each in PROBE_SOURCES}


@pytest.fixture
def node() -> Iterator[Node]:
    with Node() as made:
        yield made


@pytest.fixture
def proxy(node: Node) -> Iterator[MeshProxy]:
    with MeshProxy(node.agent.zds, "--longest-wait=0.1", f"--drain={slow(20)}") as started:
        yield started


@pytest.fixture
def scene(node: Node, proxy: MeshProxy) -> Iterator[Scene]:
    node.agent.start(ready=False)
    proxy.wait("snapshot")
    with Host.create("outside") as outside:
        outside.v4, outside.v6 = "10.9.0.2", "fd09::2"
        here, there = ("10.9.0.1/24", "fd09::1/64"), ("10.9.0.2/24", "fd09::2/64")
        node.machine.connect(outside, "wan", here=here, there=there)
        outside.ip("route add default via 10.9.0.1", "route add ::/0 via fd09::1")
        outside.sysctl("net/ipv4/ip_local_port_range", PORTS["outside"])
        yield Scene(node, outside)


def web(scene: Scene) -> list[str]:
    return [each.pod for each in scene.web]


def rules(pod: Pod) -> str:
    return pod.command("sh", "-c", "nft list ruleset; ip rule; ip -6 rule; ip route show table all proto 119")


def test_a_namespace_is_enrolled_and_released_under_load(scene: Scene, proxy: MeshProxy) -> None:
    node = scene.node
    before = [rules(each) for each in scene.web]
    with ExitStack() as stack:
        early = scene.streams(stack)
        with scene.load():
            scene.many_more()
            assert scene.captured() == NO
            node.label(AMBIENT)
            node.wait_for("captured", *web(scene))
            scene.many_more()
            assert scene.captured() == YES
            assert node.agent.steps()["client"] == "outside"
            eventually(lambda: scene.annotations() == ["enabled"] * 2, "the annotations say so")
            assert scene.probed_from() == SOURCES
            late = scene.streams(stack)
            assert alive(early + late) == ["alive"] * 16
            node.label(dict.fromkeys(AMBIENT))
            eventually(lambda: scene.annotations() == [None] * 2, "the annotations are gone")
            eventually(lambda: scene.captured() == NO, "new connections go direct")
            scene.many_more()
            assert alive(early + late) == ["alive"] * 16
        for each in late:
            each.finish()
        node.wait_for("outside", *web(scene))
        assert alive(early) == ["alive"] * 8
    # No probe was taken for traffic: of that port the proxy has never heard.
    assert not [each for each in proxy.heard("captured") if each["original"][1] == PROBED]
    eventually(lambda: [rules(each) for each in scene.web] == before, "nothing is left")
    assert sorted(proxy.uids("delete")) == sorted(each.uid for each in scene.web)


def restart_agent(scene: Scene, number: int) -> None:
    scene.node.agent.end(number)
    scene.many_more()
    scene.node.agent.start(ready=False)


def replace_proxy(scene: Scene, old: MeshProxy, stack: ExitStack) -> MeshProxy:
    """Have another proxy beside the old one, which then ends: as a rolling update does."""
    new = stack.enter_context(MeshProxy(scene.node.agent.zds, "--longest-wait=0.1"))
    new.wait("snapshot")
    old.process.send_signal(signal.SIGTERM)
    old.wait("terminated")
    return new


def agent_stops(scene: Scene, proxy: MeshProxy, stack: ExitStack) -> MeshProxy:
    restart_agent(scene, signal.SIGTERM)
    proxy.wait("snapshot", times=2)
    return proxy


def agent_is_killed(scene: Scene, proxy: MeshProxy, stack: ExitStack) -> MeshProxy:
    restart_agent(scene, signal.SIGKILL)
    proxy.wait("snapshot", times=2)
    return proxy


def both(scene: Scene, proxy: MeshProxy, stack: ExitStack) -> MeshProxy:
    restart_agent(scene, signal.SIGKILL)
    return replace_proxy(scene, proxy, stack)


@pytest.mark.parametrize("restart", [agent_stops, agent_is_killed, replace_proxy, both])
def test_captured_pods_under_load_while_something_restarts(
    scene: Scene, proxy: MeshProxy, restart: Callable[[Scene, MeshProxy, ExitStack], MeshProxy]
) -> None:
    node = scene.node
    node.label(AMBIENT)
    node.wait_for("captured", *web(scene))
    handles = [handles_of(each) for each in scene.web]
    with ExitStack() as stack:
        streams = scene.streams(stack)
        with scene.load():
            scene.many_more()
            newest = restart(scene, proxy, stack)
            scene.many_more()
            node.wait_for("captured", *web(scene))
            scene.many_more()
            assert scene.captured() == YES
            assert alive(streams) == ["alive"] * 8
            assert scene.probed_from() == SOURCES
            assert not [each for each in newest.heard("captured") if each["original"][1] == PROBED]
        for each in streams:
            each.finish()
    assert [handles_of(each) for each in scene.web] == handles, "no rule was written again"


def handles_of(pod: Pod) -> list[str]:
    listed = pod.command("nft", "-a", "-s", "list", "table", "inet", "weir-pod")
    return [line for line in listed.splitlines() if "# handle" in line and "table" not in line]


def test_pods_that_start_are_captured_from_their_first_connection_on(scene: Scene) -> None:
    node = scene.node
    node.label(AMBIENT)
    started = node.start(*(f"many-{number}" for number in range(20)))
    with EchoServer(scene.outside) as server:
        for pod in started:
            assert not exchange(pod, (scene.outside.v4, server.port)).direct, pod.pod
    node.wait_for("captured", *(each.pod for each in started))
