"""A pod with every kind of neighbour: the namespace in which packets are sent to see how rules treat them.

    net ── eth0 ──┐
    net ── eth1 ──┤                    N is a link's number: pod 10.200.N.1, fdc8:N::1, neighbour .2, ::2
    net ── tun0 ──┼── pod (forwards)
  guest ── guest0 ┤
  guest ── br-0 ──┘

`net` answers at every address there is, and may send from every address. `guest` reaches it through the pod.
"""

import contextlib
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Self

from netns_tests.namespace import Namespace
from netns_tests.world import eventually
from rulesets.routing import LocalRoute, PolicyRule, Routing
from rulesets.vocabulary import Address, Family

__all__ = ["LINKS", "NEIGHBOURS", "Crossroads", "link_of", "pod_address", "second_address"]

LINKS = ("eth0", "eth1", "tun0", "guest0", "br-0")
NEIGHBOURS = {"eth0": "net", "eth1": "net", "tun0": "net", "guest0": "guest", "br-0": "guest"}
# Where the pod sends what is not on a link, and the guest likewise: everything else goes by eth0, or by guest0.
_BEYOND = {"eth1": ("10.98.0.0/16", "fd98::/16"), "tun0": ("10.97.0.0/16", "fd97::/16")}
_BEYOND_THE_GUEST = {"br-0": ("10.55.0.0/16", "fd55::/16")}


def pod_address(link: str, version: int) -> Address:
    """Return the pod's first address on a link."""
    number = LINKS.index(link)
    return ip_address(f"10.200.{number}.1" if version == 4 else f"fdc8:{number}::1")


def second_address(version: int) -> Address:
    """Return another address that the pod has on `eth0`."""
    return ip_address("10.200.0.3" if version == 4 else "fdc8:0::3")


def neighbour_address(link: str, version: int) -> Address:
    """Return the address at the other end of a link."""
    return pod_address(link, version) + 1


def link_of(destination: Address) -> str:
    """Return the link by which the pod sends to an address; `lo` for its own."""
    mine = {pod_address(link, version) for link in LINKS for version in (4, 6)}
    if destination.is_loopback or destination in {*mine, second_address(4), second_address(6)}:
        return "lo"
    text = str(destination)
    for number, link in enumerate(LINKS):
        if text.startswith((f"10.200.{number}.", f"fdc8:{number}:")):
            return link
    beyond = {"10.98.": "eth1", "fd98:": "eth1", "10.97.": "tun0", "fd97:": "tun0"}
    return next((link for start, link in beyond.items() if text.startswith(start)), "eth0")


class Crossroads:
    """The three namespaces. Use it in a `with` block."""

    def __init__(self, *, also_returned_to_pod: tuple[Address, ...] = ()) -> None:
        """Say which addresses `net` routes back to the pod instead of answering at them itself."""
        self._returned = also_returned_to_pod
        self._stack = contextlib.ExitStack()
        self.pod: Namespace
        self.net: Namespace
        self.guest: Namespace

    @property
    def stations(self) -> dict[str, Namespace]:
        """The namespaces by name."""
        return {"pod": self.pod, "net": self.net, "guest": self.guest}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.pod, self.net, self.guest = (
                stack.enter_context(Namespace.create(name)) for name in ("pod", "net", "guest")
            )
            for number, link in enumerate(LINKS):
                self._connect(number, link, self.stations[NEIGHBOURS[link]])
            self._route()
            # The kernel begins to use a link some time after it is up (linkwatch): until then IPv6 addresses are no
            # addresses, and packets are dropped.
            eventually(lambda: self.pod.run(_all_answer), "every link of the pod works both ways")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _connect(self, number: int, link: str, neighbour: Namespace) -> None:
        mine, other = f"02:00:00:00:{number:02x}:01", f"02:00:00:00:{number:02x}:02"
        peer = f"peer name {link} address {other} netns {neighbour.name}"
        self.pod.ip(f"link add {link} address {mine} type veth {peer}")
        for namespace, host, far, mac in ((self.pod, 1, 2, other), (neighbour, 2, 1, mine)):
            namespace.ip(
                f"link set {link} up",
                f"addr add 10.200.{number}.{host}/24 dev {link}",
                f"addr add fdc8:{number}::{host}/64 dev {link} nodad",
                # Hundreds of first packets at once overflow the queue that waits for an answer to "who has".
                f"neigh replace 10.200.{number}.{far} lladdr {mac} dev {link} nud permanent",
                f"neigh replace fdc8:{number}::{far} lladdr {mac} dev {link} nud permanent",
            )

    def _route(self) -> None:
        for version in ("4", "6"):
            self.net.sysctl(f"net/ipv{version}/ip_nonlocal_bind", 1)
        self.pod.sysctl("net/ipv4/ip_forward", 1)
        self.pod.sysctl("net/ipv6/conf/all/forwarding", 1)
        self.pod.ip(
            f"addr add {second_address(4)}/24 dev eth0",
            f"addr add {second_address(6)}/64 dev eth0 nodad",
            *_default("eth0", 2),
            *(line for link, networks in _BEYOND.items() for line in _routes(link, networks, 2)),
        )
        self.guest.ip(
            *_default("guest0", 1),
            *(line for link, networks in _BEYOND_THE_GUEST.items() for line in _routes(link, networks, 1)),
        )
        to_guest = [
            line
            for number, link in enumerate(LINKS)
            if NEIGHBOURS[link] == "guest"
            for line in _routes("eth0", (f"10.200.{number}.0/24", f"fdc8:{number}::/64"), 1)
        ]
        back = [f"route add {each} via {pod_address('eth0', each.version)}" for each in self._returned]
        # In the main table, so that the links' own networks go before it.
        everywhere = ["route add local 0.0.0.0/0 dev lo table main", "route add local ::/0 dev lo table main"]
        self.net.ip(*to_guest, *back, *everywhere)

    def route_replies(self, wanted: Routing) -> None:
        """Make the policy rules and local routes of a capture in the pod."""
        lines = []
        for rule in wanted.rules:
            assert isinstance(rule, PolicyRule)
            family = "-4" if rule.family is Family.IPV4 else "-6"
            mark, order = f"{rule.mark.value:#x}/{rule.mark.mask:#x}", rule.priority
            self.pod.command("ip", family, "rule", "add", "fwmark", mark, "pref", str(order), "lookup", str(rule.table))
        for route in wanted.routes:
            assert isinstance(route, LocalRoute)
            everything = "0.0.0.0/0" if route.family is Family.IPV4 else "::/0"
            lines.append(f"route add local {everything} dev lo table {route.table}")
        self.pod.ip(*lines)


def _all_answer() -> bool:
    """Tell whether the pod's own addresses and its neighbours' answer."""
    return all(
        _answers(address(link, version))
        for address in (pod_address, neighbour_address)
        for link in LINKS
        for version in (4, 6)
    )


def _answers(address: Address) -> bool:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family) as sock:
        sock.settimeout(0.2)
        try:
            sock.connect((str(address), 1))
        except ConnectionRefusedError:
            return True
        except OSError:
            pass
    return False


def _routes(link: str, networks: tuple[str, ...], host: int) -> list[str]:
    number = LINKS.index(link)
    return [f"route add {each} via {_far(number, host, ':' in each)}" for each in networks]


def _default(link: str, host: int) -> list[str]:
    return _routes(link, ("0.0.0.0/0", "::/0"), host)


def _far(number: int, host: int, v6: bool) -> IPv4Address | IPv6Address:
    return ip_address(f"fdc8:{number}::{host}" if v6 else f"10.200.{number}.{host}")
