"""The node's table: kubelet probes leave with a source that pods let pass.

A probe is a connection of any local process of the node to a pod: ``meta skuid >= 0`` holds just where a local socket
sent the packet, so no kubelet has to be found and no user guessed. Where a pod names its probe ports, only those count.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rulesets.capture import PROBE_SOURCES
from rulesets.model import (
    IPV4_ADDR,
    IPV4_ADDR_PORT,
    IPV6_ADDR,
    IPV6_ADDR_PORT,
    AddressPort,
    Chain,
    Element,
    ElementValue,
    Rule,
    Ruleset,
    Set,
    with_counters,
)
from rulesets.vocabulary import (
    Address,
    ChainType,
    Family,
    Hook,
    InSet,
    LocalSocket,
    Match,
    Proto,
    Protocol,
    SetField,
    Snat,
    family_of,
    host_network,
)

HOST_TABLE = "weir-host"
NAT_POST = Chain(name="nat-post", type=ChainType.NAT, hook=Hook.POSTROUTING, priority=99)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTarget:
    """One address of a pod that the node probes; `owner` is the pod's uid. Without `ports` every port is probed."""

    address: Address
    owner: str
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """All that the node probes, and the source address that probes get, one for each family."""

    targets: tuple[ProbeTarget, ...] = ()
    sources: tuple[Address, ...] = PROBE_SOURCES


# By family: where any port is probed, where a named one is, and the sets that hold them.
_PROBED = {
    Family.IPV4: (SetField.DST_V4, "probes-v4", SetField.DST_V4_TCP_DST_PORT, "probe-ports-v4"),
    Family.IPV6: (SetField.DST_V6, "probes-v6", SetField.DST_V6_TCP_DST_PORT, "probe-ports-v6"),
}
_KEYS = {
    "probes-v4": IPV4_ADDR,
    "probe-ports-v4": IPV4_ADDR_PORT,
    "probes-v6": IPV6_ADDR,
    "probe-ports-v6": IPV6_ADDR_PORT,
}


def build(probes: Probes) -> Ruleset:
    """Return the node's whole table. Its sets are always there, so that a pod is one element more, not a new rule."""
    rules = tuple(rule for source in probes.sources for rule in _rules(source))
    chain = dataclasses.replace(NAT_POST, rules=rules)
    elements = (each for target in probes.targets for each in elements_of(target))
    return with_counters(HOST_TABLE, (chain,), sets_of(elements))


def elements_of(target: ProbeTarget) -> tuple[tuple[str, Element], ...]:
    """Return the elements that stand for a target, each with the name of its set."""
    _, addresses, _, address_ports = _PROBED[family_of(target.address)]
    if not target.ports:
        return ((addresses, Element(value=host_network(target.address), comment=target.owner)),)
    values = (AddressPort(target.address, port) for port in target.ports)
    return tuple((address_ports, Element(value=value, comment=target.owner)) for value in values)


def sets_of(elements: Iterable[tuple[str, Element]]) -> tuple[Set, ...]:
    """Return the table's sets with these elements: of those for one value the last, whose pod is then the owner."""
    found: dict[str, dict[ElementValue, Element]] = {name: {} for name in _KEYS}
    for name, element in elements:
        found[name][element.value] = element
    return tuple(
        Set(name=name, key=_KEYS[name], interval=False, elements=tuple(each.values())) for name, each in found.items()
    )


def _rules(source: Address) -> Iterator[Rule]:
    any_port, addresses, named_port, address_ports = _PROBED[family_of(source)]
    local_tcp: tuple[Match, ...] = (LocalSocket(), Proto(protocol=Protocol.TCP))
    action = Snat(address=source)
    yield Rule(slug="probe", matches=(*local_tcp, InSet(field=any_port, name=addresses)), action=action)
    yield Rule(slug="probe-port", matches=(LocalSocket(), InSet(field=named_port, name=address_ports)), action=action)
