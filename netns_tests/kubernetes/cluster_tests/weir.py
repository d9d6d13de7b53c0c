"""Weir on the cluster as a user has it: the chart by helm or the manifests by kubectl, with the tests' proxy."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

from netns_tests.kubernetes import node_parts
from netns_tests.kubernetes.cluster import Cluster, Machine
from netns_tests.kubernetes.cluster_tests.webs import DAEMON_SETS, process, until_ready
from netns_tests.kubernetes.programs import program
from netns_tests.patience import slow
from netns_tests.world import eventually
from tests import charts

__all__ = ["AWAY", "PROXY", "SYSTEM", "Done", "Weir", "told"]

SYSTEM = charts.NAMESPACE
AWAY = "weir-tests/agent"  # a node that has this label gets no agent
PROXY = "ztunnel"
_DRAIN = 60  # seconds that the streams of a proxy have to end in; without any it ends at once
_OPTIONS = f"--socket=/zds/ztunnel.sock --ready=/tmp/ready --longest-wait=0.5 --drain={_DRAIN}"
_COMMAND = f"python3 -m netns_tests.mesh_proxy {_OPTIONS}"
_TOLD = f"for each in /var/log/pods/{SYSTEM}_{PROXY}-*/proxy/*.log; do cat $each; echo; done"
_NOT_AWAY = {"matchExpressions": [{"key": AWAY, "operator": "DoesNotExist"}]}
_AFFINITY = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [_NOT_AWAY]}}}

Done = subprocess.CompletedProcess[str]


class Weir:
    """Weir and a proxy for it, installed and taken away by the commands that the documentation names."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._api = cluster.api
        self._environment = {**os.environ, "HOME": str(cluster.api.directory), "KUBECTL": str(program("kubectl"))}
        self._kubeconfig = f"--kubeconfig={cluster.api.kubeconfig}"
        self.installed = False

    def install(self) -> None:
        """Install the chart, and the proxy; return when both are Ready everywhere."""
        if not self._exists(f"/api/v1/namespaces/{SYSTEM}"):
            self._api.ask("POST", "/api/v1/namespaces", {"metadata": {"name": SYSTEM}})
        self.helm("install", "weir", str(charts.CHART), "--set-json", f"affinity={json.dumps(_AFFINITY)}")
        self.installed = True
        self._until_ready()

    def uninstall(self) -> None:
        """Take the chart away as its notes say, and then the proxy."""
        self.helm("uninstall", "weir", "--wait")
        self.installed = False
        self.remove_proxy()

    def apply(self) -> None:
        """Install by the plain manifests."""
        self.kubectl("apply", "--filename", str(charts.MANIFESTS))
        self._until_ready()

    def helm(self, *arguments: str) -> None:
        """Run helm."""
        self._ran([str(program("helm")), *arguments, "--namespace", SYSTEM, self._kubeconfig])

    def kubectl(self, *arguments: str) -> str:
        """Run kubectl; return what it prints."""
        return self._ran([str(program("kubectl")), self._kubeconfig, *arguments]).stdout

    def plugin(self, *arguments: str) -> Done:
        """Run kubectl's plugin, with whatever outcome."""
        return self._run([str(charts.ROOT / "deploy/kubectl-weir"), self._kubeconfig, *arguments])

    def update(self, *names: str) -> Callable[[], None]:
        """Have every pod of some DaemonSets replaced, node by node; what this returns waits until it is done."""
        where = DAEMON_SETS.format(SYSTEM)
        found = {each: int(self._api.ask("GET", f"{where}/{each}")["metadata"]["generation"]) for each in names}
        self.kubectl("rollout", "restart", "--namespace", SYSTEM, *(f"daemonset/{each}" for each in names))

        def until_done() -> None:
            for name, generation in found.items():
                until_ready(self._api, SYSTEM, name, len(self._cluster.nodes), generation + 1)

        return until_done

    def leaving(self, name: str) -> bool:
        """Tell whether a pod of a DaemonSet is about to end."""
        found = self._api.ask("GET", f"/api/v1/namespaces/{SYSTEM}/pods")["items"]
        return any("deletionTimestamp" in each["metadata"] and _owner(each) == name for each in found)

    def kill(self, node: Machine) -> None:
        """Kill the agent of a node; return when the kubelet's next one is Ready."""
        before = self.agent(node)
        node.run("kill", "-KILL", str(process(node, before, "agent")))

        def again() -> bool:
            (status,) = self.agent(node)["status"]["containerStatuses"]
            (was,) = before["status"]["containerStatuses"]
            return bool(status["restartCount"] > was["restartCount"] and status["ready"])

        eventually(again, f"the agent of {node.name} is Ready again", slow(90.0))

    def agent(self, node: Machine) -> Any:
        """Return the agent's pod on a node; nothing where there is none."""
        return next((each for each in self._pods("k8s-app=istio-cni-node", node.name)), None)

    def remove_proxy(self) -> None:
        """Take the proxy away."""
        self.kubectl("delete", "daemonset", PROXY, "--namespace", SYSTEM, "--cascade=foreground", "--wait")

    def _until_ready(self) -> None:
        nodes = len(self._cluster.nodes)
        until_ready(self._api, SYSTEM, "weir", nodes)
        if not self._exists(f"{DAEMON_SETS.format(SYSTEM)}/{PROXY}"):
            self._api.ask("POST", DAEMON_SETS.format(SYSTEM), _proxies())
        until_ready(self._api, SYSTEM, PROXY, nodes)

    def _pods(self, selector: str, node: str) -> list[Any]:
        query = f"labelSelector={selector}&fieldSelector=spec.nodeName%3D{node}"
        found: list[Any] = self._api.ask("GET", f"/api/v1/namespaces/{SYSTEM}/pods?{query}")["items"]
        return found

    def _exists(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        return any(each["metadata"]["name"] == name for each in self._api.ask("GET", folder)["items"])

    def _ran(self, argv: list[str]) -> Done:
        done = self._run(argv)
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stdout}{done.stderr}"
        return done

    def _run(self, argv: list[str]) -> Done:
        return subprocess.run(argv, env=self._environment, capture_output=True, text=True, check=False)


