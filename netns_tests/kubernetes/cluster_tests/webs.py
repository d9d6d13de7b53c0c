"""Pods that serve a page, one on each node, and requests to them."""

import itertools
import os
from collections.abc import Mapping
from typing import Any, Self

from netns_tests.kubernetes.api_server import ApiServer
from netns_tests.kubernetes.cluster import Cluster, Machine
from netns_tests.kubernetes.node_parts import BUSYBOX
from netns_tests.namespace import Namespace
from netns_tests.patience import slow
from netns_tests.world import eventually

__all__ = [
    "CAPTURED",
    "DAEMON_SETS",
    "ECHO",
    "ECHO_SERVICE",
    "Network",
    "Webs",
    "fetched",
    "is_captured",
    "is_ready",
    "pod_of",
    "process",
    "removed",
    "until_ready",
]

CAPTURED = "ambient.istio.io/redirection"
ECHO, ECHO_SERVICE = 7070, 7  # nobody listens there: a test may

DAEMON_SETS = "/apis/apps/v1/namespaces/{}/daemonsets"
_numbers = itertools.count(1)  # a namespace goes slowly, so that nobody waits for it: the next has another name
_PAGE = "mkdir -p /tmp/w; hostname > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w"


class Webs:
    """A namespace with a DaemonSet and a Service in front of it. In a `with` block: all of it goes at the end."""

    def __init__(self, cluster: Cluster, namespace: str, host_port: int, **labels: str) -> None:
        self._api = cluster.api
        self._nodes = cluster.nodes
        self.namespace, self.host_port, self._labels = f"{namespace}-{next(_numbers)}", host_port, labels

    def __enter__(self) -> Self:
        self._api.ask("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace, "labels": self._labels}})
        template = pod_of("", "", {"app": "web"})
        del template["metadata"]["name"], template["spec"]["nodeName"]
        template["spec"]["tolerations"] = [{"operator": "Exists"}]
        template["spec"]["containers"][0]["ports"][0]["hostPort"] = self.host_port
        spec = {"selector": {"matchLabels": {"app": "web"}}, "template": template}
        self._api.ask("POST", DAEMON_SETS.format(self.namespace), {"metadata": {"name": "web"}, "spec": spec})
        service = {
            "ipFamilyPolicy": "RequireDualStack",
            "selector": {"app": "web"},
            "ports": [
                {"name": "page", "port": 80, "targetPort": 8080},
                {"name": "echo", "port": ECHO_SERVICE, "targetPort": ECHO},
            ],
        }
        where = f"/api/v1/namespaces/{self.namespace}/services"
        made = self._api.ask("POST", where, {"metadata": {"name": "web"}, "spec": service})
        self.service: list[str] = made["spec"]["clusterIPs"]
        until_ready(self._api, self.namespace, "web", len(self._nodes))
        self._until_answered()
        return self

    def __exit__(self, *error: object) -> None:
        removed(self._api, self.namespace)

    def pods(self) -> list[Any]:
        """Return the pods, by their nodes' names."""
        found = self._api.ask("GET", f"/api/v1/namespaces/{self.namespace}/pods")["items"]
        return sorted(found, key=lambda each: str(each["spec"]["nodeName"]))

    def _until_answered(self) -> None:
        """Wait until every node's kube-proxy has heard that the pods are Ready: it does later than the API."""
        pods = self.pods()
        names = {each["metadata"]["name"] for each in pods}
        for node, pod in zip(self._nodes, pods, strict=True):
            for address in self.service:

                def answered(node: Machine = node, pod: Any = pod, address: str = address) -> bool:
                    return fetched(node, pod, address, 80) in names

                eventually(answered, f"{address} answers on {node.name}", slow(20.0))

    def until_captured(self) -> None:
        """Wait until the agents have said that all pods are captured."""
        eventually(lambda: all(map(is_captured, self.pods())), f"the pods of {self.namespace} are captured", slow(60.0))

    def label(self, **labels: str | None) -> None:
        """Change the namespace's labels."""
        self._api.patch(f"/api/v1/namespaces/{self.namespace}", {"metadata": {"labels": labels}})


def pod_of(name: str, node: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return a pod that serves a page with its name, and is Ready when it does."""
    container = {
        "name": "web",
        "image": BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", _PAGE],
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
    }
    spec = {"nodeName": node, "terminationGracePeriodSeconds": 1, "containers": [container]}
    return {"metadata": {"name": name, "labels": dict(labels)}, "spec": spec}


def removed(api: ApiServer, namespace: str) -> None:
    """Delete a namespace; return when its pods and services are gone, and later the namespace itself is."""
    where = f"/api/v1/namespaces/{namespace}"
    for kind in ("daemonsets", "statefulsets"):
        api.ask("DELETE", f"/apis/apps/v1/namespaces/{namespace}/{kind}")
    api.ask("DELETE", f"{where}/pods")
    api.ask("DELETE", f"{where}/services")
    api.ask("DELETE", where)

    def gone() -> bool:
        return not any(api.ask("GET", f"{where}/{each}")["items"] for each in ("pods", "services"))

    eventually(gone, f"what {namespace} had is gone", slow(60.0))


def is_ready(api: ApiServer, where: str, name: str) -> bool:
    """Tell whether a pod is there and Ready; `where` is the path of its namespace's pods."""
    found = next((each for each in api.ask("GET", where)["items"] if each["metadata"]["name"] == name), None)
    conditions = found["status"].get("conditions", []) if found else []
    return any((each["type"], each["status"]) == ("Ready", "True") for each in conditions)


def until_ready(api: Any, namespace: str, name: str, nodes: int, generation: int = 1) -> None:
    """Wait until a DaemonSet's pods, of its newest template, are Ready on every node."""

    def ready() -> bool:
        status = api.ask("GET", f"{DAEMON_SETS.format(namespace)}/{name}")["status"]
        whole = [status.get(each, 0) for each in ("numberReady", "updatedNumberScheduled")]
        return status.get("observedGeneration", 0) >= generation and whole == [nodes, nodes]

    eventually(ready, f"{namespace}/{name} is Ready on {nodes} nodes", slow(90.0))


class Network(Namespace):
    """A pod's network, for whatever works in a namespace. Its processes are seen from here by those of its node."""

    def __init__(self, node: Machine, pod: Any) -> None:
        self.pid = process(node, pod)
        super().__init__(f"/proc/{node.pid}/root/proc/{self.pid}/ns/net", os.getpid())


def is_captured(pod: Any) -> bool:
    """Tell whether a pod says that it is captured."""
    return bool(pod["metadata"].get("annotations", {}).get(CAPTURED) == "enabled")


def process(node: Machine, pod: Any, container: str = "") -> int:
    """Return the first process of a pod or of one of its containers, by its number on the node."""
    # A static pod's copy in the API has a uid of its own, and names the one that the node has for it.
    uid = pod["metadata"].get("annotations", {}).get("kubernetes.io/config.mirror") or pod["metadata"]["uid"]
    of = f'labels."io.kubernetes.pod.uid"=={uid}'
    if container:
        of += f',labels."io.kubernetes.container.name"=={container}'
    inside = node.run("ctr", "-n", "k8s.io", "containers", "ls", of, "-q").split()
    tasks = [line.split() for line in node.run("ctr", "-n", "k8s.io", "tasks", "ls").splitlines()[1:]]
    return next(int(pid) for name, pid, state in tasks if name in inside and state == "RUNNING")


def fetched(node: Machine, pod: Any, address: str, port: int) -> str:
    """Return the page that a pod gets from somewhere, asked in its network; nothing where it gets none."""
    host = f"[{address}]" if ":" in address else address
    url = f"http://{host}:{port}/"
    inside = ("nsenter", f"--target={process(node, pod)}", "--net")
    return node.run(*inside, "curl", "-sS", "--max-time", "5", url, check=False).strip()
