"""What a pod's annotations ask for, as a capture: Istio's names with Istio's meaning, read by readers that refuse.

The meaning is that of Istio's injector, its CNI plugin and its ambient agent (istio/istio, pkg/kube/inject/validate.go,
tools/istio-iptables/pkg/capture/run.go, cni/pkg/nodeagent/net.go):

- ``*`` is everything, an empty value nothing. Ports and networks stand between commas, blanks around them don't count.
- ``includeOutboundPorts`` adds ports whatever the address; with ``includeOutboundIPRanges`` at its default, ``*``, it
  adds nothing, and with it empty these ports are all that is captured.
- ``excludeInboundPorts`` counts only while every inbound port is included.
- ``excludeOutboundPorts`` with 53 leaves DNS alone, too.

A single address, a range of ports (``8000-8100``) and ``{include,exclude}InboundIPRanges`` are Weir's own.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network, ip_network

from agent.sources.kubernetes.facts import REDIRECTION
from rulesets import settings
from rulesets.capture import ALL_NETWORKS, ALL_PORTS, Capture
from rulesets.settings import CaptureError
from rulesets.vocabulary import Network, PortRange

BYPASS_INBOUND = "ambient.istio.io/bypass-inbound-capture"
DNS_CAPTURE = "ambient.istio.io/dns-capture"
VIRTUAL_INTERFACES = "istio.io/reroute-virtual-interfaces"
TRAFFIC = "traffic.sidecar.istio.io/"
EXCLUDE_INTERFACES = f"{TRAFFIC}excludeInterfaces"
INCLUDE_OUT_PORTS, EXCLUDE_OUT_PORTS = f"{TRAFFIC}includeOutboundPorts", f"{TRAFFIC}excludeOutboundPorts"
INCLUDE_OUT_RANGES, EXCLUDE_OUT_RANGES = f"{TRAFFIC}includeOutboundIPRanges", f"{TRAFFIC}excludeOutboundIPRanges"
INCLUDE_IN_PORTS, EXCLUDE_IN_PORTS = f"{TRAFFIC}includeInboundPorts", f"{TRAFFIC}excludeInboundPorts"
INCLUDE_IN_RANGES, EXCLUDE_IN_RANGES = f"{TRAFFIC}includeInboundIPRanges", f"{TRAFFIC}excludeInboundIPRanges"

LONGEST = 256 << 10  # characters: what Kubernetes allows all annotations of an object together
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})  # strconv.ParseBool
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_BLANKS = " \t\r\n\v\f"
_DNS_PORT = 53
_LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
_PREFIX = re.compile(r"[^/]*(/[0-9]{1,3})?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What annotations ask for. `notes` say, a sentence each, what of them has no effect, or another than it seems."""

    capture: Capture
    notes: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class _Reading:
    """What has been read so far: settings of `Capture`, and for each of them the annotation that it comes from."""

    values: Mapping[str, object]
    defaults: Capture
    changes: dict[str, object] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def put(self, setting: str, value: object, annotation: str) -> None:
        self.changes[setting] = value
        self.origin[setting] = annotation

    def get(self, setting: str) -> object:
        return self.changes.get(setting, getattr(self.defaults, setting))


def asked(annotations: Mapping[str, str], defaults: Capture | None = None) -> Asked:
    """Return the capture that a pod's annotations ask for; what they don't speak of is as in `defaults`.

    Raises `CaptureError`, whose `setting` is the annotation, for a value that can't be read, values that contradict
    each other, and values that would leave nothing to capture.
    """
    defaults = Capture() if defaults is None else defaults
    values = {name: read(name, annotations[name]) for name, read in READERS.items() if name in annotations}
    reading = _Reading(values=values, defaults=defaults)
    for part in (_switches, _interfaces, _inbound, _outbound, _dns):
        part(reading)
    reading.notes += _mistyped(annotations)
    try:
        # mypy cannot tie a setting's name to its value's type; each part puts what its reader returned.
        capture = replace(defaults, **reading.changes)  # type: ignore[arg-type]
    except CaptureError as error:
        raise _of_annotation(error, annotations, reading) from None
    return Asked(capture=capture, notes=tuple(reading.notes))


def _boolean(name: str, value: str) -> bool:
    if value not in _TRUE | _FALSE:
        raise CaptureError(name, value, 'wants "true" or "false"')
    return value in _TRUE


def _items(name: str, value: str) -> list[str]:
    """Return what stands between commas; nothing where there is nothing."""
    if len(value) > LONGEST:
        raise CaptureError(name, value, f"has {len(value)} characters, and Kubernetes allows {LONGEST}")
    items = [each.strip(_BLANKS) for each in value.split(",")]
    return [] if items == [""] else items


