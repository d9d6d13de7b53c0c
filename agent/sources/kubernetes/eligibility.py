"""Whether a pod is to be captured, and what decided: the labels, the selectors, or what the pod is.

Pure: the same pod, namespace and policy give the same decision, whoever asks. The informer, the answer to the CNI
plugin and `weir render -f` ask here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from agent.sources.kubernetes.facts import DATAPLANE_MODE, SIDECAR_STATUS, Namespace, Pod
from agent.sources.kubernetes.selectors import DEFAULT_ENABLEMENT, Enablement

FINISHED = ("Succeeded", "Failed")


class Enrolment(StrEnum):
    """What a pod is to be."""

    ENROLLED = "enrolled"
    WAITING = "waiting"
    OUTSIDE = "outside"
    UNKNOWN = "unknown"


class Because(StrEnum):
    """What decided, as a word for metrics and Events."""

    SELECTED = "selected"
    NOT_SELECTED = "not-selected"
    OPTED_OUT = "opted-out"
    HOST_NETWORK = "host-network"
    SIDECAR = "sidecar"
    EXCLUDED_NAMESPACE = "excluded-namespace"
    PROXY = "proxy"
    FINISHED = "finished"
    NO_ADDRESS = "no-address"
    NO_NAMESPACE = "no-namespace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a cluster has decided for all pods.

    `proxy_namespace` is where the node proxies run; their pods carry the label ``app=ztunnel``.
    """

    enablement: tuple[Enablement, ...] = DEFAULT_ENABLEMENT
    excluded_namespaces: tuple[str, ...] = ("kube-system",)
    proxy_namespace: str = "istio-system"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a pod is to be, what decided, and the same in words."""

    enrolment: Enrolment
    because: Because
    reason: str

    @property
    def wanted(self) -> bool:
        """Whether the pod is to be captured, at once or as soon as it has an address."""
        return self.enrolment in (Enrolment.ENROLLED, Enrolment.WAITING)


def decide(pod: Pod, namespace: Namespace | None, policy: Policy) -> Decision:
    """Return what a pod is to be.

    `namespace` None: nobody knows its labels yet. The decision is then `UNKNOWN` where they matter, which is no reason
    to release a pod. A pod without an address is `WAITING`: the CNI request knows one before the API does, and asks
    with `dataclasses.replace(pod, addresses=...)`. That a pod is captured by now makes no difference, nor does what
    its annotation ``ambient.istio.io/redirection`` says.
    """
    chosen = decide_for_template(pod, namespace, policy)
    if chosen.enrolment is Enrolment.ENROLLED and not pod.addresses:
        return Decision(
            enrolment=Enrolment.WAITING,
            because=Because.NO_ADDRESS,
            reason=f"it has no address yet; {chosen.reason}",
        )
    return chosen


def decide_for_template(pod: Pod, namespace: Namespace | None, policy: Policy) -> Decision:
    """Return what a pod is to be as soon as it has an address: all that can be said of a workload's template."""
    return _never(pod, policy) or _selected(pod, namespace, policy)


def _never(pod: Pod, policy: Policy) -> Decision | None:
    """Return why a pod is outside whatever its labels say."""
    if pod.host_network:
        return _outside(Because.HOST_NETWORK, "spec.hostNetwork is true: it shares the node's network")
    if SIDECAR_STATUS in pod.annotations:
        return _outside(Because.SIDECAR, f"its annotation {SIDECAR_STATUS} says that it has a sidecar of its own")
    if pod.namespace in policy.excluded_namespaces:
        return _outside(Because.EXCLUDED_NAMESPACE, f"the namespace {pod.namespace} is excluded")
    if pod.namespace == policy.proxy_namespace and pod.labels.get("app") == "ztunnel":
        return _outside(Because.PROXY, f"it is the node proxy: label app=ztunnel in {pod.namespace}")
    if pod.phase in FINISHED:
        return _outside(Because.FINISHED, f"it has finished: phase {pod.phase}")
    return None


def _selected(pod: Pod, namespace: Namespace | None, policy: Policy) -> Decision:
    possible: list[Enablement] = []
    for number, each in enumerate(policy.enablement, start=1):
        if not each.pod.holds(pod.labels):
            continue
        if not each.namespace.requirements or (namespace is not None and each.namespace.holds(namespace.labels)):
            return Decision(
                enrolment=Enrolment.ENROLLED, because=Because.SELECTED, reason=f"{each} (selector {number})"
            )
        possible.append(each)
    if namespace is None and possible:
        wanted = " or ".join(dict.fromkeys(str(each.namespace) for each in possible))
        return Decision(
            enrolment=Enrolment.UNKNOWN,
            because=Because.NO_NAMESPACE,
            reason=f"the labels of the namespace {pod.namespace} are not known; it is captured if it has {wanted}",
        )
    return _not_selected(pod, namespace, policy)


def _not_selected(pod: Pod, namespace: Namespace | None, policy: Policy) -> Decision:
    mode = pod.labels.get(DATAPLANE_MODE)
    without = {name: value for name, value in pod.labels.items() if name != DATAPLANE_MODE}
    labels: Mapping[str, str] = namespace.labels if namespace is not None else {}
    if mode is not None and any(e.pod.holds(without) and e.namespace.holds(labels) for e in policy.enablement):
        return _outside(Because.OPTED_OUT, f"its label {DATAPLANE_MODE}={mode} takes it out")
    if not policy.enablement:
        return _outside(Because.NOT_SELECTED, "there is no selector, so nothing is captured")
    if policy.enablement == DEFAULT_ENABLEMENT:
        said = _modes(pod, namespace)
        return _outside(Because.NOT_SELECTED, f"{said}; wanted is {DATAPLANE_MODE}=ambient on either")
    wanted = "; ".join(f"selector {number}: {each}" for number, each in enumerate(policy.enablement, start=1))
    return _outside(Because.NOT_SELECTED, f"no selector holds ({wanted})")


def _modes(pod: Pod, namespace: Namespace | None) -> str:
    """Return what pod and namespace say of the data plane, a mistyped value included."""
    both = (("the pod", pod.labels), ("the namespace", namespace.labels if namespace is not None else {}))
    said = [f"{whose} has {DATAPLANE_MODE}={of[DATAPLANE_MODE]}" for whose, of in both if DATAPLANE_MODE in of]
    return ", ".join(said) or f"neither pod nor namespace has the label {DATAPLANE_MODE}"


def _outside(because: Because, reason: str) -> Decision:
    return Decision(enrolment=Enrolment.OUTSIDE, because=because, reason=reason)
