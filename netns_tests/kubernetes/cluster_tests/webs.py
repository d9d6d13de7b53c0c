"""Pods that serve a page, one on each node, and requests to them."""

from typing import Any, Self

from netns_tests.kubernetes.cluster import Cluster, Machine
from netns_tests.kubernetes.node_parts import BUSYBOX
from netns_tests.patience import slow
from netns_tests.world import eventually

__all__ = ["DAEMON_SETS", "Webs", "fetched", "until_answered", "until_ready"]

DAEMON_SETS = "/apis/apps/v1/namespaces/{}/daemonsets"
_PAGE = "mkdir -p /tmp/w; hostname > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w"


class Webs:
    """A namespace with a DaemonSet and a Service in front of it. In a `with` block: the namespace goes at the end."""

    def __init__(self, cluster: Cluster, namespace: str, host_port: int, **labels: str) -> None:
        self._api = cluster.api
        self._nodes = len(cluster.nodes)
        self.namespace, self.host_port, self._labels = namespace, host_port, labels

    def __enter__(self) -> Self:
        self._api.ask("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace, "labels": self._labels}})
        container = {
            "name": "web",
            "image": BUSYBOX,
            "imagePullPolicy": "Never",
            "command": ["sh", "-c", _PAGE],
            "ports": [{"containerPort": 8080, "hostPort": self.host_port}],
            "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
        }
        template = {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "tolerations": [{"operator": "Exists"}],
                "containers": [container],
            },
        }
        spec = {"selector": {"matchLabels": {"app": "web"}}, "template": template}
        self._api.ask("POST", DAEMON_SETS.format(self.namespace), {"metadata": {"name": "web"}, "spec": spec})
        service = {
            "ipFamilyPolicy": "RequireDualStack",
            "selector": {"app": "web"},
            "ports": [{"port": 80, "targetPort": 8080}],
        }
        where = f"/api/v1/namespaces/{self.namespace}/services"
        made = self._api.ask("POST", where, {"metadata": {"name": "web"}, "spec": service})
        self.service: list[str] = made["spec"]["clusterIPs"]
        until_ready(self._api, self.namespace, "web", self._nodes)
        return self

    def __exit__(self, *error: object) -> None:
        self._api.ask("DELETE", f"/api/v1/namespaces/{self.namespace}")
        eventually(lambda: not self._there(), f"{self.namespace} is gone", slow(60.0))

    def pods(self) -> list[Any]:
        """Return the pods, by their nodes' names."""
        found = self._api.ask("GET", f"/api/v1/namespaces/{self.namespace}/pods")["items"]
        return sorted(found, key=lambda each: str(each["spec"]["nodeName"]))

    def _there(self) -> bool:
        found = self._api.ask("GET", "/api/v1/namespaces")["items"]
        return any(each["metadata"]["name"] == self.namespace for each in found)


def until_ready(api: Any, namespace: str, name: str, nodes: int, generation: int = 1) -> None:
    """Wait until a DaemonSet's pods, of its newest template, are Ready on every node."""

    def ready() -> bool:
        status = api.ask("GET", f"{DAEMON_SETS.format(namespace)}/{name}")["status"]
        whole = [status.get(each, 0) for each in ("numberReady", "updatedNumberScheduled")]
        return status.get("observedGeneration", 0) >= generation and whole == [nodes, nodes]

    eventually(ready, f"{namespace}/{name} is Ready on {nodes} nodes", slow(90.0))


def fetched(node: Machine, pod: Any, address: str, port: int) -> str:
    """Return the page that a pod gets from somewhere, asked in its network; nothing where it gets none."""
    host = f"[{address}]" if ":" in address else address
    name = pod["metadata"]["name"]
    inside = node.run("ctr", "-n", "k8s.io", "containers", "ls", f'labels."io.kubernetes.pod.name"=={name}', "-q")
    tasks = dict(line.split()[:2] for line in node.run("ctr", "-n", "k8s.io", "tasks", "ls").splitlines()[1:])
    pid = next(tasks[each] for each in inside.split() if each in tasks)
    url = f"http://{host}:{port}/"
    return node.run("nsenter", f"--target={pid}", "--net", "curl", "-sS", "--max-time", "5", url, check=False).strip()


def until_answered(node: Machine, pod: Any, service: str, names: set[str]) -> None:
    """Wait until a pod gets one of the pages by a service: kube-proxy hears later than the API that pods are ready."""
    eventually(lambda: fetched(node, pod, service, 80) in names, f"{service} answers", slow(20.0))
