"""Which peers and ports are captured: the sets of a capture, and the rules that look into them."""

from collections.abc import Iterator

from rulesets.capture import ALL_NETWORKS, ALL_PORTS, Capture
from rulesets.model import (
    INET_SERVICE,
    IPV4_ADDR,
    IPV6_ADDR,
    Element,
    Rule,
    Set,
)
from rulesets.pod.shared import accept, captures_inbound
from rulesets.vocabulary import (
    Family,
    InSet,
    Network,
    OfFamily,
    PortRange,
    SetField,
    family_of,
)


def select(capture: Capture, way: str, peer: dict[Family, SetField]) -> Iterator[Rule]:
    """Accept what is excluded, then what is not included."""
    excluded, included = _networks(capture, f"exclude_{way}_networks"), _networks(capture, f"include_{way}_networks")
    for family, field in peer.items():
        if excluded[family]:
            name = _set_name(f"exclude_{way}_networks", family)
            yield accept(f"{way}-excluded-network", InSet(field=field, name=name))
    if getattr(capture, f"exclude_{way}_ports"):
        name = _set_name(f"exclude_{way}_ports")
        yield accept(f"{way}-excluded-port", InSet(field=SetField.TCP_DST_PORT, name=name))
    for family, field in peer.items():
        if not included[family]:
            yield accept(f"{way}-not-included-network", OfFamily(family=family))
        elif included[family] != _everything(family):
            name = _set_name(f"include_{way}_networks", family)
            yield accept(f"{way}-not-included-network", InSet(field=field, name=name, negate=True))
    if getattr(capture, f"include_{way}_ports") != ALL_PORTS:
        name = _set_name(f"include_{way}_ports")
        yield accept(f"{way}-not-included-port", InSet(field=SetField.TCP_DST_PORT, name=name, negate=True))


def _networks(capture: Capture, setting: str) -> dict[Family, tuple[Network, ...]]:
    networks: tuple[Network, ...] = getattr(capture, setting)
    return {family: tuple(each for each in networks if family_of(each) is family) for family in Family}


def _everything(family: Family) -> tuple[Network, ...]:
    return tuple(each for each in ALL_NETWORKS if family_of(each) is family)


def _set_name(setting: str, family: Family | None = None) -> str:
    name = setting.replace("_", "-")
    return name if family is None else f"{name}-{'v4' if family is Family.IPV4 else 'v6'}"


def sets(capture: Capture) -> tuple[Set, ...]:
    """Return the sets that `select` looks into."""
    return tuple(_sets_of_networks(capture)) + tuple(_sets_of_ports(capture))


def _ways(capture: Capture) -> tuple[str, ...]:
    on = {"outbound": capture.outbound, "inbound": captures_inbound(capture)}
    return tuple(way for way, captured in on.items() if captured)


def _sets_of_networks(capture: Capture) -> Iterator[Set]:
    for way in _ways(capture):
        for kind in ("exclude", "include"):
            for family, networks in _networks(capture, f"{kind}_{way}_networks").items():
                if networks and not (kind == "include" and networks == _everything(family)):
                    yield Set(
                        name=_set_name(f"{kind}_{way}_networks", family),
                        key=IPV4_ADDR if family is Family.IPV4 else IPV6_ADDR,
                        interval=True,
                        elements=tuple(Element(value=each) for each in networks),
                    )


def _sets_of_ports(capture: Capture) -> Iterator[Set]:
    for way in _ways(capture):
        for kind in ("exclude", "include"):
            ports: tuple[PortRange, ...] = getattr(capture, f"{kind}_{way}_ports")
            if ports and not (kind == "include" and ports == ALL_PORTS):
                elements = tuple(Element(value=each) for each in ports)
                yield Set(name=_set_name(f"{kind}_{way}_ports"), key=INET_SERVICE, interval=True, elements=elements)
