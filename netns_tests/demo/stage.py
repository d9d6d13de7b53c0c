"""Where the demo plays: two pods with a proxy each, their node, and an outside with a web and a DNS server."""

import contextlib
import socket
from dataclasses import dataclass
from typing import Self

import psutil

from netns_tests.captured import Address, Captured
from netns_tests.demo.command import Daemon, Weir, own_directory
from netns_tests.demo.download import Download, endpoint
from netns_tests.demo.screen import Screen
from netns_tests.proxy import Proxy
from netns_tests.traffic import DnsServer, HttpServer, http_get
from netns_tests.world import Host, World

__all__ = [
    "DNS",
    "DOWNLOAD",
    "EXCLUDED_ADDRESS",
    "EXCLUDED_NETWORK",
    "EXCLUDED_PORT",
    "FAMILIES",
    "WEB",
    "Request",
    "Stage",
]

WEB, DNS, EXCLUDED_PORT, DOWNLOAD = 80, 53, 8443, 8000
EXCLUDED_NETWORK, EXCLUDED_ADDRESS = "10.99.0.64/26", "10.99.0.77"
FAMILIES = {"IPv4": socket.AF_INET, "IPv6": socket.AF_INET6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request: what the client asked for, what the proxy saw of it if anything, and whom the server saw."""

    client: str
    local: Address
    asked: Address
    proxy: str
    seen_by_proxy: Captured | None
    server: str
    seen_by_server: Address

    @property
    def captured(self) -> bool:
        """Say if the right proxy got it from this client, knows where it was to go, and reached the server for it."""
        found = self.seen_by_proxy
        return (
            found is not None
            and (found.direction, self.proxy) in (("outbound", self.client), ("inbound", self.server))
            and found.client == self.local
            and found.original == self.asked
            and self.seen_by_server != self.local
        )

    @property
    def direct(self) -> bool:
        """Say if no proxy has seen it, and the server saw the client's own socket."""
        return self.seen_by_proxy is None and self.seen_by_server == self.local

    @property
    def row(self) -> tuple[str, ...]:
        """Return what a table shows of it."""
        found = self.seen_by_proxy
        through = (f"{self.proxy}'s", endpoint(found.client), endpoint(found.original)) if found else ("none", "", "")
        asked = f"{self.client} asks {endpoint(self.asked)}"
        return (asked, *through, f"{self.server}, seeing {endpoint(self.seen_by_server)}")


COLUMNS = ("request", "proxy", "a connection from", "that wanted", "answered by")


class Stage:
    """Everything that the scenes act upon. Use it in a `with` block; at its end nothing is left."""

    def __init__(self, screen: Screen) -> None:
        """Say where to print."""
        self.screen = screen
        self._stack = contextlib.ExitStack()
        self.downloads: list[Download] = []
        self.daemon: Daemon
        self.before: dict[str, str]

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.world = stack.enter_context(World(pods=2))
            self.outside = self.world.outside
            self.pod1, self.pod2 = self.world.pods
            self.names = {"pod1": self.pod1, "pod2": self.pod2}
            self.outside.ip(f"addr add {EXCLUDED_ADDRESS}/24 dev eth0")
            for place, name in ((self.outside, "outside"), (self.pod2, "pod2")):
                stack.enter_context(HttpServer(place, WEB, name=name))
            stack.enter_context(HttpServer(self.outside, EXCLUDED_PORT, name="outside"))
            stack.enter_context(DnsServer(self.outside))
            self.proxies = {name: Proxy(pod) for name, pod in self.names.items()}
            self.weir = Weir(stack.enter_context(own_directory()), stack)
            self.before = self.snapshot()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def remains(self) -> list[str]:
        """Return what of the stage is still there: nothing, after the block."""
        places = [self.world.node, self.outside, *self.names.values()]
        paths = [self.weir.directory, *(each.path for each in places)]
        processes = psutil.Process().children(recursive=True)
        return [str(each) for each in paths if each.exists()] + [str(each) for each in processes]

    def start_proxies(self) -> None:
        """Have a proxy listen in each pod."""
        for proxy in self.proxies.values():
            self._stack.enter_context(proxy)

    def run(self, *arguments: str, most: int | None = None) -> tuple[int, str]:
        """Run a `weir` command and show it; return its exit code and what it said."""
        said = self.weir(*arguments)
        self.screen.typed(said.typed, said.code, said.output, most=most)
        return said.code, said.output

    def shell(self, pod: Host, *command: str) -> str:
        """Run a command in a pod as anybody might, and show it; return what it said."""
        said = pod.command(*command)
        self.screen.typed(f"ip netns exec {pod.name} {' '.join(command)}", None, said)
        return said

    def request(self, client: Host, target: Address) -> Request:
        """Ask a web server, and find out by which way."""
        logged = {name: len(proxy.captured) for name, proxy in self.proxies.items()}
        answer = http_get(client, target)
        server = next((name for name, pod in self.names.items() if target[0] in (pod.v4, pod.v6)), "outside")
        self.screen.check(answer["server"] == server, f"{server} answers at {endpoint(target)}", answer)
        local = _address(answer["local"])
        for name, proxy in self.proxies.items():
            # The proxy notes a connection before it dials, so with the answer the entry is there.
            found = next((each for each in list(proxy.captured)[logged[name] :] if each.client == local), None)
            if found:
                break
        else:
            name = ""
        return Request(
            client=self.name_of(client),
            local=local,
            asked=target,
            proxy=name,
            seen_by_proxy=found,
            server=server,
            seen_by_server=_address(answer["peer"]),
        )

    def requests(self) -> list[Request]:
        """Ask in both directions and families: out of pod 1, and into pod 2."""
        return [
            self.request(client, (server.address(family), WEB))
            for client, server in ((self.pod1, self.outside), (self.outside, self.pod2))
            for family in FAMILIES.values()
        ]

    def show(self, requests: list[Request]) -> None:
        """Print requests as a table."""
        self.screen.table(COLUMNS, (each.row for each in requests))

    def download(self, name: str, client: Host, server: Host, family: str) -> Download:
        """Begin a download, which ends with the demo at the latest."""
        port = DOWNLOAD + len(self.downloads)
        found = Download(name, client, server, (server.address(FAMILIES[family]), port))
        self.downloads.append(self._stack.enter_context(found))
        return found

    def name_of(self, place: Host) -> str:
        """Return what the demo calls a namespace."""
        return next((name for name, pod in self.names.items() if pod is place), "outside")

    def snapshot(self) -> dict[str, str]:
        """Return rules, policy rules and routes of each namespace, as nft and ip print them."""
        places = {**self.names, "node": self.world.node, "outside": self.outside}
        return {f"{name}: {what}": text for name, place in places.items() for what, text in _settings(place).items()}


def _settings(place: Host) -> dict[str, str]:
    found = {"nft list ruleset": place.command("nft", "list", "ruleset")}
    for family in ("-4", "-6"):
        found[f"ip {family} rule"] = place.command("ip", family, "rule")
        routes = place.command("ip", family, "route", "show", "table", "all")
        found[f"ip {family} route show table all"] = "\n".join(sorted(routes.splitlines()))
    return found


def _address(text: str) -> Address:
    address, port = text.split(" ")
    return address, int(port)
