"""Which ports of a pod the node itself connects to: those that its probes and lifecycle hooks name.

They are read as the kubelet reads them (pkg/kubelet/prober and pkg/kubelet/lifecycle of Kubernetes): a name is looked
up among the ports of the same container, and may be a number written as a text.
"""

import re
from collections.abc import Iterator, Mapping

_PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
_HOOKS = ("postStart", "preStop")
_CONTAINERS = ("initContainers", "containers")  # a sidecar is an init container that goes on, and may have probes
_BY_NETWORK = ("httpGet", "tcpSocket", "grpc")
_OTHERWISE = frozenset(("exec", "sleep"))  # by the container runtime, or not at all
# What a probe has beside its way of asking.
_TIMING = frozenset(
    "initialDelaySeconds timeoutSeconds periodSeconds successThreshold failureThreshold"
    " terminationGracePeriodSeconds".split()
)


class _Unresolved(Exception):
    """The node may connect to some port, and this doesn't know which."""


def probe_ports(spec: Mapping[str, object]) -> tuple[int, ...] | None:
    """Return the TCP ports that a pod's probes and lifecycle hooks name, in order; none if nothing asks by network.

    None where they can't be told: a port that no name leads to, a way of asking that is not known, no containers.
    """
    try:
        return tuple(sorted({port for each in _containers(spec) for port in _ports_of(each)}))
    except _Unresolved:
        return None


def _containers(spec: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    if not spec.get("containers"):
        raise _Unresolved
    for kind in _CONTAINERS:
        for each in _list(spec.get(kind)):
            yield _fields(each)


def _ports_of(container: Mapping[str, object]) -> Iterator[int]:
    hooks = _fields(container.get("lifecycle"))
    asked = [_fields(container.get(name)) for name in _PROBES] + [_fields(hooks.get(name)) for name in _HOOKS]
    for each in asked:
        if set(each) - _TIMING - _OTHERWISE - set(_BY_NETWORK):
            raise _Unresolved
        for way in _BY_NETWORK:
            if each.get(way) is not None:
                yield _port(_fields(each[way]).get("port"), container)


def _port(written: object, container: Mapping[str, object]) -> int:
    """Return the number of a port that is written as one, or as the name of a port of the container."""
    if isinstance(written, str):
        named = [_fields(each) for each in _list(container.get("ports"))]
        number = next((each.get("containerPort") for each in named if each.get("name") == written), None)
        written = int(written) if number is None and re.fullmatch(r"[0-9]{1,5}", written) else number
    if not isinstance(written, int) or isinstance(written, bool) or not 0 < written < 65536:
        raise _Unresolved
    return written


def _list(value: object) -> list[object]:
    if value is not None and not isinstance(value, list):
        raise _Unresolved
    return value or []


def _fields(value: object) -> Mapping[str, object]:
    if value is not None and not isinstance(value, Mapping):
        raise _Unresolved
    return value or {}
