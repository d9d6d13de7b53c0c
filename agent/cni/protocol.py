"""What the plugin asks and what it is told: outside text in, typed values out, or a `RequestError` that says why not.

Weir's own plugin sends a JSON object to ``POST /v1/cni/VERB``, with these keys; unknown ones are ignored, so that
plugin and agent of two versions get on:

    add, check, del   container, interface, netns, namespace, pod, uid (may be empty), addresses ["10.0.0.2/24", ...]
    gc                cni.dev/valid-attachments [{"containerID": ..., "ifname": ...}, ...]: what the runtime still has
    status            nothing

Istio's plugin sends ``POST /cmdadd``, a Go struct without tags: Netns, PodName, PodNamespace, and IPs, a list or null,
each with the address as text in Address.IP (istio cni/pkg/plugin/cnieventclient.go).
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Address, ip_address, ip_interface
from pathlib import PurePosixPath

from rulesets.settings import shown
from rulesets.vocabulary import Address

MOST_BYTES = 1 << 20  # of a request; a garbage collection names every sandbox of the node
_MOST_ADDRESSES = 64
_MOST_ATTACHMENTS = 4096
_LONGEST_PATH = 4096  # PATH_MAX
_KEPT = "cni.dev/valid-attachments"  # CNI specification, GC

# Names as Kubernetes validates them; what is not spelt so is never looked up, and never printed unquoted.
_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_UID = re.compile(r"[0-9A-Za-z][-0-9A-Za-z]{0,127}", re.ASCII)  # a static pod's is a digest
_CONTAINER = re.compile(r"[0-9A-Za-z][-._0-9A-Za-z]{0,255}", re.ASCII)  # CNI specification, CNI_CONTAINERID
_INTERFACE = re.compile(r"[^\s/:]{1,15}", re.ASCII)


class RequestError(ValueError):
    """A request that can't be used: the key and its value as they came, and the reason in words."""

    def __init__(self, key: str, value: object, reason: str) -> None:
        """Say which key has which value, and why that won't do."""
        super().__init__(f"{key} = {shown(value)}: {reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """One pod's sandbox as its runtime names it. The agent hasn't looked at anything yet.

    `netns` is a path in the runtime's mount namespace and may hold anything, the node's namespace too; empty only where
    the runtime deletes what is gone. `uid` and `container` are empty where nobody said (Istio's plugin never does).
    """

    namespace: str
    pod: str
    uid: str = ""
    container: str = ""
    interface: str = ""
    netns: str = ""
    addresses: tuple[Address, ...] = ()

    def __str__(self) -> str:
        return f"pod {self.namespace}/{self.pod}"


@dataclass(frozen=True, slots=True)
class Attachment:
    """A container and the name of its interface: what a runtime still has."""

    container: str
    interface: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Add:
    """A pod waits to be started until this is answered."""

    sandbox: Sandbox
    from_istio: bool = False

    def __str__(self) -> str:
        return f"add {self.sandbox}{' (asked by istio-cni)' if self.from_istio else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """A sandbox goes, or has gone; perhaps one that was never added, and perhaps not for the first time.

    The runtime waits for an answer whatever it is: give it at once, and let the work go on behind it.
    """

    sandbox: Sandbox

    def __str__(self) -> str:
        return f"del {self.sandbox}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A runtime wants to know whether a running pod's network is as it was made."""

    sandbox: Sandbox

    def __str__(self) -> str:
        return f"check {self.sandbox}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Collect:
    """A runtime says what it still has: whatever the agent keeps for others can go."""

    kept: frozenset[Attachment]

    def __str__(self) -> str:
        return f"gc with {len(self.kept)} attachments left"


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A runtime wants to know whether an ADD would work.

    The proxy must not count: it is a pod itself, and the kubelet starts none where the network says it isn't ready.
    """

    def __str__(self) -> str:
        return "status"


Request = Add | Delete | Check | Collect | Status


class Verdict(StrEnum):
    """What the agent says to a request."""

    CAPTURED = "captured"  # the pod is captured by now
    OUTSIDE = "outside"  # the pod is not Weir's business
    DONE = "done"  # to what is no question about a pod's capture
    REFUSED = "refused"  # the pod must not start, or isn't as it should be, or an ADD would fail
    UNKNOWN = "unknown"  # the agent can't tell (not yet): the plugin asks the API itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the agent says, with the reason in words; where it says no, `hint` says what to do."""

    verdict: Verdict
    reason: str = ""
    hint: str = ""

    @property
    def good(self) -> bool:
        """Whether the runtime may go on."""
        return self.verdict not in (Verdict.REFUSED, Verdict.UNKNOWN)


VERBS = ("add", "check", "del", "gc", "status")


def parse(verb: str, body: bytes) -> Request:
    """Return what Weir's plugin asks with one of `VERBS`. Raises `RequestError`."""
    document = _document(body)
    match verb:
        case "add":
            return Add(sandbox=_sandbox(document))
        case "check":
            return Check(sandbox=_sandbox(document))
        case "del":
            return Delete(sandbox=_sandbox(document, netns_needed=False))
        case "gc":
            if _KEPT not in document:
                raise RequestError(_KEPT, None, "is missing: that nothing is left has to be said")
            listed = _items(document, _KEPT, _MOST_ATTACHMENTS)
            return Collect(kept=frozenset(_attachment(each) for each in listed))
        case "status":
            return Status()
        case _:
            raise RequestError("verb", verb, f"wants one of {', '.join(VERBS)}")


def parse_istio(body: bytes) -> Add:
    """Return what Istio's plugin asks with ``POST /cmdadd``. Raises `RequestError`."""
    document = _document(body)
    sandbox = Sandbox(
        namespace=_matching(document, "PodNamespace", _LABEL, 63),
        pod=_matching(document, "PodName", _SUBDOMAIN, 253),
        netns=_netns(document, "Netns", needed=True),
        addresses=tuple(_istio_address(each) for each in _items(document, "IPs", _MOST_ADDRESSES)),
    )
    return Add(sandbox=sandbox, from_istio=True)


def _document(body: bytes) -> Mapping[str, object]:
    if len(body) > MOST_BYTES:
        raise RequestError("request", f"{len(body)} bytes", f"is longer than {MOST_BYTES}")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise RequestError("request", body[:60], f"is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise RequestError("request", document, "wants a JSON object")
    return document


def _sandbox(document: Mapping[str, object], *, netns_needed: bool = True) -> Sandbox:
    return Sandbox(
        namespace=_matching(document, "namespace", _LABEL, 63),
        pod=_matching(document, "pod", _SUBDOMAIN, 253),
        uid=_matching(document, "uid", _UID, 128, needed=False),
        container=_matching(document, "container", _CONTAINER, 256),
        interface=_matching(document, "interface", _INTERFACE, 15),
        netns=_netns(document, "netns", needed=netns_needed),
        addresses=tuple(_network_address(each) for each in _items(document, "addresses", _MOST_ADDRESSES)),
    )


def _attachment(value: object) -> Attachment:
    if not isinstance(value, dict):
        raise RequestError(_KEPT, value, "wants objects with containerID and ifname")
    return Attachment(
        container=_matching(value, "containerID", _CONTAINER, 256), interface=_matching(value, "ifname", _INTERFACE, 15)
    )


def _text(document: Mapping[str, object], key: str) -> str:
    value = document.get(key, "")
    if not isinstance(value, str):
        raise RequestError(key, value, "wants a text")
    return value


def _matching(
    document: Mapping[str, object], key: str, pattern: re.Pattern[str], longest: int, *, needed: bool = True
) -> str:
    value = _text(document, key)
    if not value and not needed:
        return ""
    if len(value) > longest or not pattern.fullmatch(value):
        raise RequestError(key, value, "is missing" if not value else "is no such name")
    return value


def _netns(document: Mapping[str, object], key: str, *, needed: bool) -> str:
    value = _text(document, key)
    if not value and not needed:
        return ""
    if not value.startswith("/") or len(value) > _LONGEST_PATH or not value.isprintable():
        raise RequestError(key, value, "wants an absolute path")
    if ".." in PurePosixPath(value).parts:
        raise RequestError(key, value, "has a .. in it: write where it leads")
    return value


def _items(document: Mapping[str, object], key: str, most: int) -> list[object]:
    """Return a list, empty where there is none or null (Go's empty slice)."""
    value = document.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise RequestError(key, value, "wants a list")
    if len(value) > most:
        raise RequestError(key, f"{len(value)} items", f"are more than {most}")
    return value


def _network_address(value: object) -> Address:
    return _address("addresses", value, lambda text: ip_interface(text).ip)


def _istio_address(value: object) -> Address:
    address = value.get("Address") if isinstance(value, dict) else None
    if not isinstance(address, dict):
        raise RequestError("IPs", value, "wants objects with Address")
    return _address("IPs", address.get("IP"), ip_address)


def _address(key: str, value: object, read: Callable[[str], Address]) -> Address:
    text = value if isinstance(value, str) else ""
    try:
        address = read(text)
    except ValueError:
        raise RequestError(key, value, "is not an IPv4 or IPv6 address") from None
    if "%" in text:
        raise RequestError(key, value, "names an interface (%), which a pod's address doesn't")
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    if address.is_unspecified or address.is_loopback or address.is_multicast:
        raise RequestError(key, value, "is no address that a pod could have")
    return address
