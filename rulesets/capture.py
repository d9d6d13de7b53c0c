"""`Capture`: what one namespace wants redirected, validated and in canonical form.

Refuses, never guesses: every error names the setting, the value and the reason. "Outbound" is a connection that the
namespace opens, "inbound" one that it accepts; the networks of a direction are those of the peer, the ports those that
the connection goes to. A connection is captured when its port and its network are included and neither is excluded.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses

from rulesets import settings
from rulesets.settings import CaptureError
from rulesets.vocabulary import Address, Family, Mark, Network, PortRange, SocketCgroup, family_of

ALL_PORTS = (PortRange(0, 65535),)
ALL_NETWORKS: tuple[Network, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
# Istio's probe sources: kubelet probes are translated to them on the node (istio.io, "Ambient and health probes").
PROBE_SOURCES: tuple[Address, ...] = (
    IPv4Address("169.254.7.127"),
    IPv6Address("fd16:9254:7127:1337:ffff:ffff:ffff:ffff"),
)


class Established(StrEnum):
    """What becomes of the connections that are open when a namespace is enrolled."""

    KEEP = "keep"
    RESET = "reset"


class ProxyAbsent(StrEnum):
    """What to do while nothing listens on the proxy's ports."""

    WAIT = "wait"
    CAPTURE = "capture"


class Uncapturable(StrEnum):
    """What becomes of the connections of a family that cannot be captured."""

    REJECT = "reject"
    DIRECT = "direct"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """All that one namespace can want. Field names are the setting names of files and annotations.

    Build one from outside text with `parse`. `families` None means: whatever the namespace has. `kept_deadline` is in
    seconds from enrolment; None keeps streams for as long as they live. What is of `proxy_user` or of `proxy_cgroup` is
    the proxy's as well as what has its mark; the agent puts a cgroup's number in the place of its path. Of `sample`
    connections one is traced by the kernel through the rules that it meets; 0 is none, and costs nothing.
    """

    outbound_port: int = 15001
    inbound_port: int = 15006
    hbone_port: int = 15008
    dns_port: int = 15053
    dns: bool = True
    inbound: bool = True
    outbound: bool = True
    ingress: bool = False
    proxy_mark: Mark = Mark(0x539, 0xFFF)
    proxy_user: int | None = None
    proxy_cgroup: SocketCgroup | None = None
    connection_mark: Mark = Mark(0x111, 0xFFF)
    probe_sources: tuple[Address, ...] = PROBE_SOURCES
    virtual_interfaces: tuple[str, ...] = ()
    exclude_interfaces: tuple[str, ...] = ()
    include_outbound_ports: tuple[PortRange, ...] = ALL_PORTS
    exclude_outbound_ports: tuple[PortRange, ...] = ()
    include_outbound_networks: tuple[Network, ...] = ALL_NETWORKS
    exclude_outbound_networks: tuple[Network, ...] = ()
    include_inbound_ports: tuple[PortRange, ...] = ALL_PORTS
    exclude_inbound_ports: tuple[PortRange, ...] = ()
    include_inbound_networks: tuple[Network, ...] = ALL_NETWORKS
    exclude_inbound_networks: tuple[Network, ...] = ()
    families: tuple[Family, ...] | None = None
    established: Established = Established.KEEP
    kept_deadline: float | None = None
    when_proxy_absent: ProxyAbsent = ProxyAbsent.WAIT
    uncapturable: Uncapturable = Uncapturable.REJECT
    route_table: int = 100
    rule_priority: int = 32764
    sample: int = 0

    def __post_init__(self) -> None:
        _canonicalise(self)
        _refuse_clashing_ports(self)
        _refuse_unusable_marks(self)
        _refuse_nothing_left(self)

    @staticmethod
    def parse(values: Mapping[str, object]) -> "Capture":
        """Return the capture that outside values (as TOML gives them) describe.

        Raises `CaptureError` for a setting that doesn't exist (naming the nearest that does), a value of the wrong
        type or form, and values that contradict each other.
        """
        return Capture().changed(values)

    def changed(self, values: Mapping[str, object]) -> "Capture":
        """Return this capture with the settings that outside values name replaced. Raises `CaptureError` as `parse`."""
        known = {each.name for each in fields(Capture)}
        for name, value in values.items():
            if name not in known:
                nearest = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {nearest[0]!r}?" if nearest else "see `weir render --help` for the settings"
                raise CaptureError(name, value, f"there is no such setting; {hint}")
        # mypy cannot tie a setting's name to its reader's type; each reader returns just what its field holds.
        return replace(self, **{name: _READERS[name](name, value) for name, value in values.items()})  # type: ignore[arg-type]

    @property
    def kept_mark(self) -> Mark:
        """The connection mark of streams that were open before enrolment and stay outside.

        It lies in the connection mark's own mask, so that nobody else's bits are used: the mark with its lowest bit
        flipped that leaves it neither zero nor the captured mark (0x111/0xfff gives 0x110/0xfff).
        """
        mark = self.connection_mark
        bits = (1 << bit for bit in range(32) if mark.mask >> bit & 1)
        return next(Mark(mark.value ^ bit, mark.mask) for bit in bits if mark.value ^ bit)

    def written(self) -> dict[str, object]:
        """Return the settings that are not Weir's own, as JSON can hold them: `parse` reads this capture in them."""
        values = {each.name: (getattr(self, each.name), each.default) for each in fields(Capture)}
        return {name: _written(value) for name, (value, own) in values.items() if value != own}

    @property
    def captured_families(self) -> tuple[Family, ...]:
        """The families to redirect; every other one is refused or left direct, as `uncapturable` says."""
        return tuple(Family) if self.families is None else self.families

    @property
    def proxy_ports(self) -> dict[str, int]:
        """The ports to which connections are redirected, by the name of their setting: there the proxy must listen."""
        wanted = {
            "outbound_port": self.outbound or bool(self.virtual_interfaces),
            "inbound_port": self.inbound and not self.ingress,
            "dns_port": self.dns,
        }
        return {name: getattr(self, name) for name, needed in wanted.items() if needed}


