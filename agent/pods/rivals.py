"""Other agents that capture pods of this node, and pods that need one: seen before anything is changed.

Two agents on one node would undo each other's rules, and a proxy listens to one of them. Sidecars can live beside Weir,
but those whose redirection Istio's CNI plugin makes need that plugin: Weir doesn't offer it.
"""

import errno
import json
import socket
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from agent.cni import kubeconfig
from agent.cni.configurations import configurations, refuse_istio
from agent.cni.conflist import PLUGIN
from agent.errors import ConfigError, WeirError
from agent.sources.kubernetes.facts import SIDECAR_STATUS, Pod

# manifests/charts/istio-cni/templates/daemonset.yaml of Istio. Weir's own pods have the first as well, for istioctl and
# istiod's untaint controller look for it; the second tells them apart.
_NODE_AGENT = ("k8s-app", "istio-cni-node")
_NAME = "app.kubernetes.io/name"
_OWN_NAME = "weir"
# Where the plugin makes the redirection, the injected init container only looks whether it is there
# (manifests/charts/istio-control/istio-discovery/files/injection-template.yaml).
_VALIDATION = "istio-validation"
_ENDED = frozenset({"Succeeded", "Failed"})
SYSTEM = frozenset({"kube-system", "istio-system"})
"""Namespaces of the cluster's operators, beside the agent's own and the proxy's."""
_MOST_NAMED, _MOST_ELSEWHERE = 5, 100
_HINT = "let istio-init make it (pilot.cni.enabled=false, then restart those pods), or move them into ambient mode"


class Api(Protocol):
    """What is asked of the API: `agent.sources.kubernetes.api.Api`."""

    async def sidecars_elsewhere(self, most: int) -> tuple[Pod, ...]:
        """Return pods of the whole cluster that have a sidecar, so many at most. Raises `WeirError`."""


def refuse_sockets(*, zds: Path, cni: Path, istio: Path | None = None, inherited: bool = False) -> None:
    """Raise `ConfigError` where another process has one of the sockets: the proxies', the plugin's, Istio's plugin's.

    `inherited`: the proxies' socket was handed over to this process, which then is the one that listens. Nobody is
    connected to, for an agent would take that for a proxy.
    """
    wanted = [(cni, "CNI plugin"), *([(istio, "Istio's CNI plugin")] if istio else [])]
    if not inherited:
        wanted.insert(0, (zds, "proxies"))
    for path, whose in wanted:
        if is_taken(path):
            raise ConfigError(
                f"{path}: another process listens on the socket of the node's {whose}",
                hint="a node has one such agent: take the other (Istio's istio-cni-node, or another Weir) off it first;"
                " `ss -xlp` names the process",
            )


def is_taken(path: Path) -> bool:
    """Tell whether a socket at a path is some process's, without that process noticing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(str(path))
        except OSError as error:
            # net/unix/af_unix.c, unix_find_bsd: a socket of another type is there. Nobody's: ECONNREFUSED.
            return error.errno == errno.EPROTOTYPE
    return True


def refuse_configurations(folder: Path) -> None:
    """Raise `ConfigError` where Istio's plugin stands in the node's network configuration."""
    if folder.is_dir():  # what isn't there, the installer says
        refuse_istio(configurations(folder))


def is_new(run_directory: Path, conf_directory: Path) -> bool:
    """Tell whether Weir's plugin has not been on this node yet. Raises `ConfigError`.

    The run directory is empty after each boot; the node's network configuration still has the entry then.
    """
    if (run_directory / kubeconfig.NAME).exists():
        return False
    return not conf_directory.is_dir() or not any(PLUGIN in each.types for each in configurations(conf_directory))


def refuse_pods(pods: Iterable[Pod], *, first: bool, trusted: Container[str]) -> tuple[str, ...]:
    """Raise `ConfigError` where a pod of this node is another agent's, or is redirected by Istio's plugin.

    Labels say whose agent a pod is, and whoever may make pods may give them any: only those in `trusted` namespaces
    count, in which no tenant makes pods. `first`: Weir is not on this node yet. Only then, and only for sidecars that
    run, pods that need that plugin are refused: they show that it was here. Others are returned as warnings, for an
    agent that doesn't start for one pod would keep all others of the node from starting, or let them start outside.
    """
    here = [each for each in pods if each.phase not in _ENDED]
    agents = [each for each in here if is_other_agent(each)]
    known = [each for each in agents if each.namespace in trusted]
    if known:
        raise ConfigError(
            f"{_named(known)}: Istio's CNI agent runs on this node, and two agents would capture the same pods",
            hint="take it off this node first: delete its DaemonSet, or let a node selector leave this node out",
        )
    sidecars = [each for each in here if needs_istio_cni(each)]
    running = [each for each in sidecars if each.phase == "Running"]
    if first and running:
        raise ConfigError(_said(running), hint=_HINT)
    warnings = [_unproven(agents)] if agents else []
    return (*warnings, f"{_said(sidecars)}: {_HINT}") if sidecars else tuple(warnings)


async def warnings_elsewhere(api: Api, here: Container[str]) -> tuple[str, ...]:
    """Return what to warn of on other nodes: pods that would not start here. `here` are the uids of this node's pods.

    Nodes can be moved from Istio's agent to Weir one by one, so that such pods elsewhere are no reason not to start.
    """
    try:
        found = await api.sidecars_elsewhere(_MOST_ELSEWHERE)
    except WeirError as error:
        return (f"whether the cluster has sidecars that need istio-cni can't be told: {error}",)
    sidecars = [each for each in found if each.uid not in here and each.phase not in _ENDED and needs_istio_cni(each)]
    return (f"{_said(sidecars)}; keep them off nodes that have Weir, or: {_HINT}",) if sidecars else ()


def is_other_agent(pod: Pod) -> bool:
    """Tell whether a pod is of Istio's CNI agent."""
    key, value = _NODE_AGENT
    return pod.labels.get(key) == value and pod.labels.get(_NAME) != _OWN_NAME


def needs_istio_cni(pod: Pod) -> bool:
    """Tell whether a pod has a sidecar that relies on Istio's plugin, by what its injector has noted."""
    try:
        status = json.loads(pod.annotations.get(SIDECAR_STATUS, "{}"))
    except (ValueError, RecursionError):
        return False
    started = status.get("initContainers") if isinstance(status, dict) else None
    return isinstance(started, list) and _VALIDATION in started


def _said(sidecars: list[Pod]) -> str:
    return (
        f"{_named(sidecars)}: sidecars whose redirection istio-cni makes (init container {_VALIDATION}); without it"
        " such pods don't start, and Weir doesn't offer it"
    )


def _unproven(agents: list[Pod]) -> str:
    return (
        f"{_named(agents)}: labelled as Istio's CNI agent, in a namespace where others than the cluster's operators may"
        " make pods, so that labels prove nothing; take it off this node if it is one: two agents would capture the"
        " same pods"
    )


def _named(pods: list[Pod]) -> str:
    return ", ".join(_some(pods))


def _some(pods: list[Pod]) -> Iterator[str]:
    yield from map(str, pods[:_MOST_NAMED])
    if len(pods) > _MOST_NAMED:
        yield f"and {len(pods) - _MOST_NAMED} more"