def _numbered(name: str, value: str) -> list[str]:
    """Return what stands between commas, none of it empty; ``*`` alone where the annotation may say so."""
    items = _items(name, value)
    if "" in items:
        raise CaptureError(name, value, "has a comma too many")
    if items == ["*"] and name in _EXCLUDING:
        raise CaptureError(name, value, f"would leave nothing; {_INSTEAD[_EXCLUDING[name]]}")
    return items


def _ports(name: str, value: str) -> tuple[PortRange, ...]:
    """Return ports. Port 0, which Istio reads and no connection goes to, is none."""
    plain = [each.lstrip("0") or "0" if each.isdecimal() else each for each in _numbered(name, value)]
    return settings.ports(name, [each for each in plain if each != "0"])


def _networks(name: str, value: str) -> tuple[Network, ...]:
    """Return networks. Bits of the host are cut off, as the kernel does with them."""
    return settings.networks(name, [_without_host_bits(name, each) for each in _numbered(name, value)])


def _without_host_bits(name: str, item: str) -> str:
    if item == "*":
        return item
    if not _PREFIX.fullmatch(item):
        raise CaptureError(name, item, 'is no network such as "10.0.0.0/8"')
    try:
        network = ip_network(item, strict=False)
    except ValueError:
        return item  # refused where networks are read, with the reason
    return item if "%" in item else str(network)


def _interface_names(name: str, value: str) -> tuple[str, ...]:
    """Return names of interfaces; one that ends in ``+`` (iptables') or ``*`` stands for all that begin so."""
    items = [f"{each[:-1]}*" if each.endswith("+") else each for each in _items(name, value) if each]
    if name == EXCLUDE_INTERFACES:
        return settings.interfaces(name, [each for each in items if each != "lo"])
    return settings.interfaces(name, items)


READERS: Mapping[str, Callable[[str, str], object]] = {
    BYPASS_INBOUND: _boolean,
    DNS_CAPTURE: _boolean,
    VIRTUAL_INTERFACES: _interface_names,
    EXCLUDE_INTERFACES: _interface_names,
    **dict.fromkeys((INCLUDE_OUT_PORTS, EXCLUDE_OUT_PORTS, INCLUDE_IN_PORTS, EXCLUDE_IN_PORTS), _ports),
    **dict.fromkeys((INCLUDE_OUT_RANGES, EXCLUDE_OUT_RANGES, INCLUDE_IN_RANGES, EXCLUDE_IN_RANGES), _networks),
}
_EXCLUDING = {
    EXCLUDE_OUT_PORTS: "outbound",
    EXCLUDE_OUT_RANGES: "outbound",
    EXCLUDE_IN_PORTS: "inbound",
    EXCLUDE_IN_RANGES: "inbound",
}
_INSTEAD = {
    "inbound": f'write {BYPASS_INBOUND}: "true" if that is meant',
    "outbound": f'write {INCLUDE_OUT_RANGES}: "" if that is meant',
}


def _switches(reading: _Reading) -> None:
    if BYPASS_INBOUND in reading.values and reading.defaults.inbound:
        reading.put("ingress", reading.values[BYPASS_INBOUND], BYPASS_INBOUND)
    if DNS_CAPTURE in reading.values:
        reading.put("dns", reading.values[DNS_CAPTURE], DNS_CAPTURE)


def _interfaces(reading: _Reading) -> None:
    for setting, name in (("virtual_interfaces", VIRTUAL_INTERFACES), ("exclude_interfaces", EXCLUDE_INTERFACES)):
        if name in reading.values:
            reading.put(setting, reading.values[name], name)


def _inbound(reading: _Reading) -> None:
    values = reading.values
    for name, setting in ((INCLUDE_IN_PORTS, "include_inbound_ports"), (INCLUDE_IN_RANGES, "include_inbound_networks")):
        if name not in values:
            continue
        if values[name]:
            reading.put(setting, values[name], name)
        elif reading.defaults.inbound:
            # Inbound stays on, for what comes through the mesh: only the redirect of everything else goes.
            reading.put("ingress", True, name)
    if EXCLUDE_IN_RANGES in values:
        reading.put("exclude_inbound_networks", values[EXCLUDE_IN_RANGES], EXCLUDE_IN_RANGES)
    if EXCLUDE_IN_PORTS not in values:
        return
    if values.get(INCLUDE_IN_PORTS, ALL_PORTS) == ALL_PORTS:
        reading.put("exclude_inbound_ports", values[EXCLUDE_IN_PORTS], EXCLUDE_IN_PORTS)
    elif values[EXCLUDE_IN_PORTS]:
        reading.notes.append(f"{EXCLUDE_IN_PORTS} has no effect: {INCLUDE_IN_PORTS} names the ports that are captured")


