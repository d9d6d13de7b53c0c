"""What is kept of a pod and of a namespace: read from the API's JSON, or refused with the field's name.

Everything else of them is dropped: a node's pods are held in memory for as long as the agent runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from ipaddress import IPv6Address, ip_address

from agent.sources.kubernetes.ports import probe_ports
from rulesets.settings import shown
from rulesets.vocabulary import Address

DATAPLANE_MODE = "istio.io/dataplane-mode"
SIDECAR_STATUS = "sidecar.istio.io/status"
REDIRECTION = "ambient.istio.io/redirection"
# The kubelet's mark of a pod that stands for a static one: the uid that this has on its node, and in its cgroup.
MIRROR = "kubernetes.io/config.mirror"

# Annotations are kept by prefix. What others write into a pod may be large, and says nothing of its traffic.
_KEPT = ("ambient.istio.io/", "istio.io/", "sidecar.istio.io/", "traffic.sidecar.istio.io/", MIRROR)
_NOTHING: Mapping[str, str] = {}


class FieldError(ValueError):
    """A field that is not as the API writes it: its `path`, such as ``spec.hostNetwork``, `value` and `reason`."""

    def __init__(self, path: str, value: object, reason: str) -> None:
        super().__init__(f"{path} = {shown(value)}: {reason}")
        self.path = path
        self.value = value
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """A namespace's name and labels."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """What decides about a pod's capture. `addresses` are empty until the API knows some, IPv4 ones never mapped.

    Of the annotations only Istio's are kept, and the kubelet's mark of a static pod. `service_account` is what the
    proxy needs for the pod's identity. `runtime_class` is a RuntimeClass's name, empty for the node's usual runtime.
    `started` is when the kubelet took it up, in seconds since the epoch; None: not yet.
    `probe_ports` are those that the node connects to for probes and lifecycle hooks; None is any, for all one can tell.
    """

    namespace: str
    name: str
    uid: str = ""
    service_account: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    host_network: bool = False
    runtime_class: str = ""
    phase: str = ""
    started: float | None = None
    addresses: tuple[Address, ...] = ()
    probe_ports: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return f"pod/{self.namespace}/{self.name}"


def pod_of(document: object) -> Pod:
    """Return what is needed of a pod of the API. Raises `FieldError`."""
    whole = mapping("the pod", document)
    metadata = mapping("metadata", whole.get("metadata"))
    status = mapping("status", whole.get("status"))
    pod = pod_of_template(
        _name("metadata.namespace", metadata.get("namespace")), _name("metadata.name", metadata.get("name")), whole
    )
    return replace(
        pod,
        uid=_name("metadata.uid", metadata.get("uid")),
        phase=text("status.phase", status.get("phase")),
        started=_time("status.startTime", status.get("startTime")),
        addresses=_addresses(status),
    )


def namespace_of(document: object) -> Namespace:
    """Return what is needed of a namespace of the API. Raises `FieldError`."""
    metadata = mapping("metadata", mapping("the namespace", document).get("metadata"))
    return Namespace(
        name=_name("metadata.name", metadata.get("name")), labels=texts("metadata.labels", metadata.get("labels"))
    )


def pod_of_template(namespace: str, name: str, template: Mapping[str, object], under: str = "") -> Pod:
    """Return what is known of the pods that a template makes, before there is one. Raises `FieldError`.

    `under` is where the template stands, such as ``spec.template.``.
    """
    metadata = mapping(f"{under}metadata", template.get("metadata"))
    spec = mapping(f"{under}spec", template.get("spec"))
    annotations = texts(f"{under}metadata.annotations", metadata.get("annotations"))
    return Pod(
        namespace=namespace,
        name=name,
        service_account=text(f"{under}spec.serviceAccountName", spec.get("serviceAccountName")),
        labels=texts(f"{under}metadata.labels", metadata.get("labels")),
        annotations={key: each for key, each in annotations.items() if key.startswith(_KEPT)} or _NOTHING,
        host_network=_flag(f"{under}spec.hostNetwork", spec.get("hostNetwork")),
        runtime_class=text(f"{under}spec.runtimeClassName", spec.get("runtimeClassName")),
        probe_ports=probe_ports(spec),
    )


def text(path: str, value: object) -> str:
    """Return a text; nothing there is an empty one. Raises `FieldError`."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise FieldError(path, value, "wants a text: quote it")
    return value


def texts(path: str, value: object) -> Mapping[str, str]:
    """Return labels or annotations. Raises `FieldError` for a value that is no text, as the API would refuse it."""
    found = mapping(path, value)
    for key, each in found.items():
        if each is not None and not isinstance(each, str):
            raise FieldError(f"{path}[{key!r}]", each, "wants a text: quote it")
    return {key: each if isinstance(each, str) else "" for key, each in found.items()} or _NOTHING


def mapping(path: str, value: object) -> Mapping[str, object]:
    """Return an object's fields; nothing there is none. Raises `FieldError`."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise FieldError(path, value, "wants fields by their names")
    return value


def _name(path: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise FieldError(path, value, "is missing" if value in (None, "") else "wants a text")
    return value


def _flag(path: str, value: object) -> bool:
    if value is None:
        return False
    if not isinstance(value, bool):
        raise FieldError(path, value, "wants true or false")
    return value


def _time(path: str, value: object) -> float | None:
    written = text(path, value)
    if not written:
        return None
    try:
        return datetime.fromisoformat(written).timestamp()
    except ValueError:
        raise FieldError(path, written, "is no time (RFC 3339)") from None


def _addresses(status: Mapping[str, object]) -> tuple[Address, ...]:
    """Return the pod's addresses: `podIPs`, and `podIP` where an old API server writes only that."""
    several, one = status.get("podIPs"), text("status.podIP", status.get("podIP"))
    if several is None or several == []:
        return (_address("status.podIP", one),) if one else ()
    if not isinstance(several, list):
        raise FieldError("status.podIPs", several, "wants a list")
    found: list[Address] = []
    for number, each in enumerate(several):
        path = f"status.podIPs[{number}]"
        written = text(f"{path}.ip", mapping(path, each).get("ip"))
        if written:
            found.append(_address(f"{path}.ip", written))
    return tuple(dict.fromkeys(found))


def _address(path: str, written: str) -> Address:
    try:
        address = ip_address(written)
    except ValueError:
        raise FieldError(path, written, "is not an IPv4 or IPv6 address") from None
    if isinstance(address, IPv6Address) and address.scope_id:
        raise FieldError(path, written, "names an interface (%), which no pod's address does")
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address