def _written(value: object) -> object:
    """Return a setting's value as a file has it."""
    if isinstance(value, tuple):
        return "*" if value == ALL_PORTS else [str(each) for each in value]
    if isinstance(value, SocketCgroup):
        return value.cgroup
    return value if isinstance(value, bool | int | float) else str(value)


_Reader = Callable[[str, object], object]
_READERS: dict[str, _Reader] = {
    **dict.fromkeys(("outbound_port", "inbound_port", "hbone_port", "dns_port"), settings.port),
    **dict.fromkeys(("dns", "inbound", "outbound", "ingress"), settings.boolean),
    **dict.fromkeys(("proxy_mark", "connection_mark"), settings.mark),
    "proxy_user": settings.user,
    "proxy_cgroup": settings.cgroup,
    "probe_sources": settings.addresses,
    **dict.fromkeys(("virtual_interfaces", "exclude_interfaces"), settings.interfaces),
    **{f"{kind}_{way}_ports": settings.ports for kind in ("include", "exclude") for way in ("outbound", "inbound")},
    **{
        f"{kind}_{way}_networks": settings.networks
        for kind in ("include", "exclude")
        for way in ("outbound", "inbound")
    },
    "families": settings.families,
    "established": settings.choice(Established),
    "kept_deadline": settings.seconds,
    "when_proxy_absent": settings.choice(ProxyAbsent),
    "uncapturable": settings.choice(Uncapturable),
    "route_table": settings.whole_number(1, 2**32 - 1),
    "rule_priority": settings.whole_number(1, 32765),
    "sample": settings.whole_number(0, 1_000_000_000),
}


def _canonicalise(capture: Capture) -> None:
    """Sort and merge what has no order, so that captures that mean the same are equal, and so are their rulesets."""

    def put(name: str, value: object) -> None:
        object.__setattr__(capture, name, value)

    for way in ("outbound", "inbound"):
        for kind in ("include", "exclude"):
            put(f"{kind}_{way}_ports", _merged_ports(getattr(capture, f"{kind}_{way}_ports")))
            put(f"{kind}_{way}_networks", merged_networks(getattr(capture, f"{kind}_{way}_networks")))
    for name in ("virtual_interfaces", "exclude_interfaces"):
        put(name, tuple(sorted(set(getattr(capture, name)))))
    put("probe_sources", tuple(sorted(set(capture.probe_sources), key=lambda each: (each.version, int(each)))))
    if capture.families is not None:
        put("families", tuple(family for family in Family if family in capture.families))