def _outbound(reading: _Reading) -> None:
    values = reading.values
    excluded = {"exclude_outbound_ports": EXCLUDE_OUT_PORTS, "exclude_outbound_networks": EXCLUDE_OUT_RANGES}
    for setting, name in excluded.items():
        if name in values:
            reading.put(setting, values[name], name)
    ports = values.get(INCLUDE_OUT_PORTS) or ()
    networks = values.get(INCLUDE_OUT_RANGES, reading.defaults.include_outbound_networks)
    _refuse_loopback(networks if INCLUDE_OUT_RANGES in values else ())
    if networks == () and not ports:
        if reading.defaults.outbound:
            reading.put("outbound", False, INCLUDE_OUT_RANGES)
    elif networks == () or ports == ALL_PORTS:
        reading.put("include_outbound_networks", ALL_NETWORKS, INCLUDE_OUT_PORTS)
        reading.put("include_outbound_ports", ports, INCLUDE_OUT_PORTS)
    elif not ports or networks == ALL_NETWORKS:
        reading.put("include_outbound_networks", networks, INCLUDE_OUT_RANGES)
        if ports:
            default = "is" if INCLUDE_OUT_RANGES in values else "is not set, and so"
            reading.notes.append(
                f'{INCLUDE_OUT_PORTS} adds nothing: {INCLUDE_OUT_RANGES} {default} "*"; with "" only these ports'
                " would be captured"
            )
    else:
        given = ",".join(map(str, ports)) if isinstance(ports, tuple) else ports
        raise CaptureError(
            INCLUDE_OUT_PORTS,
            given,
            f'means these ports of every address as well as {INCLUDE_OUT_RANGES}, and Weir can\'t capture "either":'
            " write one of the two",
        )


def _refuse_loopback(networks: object) -> None:
    for each in networks if isinstance(networks, tuple) else ():
        for loopback in _LOOPBACK:
            if _lies_in(each, loopback):
                raise CaptureError(INCLUDE_OUT_RANGES, str(each), "is loopback, which is never captured")


def _lies_in(network: Network, other: Network) -> bool:
    match network, other:
        case (IPv4Network(), IPv4Network()) | (IPv6Network(), IPv6Network()):
            return network.subnet_of(other)  # type: ignore[arg-type]
        case _:
            return False


def _dns(reading: _Reading) -> None:
    """Turn DNS off where Istio's rules would not redirect it, unless the pod asks for it: then that can't be meant."""
    if not reading.get("dns"):
        return
    excluded = reading.values.get(EXCLUDE_OUT_PORTS, ())
    no_port = isinstance(excluded, tuple) and any(each.first <= _DNS_PORT <= each.last for each in excluded)
    if reading.get("outbound") and not no_port:
        return
    name = EXCLUDE_OUT_PORTS if no_port else INCLUDE_OUT_RANGES
    why = "holds 53" if no_port else "is empty"
    if name not in reading.values:
        return
    if DNS_CAPTURE in reading.values:
        raise CaptureError(DNS_CAPTURE, "true", f"contradicts {name}, which {why}")
    reading.put("dns", False, name)
    reading.notes.append(f"DNS is not captured: {name} {why}")


def _mistyped(annotations: Mapping[str, str]) -> list[str]:
    found: list[str] = []
    for name in annotations:
        if name not in READERS and name != REDIRECTION and name.startswith((TRAFFIC, "ambient.istio.io/", "istio.io/")):
            nearest = difflib.get_close_matches(name, READERS, n=1, cutoff=0.92)
            found += [f"{settings.shown(name)} is not read: did you mean {nearest[0]}?"] if nearest else []
    return found


def _of_annotation(error: CaptureError, annotations: Mapping[str, str], reading: _Reading) -> CaptureError:
    """Return an error of the capture as one of the annotation that leads to it, or as it is: of the defaults."""
    way = "inbound" if "inbound" in error.setting or error.setting == "ingress" else "outbound"
    related = (error.setting, f"exclude_{way}_ports", f"exclude_{way}_networks", way)
    for setting in related:
        name = reading.origin.get(setting)
        if name is not None and name in annotations:
            reason, semicolon, _ = error.reason.partition("; turn off")
            return CaptureError(name, annotations[name], f"{reason}; {_INSTEAD[way]}" if semicolon else error.reason)
    return error
