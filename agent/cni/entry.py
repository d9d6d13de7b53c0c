"""The plugin's entry in a conflist: all that it is ever told beforehand."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from agent.cni.conflist import PLUGIN
from agent.errors import ConfigError
from rulesets.settings import shown

_NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_EXEMPT = re.compile(rf"{_NAMESPACE.pattern}/[-.*a-z0-9]{{1,253}}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the plugin is told by its entry.

    `exempt_pods` (NAMESPACE/NAME with * in NAME) are the agent's own and the proxy's: they start whatever happens.
    `fail_open`: namespaces whose pods start where the agent gives no answer. `selectors` are Istio's
    enablementSelectors, read by the function of that name. `timeout`: seconds for the agent's answer. `status_grace`:
    seconds that the agent may be away before STATUS fails and the node is not ready; 0 is for ever, and needed where
    the agent's pod is not on the host's network: the kubelet would not start it again.
    """

    agent_socket: str
    kubeconfig: str
    selectors: tuple[Mapping[str, object], ...]
    exclude_namespaces: tuple[str, ...] = ("kube-system",)
    exempt_pods: tuple[str, ...] = ()
    fail_open: tuple[str, ...] = ()
    timeout: float = 10.0
    status_grace: float = 30.0

    def __post_init__(self) -> None:
        for setting, names, pattern in (
            ("excludeNamespaces", self.exclude_namespaces, _NAMESPACE),
            ("failOpen", self.fail_open, _NAMESPACE),
            ("exemptPods", self.exempt_pods, _EXEMPT),
        ):
            for name in names:
                if not pattern.fullmatch(name):
                    wanted = "NAMESPACE/NAME, with * in NAME" if pattern is _EXEMPT else "the name of a namespace"
                    raise ConfigError(f"{setting} = {shown(name)}: wants {wanted}")
        for setting, path in (("agentSocket", self.agent_socket), ("kubeconfig", self.kubeconfig)):
            if not path.startswith("/"):
                raise ConfigError(f"{setting} = {shown(path)}: wants an absolute path")
        if not 0.1 <= self.timeout <= 60:
            raise ConfigError(f"timeout = {self.timeout:g}: is not within 0.1 and 60 seconds")
        if not 0 <= self.status_grace <= 3600:
            raise ConfigError(f"statusGrace = {self.status_grace:g}: is not within 0 and 3600 seconds")

    def document(self) -> dict[str, object]:
        """Return the entry as JSON has it, without what the runtime adds; agent/cni/plugin/main.go reads it."""
        return {
            "type": PLUGIN,
            "agentSocket": self.agent_socket,
            "kubeconfig": self.kubeconfig,
            "selectors": list(self.selectors),
            "excludeNamespaces": list(self.exclude_namespaces),
            "exemptPods": list(self.exempt_pods),
            "failOpen": list(self.fail_open),
            "timeoutMilliseconds": round(self.timeout * 1000),
            "statusGrace": self.status_grace,
        }


def selectors(value: object) -> tuple[Mapping[str, object], ...]:
    """Return Istio's enablementSelectors, `podSelector` and `namespaceSelector` each, as the plugin's entry has them.

    Raises `ConfigError` for what is no label selector: the plugin takes what it is given.
    """
    if not isinstance(value, list | tuple):
        raise ConfigError(f"enablementSelectors = {shown(value)}: wants a list of podSelector and namespaceSelector")
    return tuple(_selector(each) for each in value)


def _selector(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping) or not set(value) <= {"podSelector", "namespaceSelector"}:
        raise ConfigError(f"enablementSelectors: {shown(value)}: wants podSelector and namespaceSelector alone")
    return {
        "pod": _requirements(value.get("podSelector") or {}),
        "namespace": _requirements(value.get("namespaceSelector") or {}),
    }


def _requirements(value: object) -> list[Mapping[str, object]]:
    def refused(what: object) -> ConfigError:
        return ConfigError(f"enablementSelectors: {shown(what)}: is no label selector")

    if not isinstance(value, Mapping) or not set(value) <= {"matchLabels", "matchExpressions"}:
        raise refused(value)
    labels, expressions = value.get("matchLabels") or {}, value.get("matchExpressions") or []
    if not isinstance(labels, Mapping) or not isinstance(expressions, list | tuple):
        raise refused(value)
    wanted = [{"key": key, "operator": "In", "values": [text]} for key, text in labels.items()]
    for each in (*wanted, *expressions):
        match each:
            case {"key": str(key), "operator": "In" | "NotIn", "values": [_, *_] as values} if key:
                good = all(isinstance(text, str) for text in values)
            case {"key": str(key), "operator": "Exists" | "DoesNotExist", **rest} if key:
                good = not rest.get("values")
            case _:
                good = False
        if not good:
            raise refused(each)
    return [*wanted, *expressions]
