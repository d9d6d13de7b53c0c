"""What tests put into an API server: pods of a node that no kubelet has, an account with the agent's rights."""

from collections.abc import Sequence

from netns_tests.kubernetes.api_server import ApiServer
from netns_tests.patience import slow
from netns_tests.world import eventually

__all__ = ["RULES", "account", "add_pod", "delete_pod", "namespace", "pod_path", "running"]

# What the agent may do, in words of RBAC. The chart's role is compared with it.
RULES: Sequence[dict[str, list[str]]] = (
    {"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch"]},
    {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
)


def namespace(server: ApiServer, name: str, **labels: str) -> str:
    """Make a namespace; return its name."""
    server.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    return name


def add_pod(server: ApiServer, namespace: str, name: str, node: str, **metadata: object) -> str:
    """Make a pod that is bound to a node; return its uid."""
    document = {
        "metadata": {"name": name, **metadata},
        "spec": {
            "nodeName": node,
            "serviceAccountName": "default",
            "automountServiceAccountToken": False,
            "containers": [{"name": "main", "image": "none", "ports": [{"containerPort": 8080}]}],
        },
    }
    return str(server.ask("POST", f"/api/v1/namespaces/{namespace}/pods", document)["metadata"]["uid"])


def running(server: ApiServer, namespace: str, name: str, *addresses: str) -> None:
    """Say what a kubelet would: the pod runs, with these addresses."""
    status = {"phase": "Running", "podIP": addresses[0], "podIPs": [{"ip": each} for each in addresses]}
    server.patch(f"{pod_path(namespace, name)}/status", {"status": status})


def pod_path(namespace: str, name: str) -> str:
    """Return where a pod is."""
    return f"/api/v1/namespaces/{namespace}/pods/{name}"


def delete_pod(server: ApiServer, namespace: str, name: str) -> None:
    """Delete a pod at once, as a kubelet does in the end."""
    server.ask("DELETE", pod_path(namespace, name), {"gracePeriodSeconds": 0})


def account(server: ApiServer, namespace: str, name: str, rules: Sequence[dict[str, list[str]]] = RULES) -> None:
    """Make a service account that may do what some rules say, everywhere."""
    server.ask("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})
    role = f"{namespace}-{name}"
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    server.ask("POST", f"{rbac}/clusterroles", {"metadata": {"name": role}, "rules": list(rules)})
    server.ask(
        "POST",
        f"{rbac}/clusterrolebindings",
        {
            "metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": name}],
        },
    )
    user = f"system:serviceaccount:{namespace}:{name}"
    first = {"group": rules[0]["apiGroups"][0], "resource": rules[0]["resources"][0], "verb": rules[0]["verbs"][0]}
    review = {"spec": {"user": user, "resourceAttributes": first}}

    def allowed() -> object:
        return server.ask("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)["status"]["allowed"]

    eventually(allowed, "the API server has read the role", slow(30.0))
