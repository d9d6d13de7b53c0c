"""Settings of a namespace beside connection tracking's: IPv6, forwarding, loopback addresses from the link."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.doctor.files import SYSCTLS, setting, sysctl
from agent.doctor.findings import Finding, Level
from agent.kernel import ipv6
from agent.kernel.ipv6 import Ipv6
from agent.kernel.policy_rules import Link
from rulesets.capture import Capture
from rulesets.vocabulary import Family


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a namespace is set to; None where the kernel doesn't tell. Names are those of interfaces.

    `deaf_to_routers`: of IPv6 default routes that came by a router's advertisement, and will be renewed by none.
    `without_ipv6` are interfaces that have it off while others have it, `localnet` those by which 127.0.0.0/8 is taken
    from the link.
    """

    ipv6: Ipv6 = Ipv6.ON
    forwards: int | None = None
    deaf_to_routers: tuple[str, ...] = ()
    without_ipv6: tuple[str, ...] = ()
    localnet: tuple[str, ...] = ()


def read(links: tuple[Link, ...], *, advertised: frozenset[int] = frozenset(), root: Path = SYSCTLS) -> Settings:
    """Return the settings of the calling thread's namespace. `advertised` are interfaces of such default routes."""
    v4, v6 = "net/ipv4", "net/ipv6/conf"
    names = [each.name for each in links if "/" not in each.name]
    routed = [each.name for each in links if each.index in advertised and "/" not in each.name]
    outer = [each for each in names if each != "lo"]
    # The kernel takes the greater of "all" and the interface's own for route_localnet (include/linux/inetdevice.h).
    everywhere = sysctl(f"{v4}/conf/all/route_localnet", root) == 1
    return Settings(
        ipv6=ipv6.state(root / v6),
        forwards=sysctl(f"{v4}/ip_forward", root),
        deaf_to_routers=tuple(
            each
            for each in routed
            if sysctl(f"{v6}/{each}/accept_ra", root) in (0, 1) and sysctl(f"{v6}/{each}/forwarding", root) == 1
        ),
        without_ipv6=tuple(each for each in outer if sysctl(f"{v6}/{each}/disable_ipv6", root) == 1),
        localnet=tuple(each for each in outer if everywhere or sysctl(f"{v4}/conf/{each}/route_localnet", root) == 1),
    )


def judge(found: Settings, capture: Capture) -> Iterator[Finding]:
    """Yield what is in the way of a capture in one namespace."""
    if found.ipv6 is Ipv6.OFF_ON_LOOPBACK and capture.families in (None, (Family.IPV4, Family.IPV6)):
        yield Finding(
            check="ipv6",
            level=Level.ERROR,
            what="disable_ipv6 = 1 on lo, while other interfaces have IPv6",
            why="there is no ::1 to redirect to and no local route: IPv6 can't be captured, and its connections are"
            " refused, or go past the proxy (the setting uncapturable)",
            do='switch it on there, or off everywhere, or capture IPv4 alone (families = ["ipv4"])',
            command="sysctl -w net.ipv6.conf.lo.disable_ipv6=0",
        )
    elif found.ipv6 is Ipv6.ON and found.without_ipv6:
        yield Finding(
            check="ipv6",
            level=Level.NOTE,
            what=f"IPv6 is off on {', '.join(found.without_ipv6[:3])}, and on elsewhere",
            why="switching it on later brings addresses that nobody has looked at",
            do="where it isn't wanted, switch it off for the whole namespace",
            command="sysctl -w net.ipv6.conf.all.disable_ipv6=1",
        )
    if found.localnet and not capture.outbound:
        yield Finding(
            check="route-localnet",
            level=Level.WARNING,
            what=f"route_localnet = 1 on {', '.join(found.localnet[:3])}",
            why="who is on that link can reach what listens on 127.0.0.1, and without outbound capture nothing for a"
            " loopback address is captured: that goes past the proxy",
            do="switch it off",
            command=setting("net/ipv4/conf", ("all", found.localnet[0]), "route_localnet", 0),
        )


def judge_node(found: Settings, *, has_pods: bool) -> Iterator[Finding]:
    """Yield what is in the way of a node's pods."""
    if found.forwards == 0 and has_pods:
        yield Finding(
            check="ip-forward",
            level=Level.ERROR,
            what="net.ipv4.ip_forward = 0, and the node has pods behind it",
            why="the node forwards nothing: pods reach nobody outside it, and nobody reaches them",
            do="switch it on, in /etc/sysctl.d as well",
            command="sysctl -w net.ipv4.ip_forward=1",
        )
    if found.deaf_to_routers:
        yield Finding(
            check="accept-ra",
            level=Level.WARNING,
            what=f"accept_ra is not 2 on {', '.join(found.deaf_to_routers[:3])}, with IPv6 forwarding on",
            why="the node's default route came by a router's advertisement, and a node that forwards takes no more of"
            " these: IPv6 ends when the route expires",
            do="take advertisements although the node forwards",
            command=setting("net/ipv6/conf", found.deaf_to_routers[:1], "accept_ra", 2),
        )