def told(node: Machine) -> list[Mapping[str, Any]]:
    """Return what the proxies of a node's running pods have told, in order; without a line that is being written."""
    lines = (each.split(" ", 3) for each in node.run("sh", "-c", _TOLD).splitlines())
    whole = (each[3] for each in lines if len(each) == 4 and each[1:3] == ["stdout", "F"])
    return [json.loads(each) for each in whole if each.endswith("}")]


def _owner(pod: Any) -> str:
    return str(next((each["name"] for each in pod["metadata"].get("ownerReferences", [])), ""))


def _proxies() -> dict[str, Any]:
    """Return a DaemonSet of the tests' proxy, replaced as ztunnel's is: the next one is Ready before one goes."""
    container = {
        "name": "proxy",
        "image": node_parts.PROXY,
        "imagePullPolicy": "Never",
        "workingDir": "/opt/weir",
        # It ends with whatever tells it commands: with a FIFO that is open for both, never.
        "command": ["busybox", "sh", "-c", f"busybox mkfifo /tmp/told; exec {_COMMAND} <> /tmp/told"],
        "readinessProbe": {"exec": {"command": ["busybox", "test", "-e", "/tmp/ready"]}, "periodSeconds": 1},
        "securityContext": {"privileged": True},
        "volumeMounts": [{"name": "zds", "mountPath": "/zds"}],
    }
    spec = {
        "terminationGracePeriodSeconds": _DRAIN + 10,
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
        "volumes": [{"name": "zds", "hostPath": {"path": "/var/run/ztunnel", "type": "DirectoryOrCreate"}}],
    }
    labels = {"app": PROXY}
    return {
        "metadata": {"name": PROXY},
        "spec": {
            "selector": {"matchLabels": labels},
            "updateStrategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }
