"""The table of seeded faults of a host: how each is made by a process of a name of its own, and what is to be told."""

import re
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from netns_tests.clients import exchange
from netns_tests.daemon import SECONDS, Daemon, targets
from netns_tests.namespace import Namespace
from netns_tests.prometheus import Prometheus
from netns_tests.proxy import Proxy
from netns_tests.proxy_process import ProxyProcess
from netns_tests.servers import EchoServer
from netns_tests.vandal import Vandal
from netns_tests.world import Host, World, eventually

__all__ = ["FAULTS", "Fault", "Scene"]

PORT = 8080
NFT_OUT = "type filter hook output priority -160;"
_COUNTED = re.compile(r'counter name "[^"]*" |^\tcounter \S+ \{[^}]*\}\n', re.MULTILINE)
_LONELY = (
    *("link add d0 type veth peer name d1", "link set d0 up", "link set d1 up", "addr add 10.9.9.2/24 dev d0"),
    "route add default via 10.9.9.1",
)


class HalfProxy(Proxy):
    """A proxy that serves IPv4 alone."""

    def _accept(self, address: str, port: int, accepted: Callable[[socket.socket], None]) -> None:
        if address != "::1":
            super()._accept("0.0.0.0" if address == "::" else address, port, accepted)


class Scene:
    """Two captured namespaces with proxies, traffic, a daemon that owns no table, and a Prometheus. Use `with`."""

    def __init__(self, folder: Path) -> None:
        """Nothing is made before the block is entered."""
        self._folder, self._stack = folder, ExitStack()
        self._named = folder / "named"
        self.lock = folder / "xtables.lock"

    def __enter__(self) -> Self:
        """Make everything; when it returns, both targets are captured and no alert fires."""
        with ExitStack() as stack:
            self.world = stack.enter_context(World(1))
            self.pod: Host = self.world.pods[0]
            self.lonely = self.lone("lonely", stack)
            self.name(self.lonely)
            stack.enter_context(EchoServer(self.world.outside, PORT))
            self.beside = Proxy(self.lonely).start()
            self.proxy: Proxy | ProxyProcess = ProxyProcess(self.pod).start()
            stack.callback(self._stop)
            text = targets([self.pod, ("t1", str(self._named))], 'when_proxy_absent = "wait"')
            environment = {"XTABLES_LOCKFILE": str(self.lock)}
            made = Daemon(self._folder, text, "--resync", "36000", "--no-own", environment=environment)
            self.daemon = stack.enter_context(made).start()
            for name in ("t0", "t1"):
                self.rests(name)
            folder = self._folder / "prometheus"
            folder.mkdir()
            self.prometheus = stack.enter_context(Prometheus(folder, {"here": self.daemon.http}))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """End everything."""
        self._stack.close()

    def _stop(self) -> None:
        """End the proxies that serve by then."""
        self.proxy.stop()
        self.beside.stop()

    def lone(self, prefix: str, stack: ExitStack | None = None) -> Namespace:
        """Return a namespace with a way out that leads nowhere."""
        made = (self._stack if stack is None else stack).enter_context(Namespace.create(prefix))
        made.ip(*_LONELY)
        return made

    def name(self, namespace: Namespace) -> None:
        """Have the name of the second target mean a namespace, from one moment to the next."""
        fresh = self._named.with_suffix(".new")
        fresh.symlink_to(namespace.path)
        fresh.replace(self._named)

    def vandal(self, name: str) -> Vandal:
        """Return who makes trouble under a name."""
        return Vandal(self._folder, name)

    def rests(self, name: str) -> None:
        """Wait until a target is captured and nothing is left to do."""
        self.daemon.eventually(lambda: self.daemon.state(name) == "unchanged", f"{name} is captured")

    def captures(self, name: str, family: int = socket.AF_INET) -> None:
        """Wait until a request of a target's is captured by its proxy."""
        outside = self.world.outside.v6 if family == socket.AF_INET6 else self.world.outside.v4
        pod, proxy, where = (
            (self.pod, self.proxy, (outside, PORT)) if name == "t0" else (self.lonely, self.beside, ("192.0.2.7", 80))
        )
        proxy.captured.clear()

        def captured() -> bool:
            with suppress(OSError):
                exchange(pod, where, timeout=1.0)
            return bool(proxy.captured.find("outbound", original=where))

        eventually(captured, f"a request of {name} is captured", SECONDS)

    def legacy(self, *arguments: str) -> None:
        """Run iptables-legacy in the pod, with a lock of the test's own."""
        self.pod.command("env", f"XTABLES_LOCKFILE={self.lock}", "iptables-legacy", *arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault: what makes it (in the name of a process), what ends it, and what is told of it.

    `known`: the kernel tells who did it; None, where it depends on whether the process still runs. `first` is part of
    explain's first line while it lasts; empty where it is repaired before anybody can ask. `alerts`: besides WeirDrift.
    """

    do: Callable[[Scene, str], object]
    kind: str
    known: bool | None
    said: str
    first: str = ""
    alerts: tuple[str, ...] = ()
    end: Callable[[Scene], object] = field(default=lambda scene: None)
    target: str = "t0"
    family: int = socket.AF_INET


def _nft(script: str) -> Callable[[Scene, str], object]:
    return lambda scene, name: scene.vandal(name)(scene.pod, "nft", script)


def _ip(*arguments: str) -> Callable[[Scene, str], object]:
    return lambda scene, name: scene.vandal(name)(scene.pod, "ip", *arguments)


def _without_counters(scene: Scene, name: str) -> None:
    listed = scene.pod.command("nft", "list", "table", "inet", "weir-pod")
    script = f"delete table inet weir-pod\n{_COUNTED.sub('', listed)}"
    assert "counter" not in script
    scene.vandal(name)(scene.pod, "nft", script)


def _killed(scene: Scene, _: str) -> None:
    assert isinstance(scene.proxy, ProxyProcess)
    scene.proxy.stop(9)


def _restarted(scene: Scene) -> None:
    scene.proxy = ProxyProcess(scene.pod).start()


def _halved(scene: Scene, _: str) -> None:
    scene.proxy.stop()
    scene.proxy = HalfProxy(scene.pod).start()


def _whole(scene: Scene) -> None:
    scene.proxy.stop()
    _restarted(scene)


def _made_anew(scene: Scene, _: str) -> None:
    scene.beside.stop()
    scene.lonely = scene.lone("anew")
    scene.name(scene.lonely)


def _served(scene: Scene) -> None:
    scene.beside = Proxy(scene.lonely).start()


FAULTS = {
    "flush": Fault(
        do=_nft("flush ruleset"),
        kind="table-gone",
        known=True,
        said="table inet weir-pod is gone",
    ),
    "no counters": Fault(
        do=_without_counters,
        kind="table-changed",
        known=True,
        said="counter",
    ),
    "redirect before": Fault(
        do=_nft(
            "table inet before { chain c { type nat hook output priority -150; tcp dport 8080 redirect to :9; }; }"
        ),
        end=lambda scene: scene.pod.nft("delete table inet before"),
        kind="foreign-chain",
        known=True,
        said="is redirected to 9, by table inet before, c, rule 1",
        first="is redirected to 9, by table inet before, c, rule 1",
        alerts=("WeirRivalRules",),
    ),
    "mark collision": Fault(
        do=_nft(f"table inet shaper {{ chain c {{ {NFT_OUT} tcp dport 8080 meta mark set 0x539; }}; }}"),
        end=lambda scene: scene.pod.nft("delete table inet shaper"),
        kind="foreign-chain",
        known=True,
        said="goes past the proxy, by table inet shaper, c, rule 1",
        first="goes past the proxy, by table inet shaper, c, rule 1",
        alerts=("WeirRivalRules",),
    ),
    "legacy mark": Fault(
        do=lambda scene, _: scene.legacy(*"-t mangle -A OUTPUT -p tcp --dport 8080 -j MARK --set-mark 0x539".split()),
        end=lambda scene: scene.legacy("-t", "mangle", "-F"),
        kind="legacy-rules",
        known=False,
        said="iptables-legacy, mangle/OUTPUT, rule 1",
        first="goes past the proxy, by iptables-legacy, mangle/OUTPUT, rule 1",
        alerts=("WeirRivalRules",),
    ),
    "ip rule": Fault(
        do=_ip("rule", "del", "priority", "32764"),
        kind="policy-rule",
        known=None,
        said="ip rule: from all fwmark",
    ),
    "route": Fault(
        do=_ip("route", "flush", "table", "100"),
        kind="route",
        known=None,
        said="ip route: local 0.0.0.0/0 dev lo table 100 is gone",
    ),
    "disable_ipv6": Fault(
        do=lambda scene, _: scene.pod.sysctl("net/ipv6/conf/lo/disable_ipv6", 1),
        end=lambda scene: scene.pod.sysctl("net/ipv6/conf/lo/disable_ipv6", 0),
        kind="families",
        known=False,
        said="IPv6 can't be captured any more",
        first="IPv6 is off on lo only (disable_ipv6)",
        family=socket.AF_INET6,
    ),
    "proxy killed": Fault(
        do=_killed,
        end=_restarted,
        kind="listener-gone",
        known=False,
        said="tcp port 15001 (outbound_port)",
        first="nothing listens on tcp port 15001 (outbound_port)",
        alerts=("WeirUncaptured",),
    ),
    "proxy of one family": Fault(
        do=_halved,
        end=_whole,
        kind="listener-gone",
        known=False,
        said="tcp port 15001 (outbound_port)",
        first="nothing listens on tcp port 15001 (outbound_port) over IPv6",
        alerts=("WeirUncaptured",),
        family=socket.AF_INET6,
    ),
    "namespace made anew": Fault(
        do=_made_anew,
        end=_served,
        kind="namespace-replaced",
        known=False,
        said="",
        first="its namespace was made anew",
        alerts=("WeirUncaptured",),
        target="t1",
    ),
}
