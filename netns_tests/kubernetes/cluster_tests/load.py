"""Connections between the pods of two nodes while something is done there: 200 a second, and streams that last."""

from collections import Counter
from contextlib import ExitStack
from typing import Self

from netns_tests.hammer import Hammer
from netns_tests.kubernetes.cluster import Cluster
from netns_tests.kubernetes.cluster_tests.webs import ECHO, ECHO_SERVICE, Network, Webs
from netns_tests.kubernetes.cluster_tests.weir import told
from netns_tests.patience import slow
from netns_tests.servers import EchoServer
from netns_tests.stream import Stream
from netns_tests.world import eventually

__all__ = ["Carried", "Load", "networks"]

RATE = 200  # connections a second, all ways together
_CLIENTS = 2  # each way
# A client's port must not be one that the proxy of the server's pod dials from: see `netns_tests.world`.
_PORTS = ("28000 45999", "46000 63999")


def networks(cluster: Cluster, webs: Webs) -> tuple[Network, Network]:
    """Return the networks of the two pods, each with source ports of its own."""
    found = [Network(node, pod) for node, pod in zip(cluster.nodes, webs.pods(), strict=True)]
    for each, ports in zip(found, _PORTS, strict=True):
        each.sysctl("net/ipv4/ip_local_port_range", ports)
        each.sysctl("net/ipv4/tcp_migrate_req", 1)  # what waits at a listener that closes goes to the one beside it
    one, other = found
    return one, other


class Load:
    """Connections from each pod to the other and to the service, in both families. Use it in a `with` block."""

    def __init__(self, cluster: Cluster, webs: Webs) -> None:
        self._cluster = cluster
        pods = networks(cluster, webs)
        addresses = [[each["ip"] for each in pod["status"]["podIPs"]] for pod in webs.pods()]
        ways = [
            (pods[0], (addresses[1][0], ECHO)),
            (pods[1], (addresses[0][1], ECHO)),
            *((pod, (address, ECHO_SERVICE)) for pod, address in zip(pods, webs.service, strict=True)),
        ]
        pause = len(ways) * _CLIENTS / RATE
        self._servers = [EchoServer(each, ECHO) for each in pods]
        self._hammers = [Hammer(*way, clients=_CLIENTS, pause=pause, timeout=slow(10.0)) for way in ways]
        self._pods, self._addresses = pods, addresses
        self._streams: list[Stream] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Begin; return when connections go every way."""
        with ExitStack() as stack:
            for server in self._servers:
                stack.enter_context(server)
            (one, other), (of_one, of_other) = self._pods, self._addresses
            for here, there, address in ((one, other, of_other[0]), (other, one, of_one[1])):
                self._streams.append(stack.enter_context(Stream(here, there, (address, 0))))
            for hammer in self._hammers:
                stack.enter_context(hammer)
            self.more()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def more(self, connections: int = 25) -> None:
        """Wait for so many more connections each way, in the state of things as it is."""
        before = [len(each) for each in self._hammers]

        def come() -> bool:
            return all(len(each) >= n + connections for each, n in zip(self._hammers, before, strict=True))

        eventually(come, f"{connections} more connections each way", slow(60.0))

    def finish_streams(self) -> None:
        """End the streams that last, in order: nothing of them was lost."""
        assert [each.outcome(slow(10.0)) for each in self._streams] == ["alive"] * len(self._streams)
        for stream in self._streams:
            assert stream.captured
            stream.finish(slow(10.0))
        self._streams.clear()

    def finish(self) -> int:
        """End everything in order; return how many connections there were, each of which a proxy has carried."""
        self.more()
        self.finish_streams()
        came = [each.result() for each in self._hammers]
        results = sum((each.results for each in came), Counter[str]())
        assert set(results) == {"captured"}, [str(each) for each in came]
        return results.total()


class Carried:
    """How many connections of a load the proxies say that they carried, counted from here on."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._before = self._told()

    def until(self, connections: int) -> None:
        """Wait until the proxies have told of so many in each direction: what they print takes its time."""

        def since() -> Counter[str]:
            return self._told() - self._before

        wanted = Counter(outbound=connections, inbound=connections)
        eventually(lambda: since() >= wanted, f"the proxies carried {connections} each way", slow(20.0))
        assert since() == wanted

    def _told(self) -> Counter[str]:
        found = [each for node in self._cluster.nodes for each in told(node) if each["event"] == "captured"]
        return Counter(each["direction"] for each in found if each["original"][1] in (ECHO, ECHO_SERVICE))