def _merged_ports(ports: tuple[PortRange, ...]) -> tuple[PortRange, ...]:
    merged: list[PortRange] = []
    for each in sorted(ports):
        if merged and each.first <= merged[-1].last + 1:
            merged[-1] = PortRange(merged[-1].first, max(merged[-1].last, each.last))
        else:
            merged.append(each)
    # No connection goes to port 0, so 1 to 65535 is every port.
    return ALL_PORTS if merged and (merged[0].first, merged[0].last) == (1, 65535) else tuple(merged)


def merged_networks(networks: tuple[Network, ...]) -> tuple[Network, ...]:
    """Return the networks sorted, IPv4 first, without those that lie in another and with neighbours joined."""
    v4 = collapse_addresses(each for each in networks if isinstance(each, IPv4Network))
    v6 = collapse_addresses(each for each in networks if isinstance(each, IPv6Network))
    return (*v4, *v6)


def _refuse_clashing_ports(capture: Capture) -> None:
    names = ("outbound_port", "inbound_port", "hbone_port", "dns_port")
    taken: dict[int, str] = {}
    for name in names:
        port = getattr(capture, name)
        if port in taken:
            raise CaptureError(name, port, f"{taken[port]} uses the same port, and one port can't do two jobs")
        taken[port] = name


def _refuse_unusable_marks(capture: Capture) -> None:
    packet, connection = capture.proxy_mark, capture.connection_mark
    for name, mark in (("proxy_mark", packet), ("connection_mark", connection)):
        if not mark.value:
            raise CaptureError(name, str(mark), "zero is what every packet carries that nobody marked")
    # The connection mark is also the packet mark of replies on their way back to the proxy.
    if packet.put_on(0) & connection.mask == connection.value or connection.put_on(0) & packet.mask == packet.value:
        raise CaptureError("connection_mark", str(connection), f"can't be told from proxy_mark {packet}")
    if connection.mask.bit_count() < 2:
        raise CaptureError(
            "connection_mark", str(connection), "its mask needs two bits: streams kept outside get a mark of their own"
        )


def _refuse_nothing_left(capture: Capture) -> None:
    if capture.families == ():
        raise CaptureError("families", [], "no family is left to capture")
    if not (capture.inbound or capture.outbound or capture.virtual_interfaces):
        raise CaptureError("inbound", False, "outbound is off too, so nothing is left to capture")
    if capture.dns and not capture.outbound:
        raise CaptureError("dns", True, "queries are outbound, and outbound is off")
    if capture.ingress and not capture.inbound:
        raise CaptureError("ingress", True, "inbound is off already; ingress turns off only its redirect")
    for way, on in (("outbound", capture.outbound), ("inbound", capture.inbound and not capture.ingress)):
        if not on:
            continue
        included, excluded = getattr(capture, f"include_{way}_ports"), getattr(capture, f"exclude_{way}_ports")
        if not included or all(any(e.first <= i.first and i.last <= e.last for e in excluded) for i in included):
            shown = [str(each) for each in included]
            raise CaptureError(
                f"include_{way}_ports", shown, f"no port is left to capture; turn off {way} if that is meant"
            )
        networks, without = getattr(capture, f"include_{way}_networks"), getattr(capture, f"exclude_{way}_networks")
        left = [
            each for each in networks if family_of(each) in capture.captured_families and _lies_outside(each, without)
        ]
        if not left:
            shown = [str(each) for each in networks]
            raise CaptureError(
                f"include_{way}_networks", shown, f"no network is left to capture; turn off {way} if that is meant"
            )


def _lies_outside(network: Network, excluded: tuple[Network, ...]) -> bool:
    """Tell whether any address of the network is not excluded."""
    same_family = [each for each in excluded if each.version == network.version and each.overlaps(network)]
    if not same_family:
        return True
    from netaddr import IPNetwork, IPSet  # lazy: 40 ms that most commands don't need

    return bool(IPSet([IPNetwork(str(network))]) - IPSet([IPNetwork(str(each)) for each in same_family]))
