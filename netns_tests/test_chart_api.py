"""The chart on a real API server: every manifest accepted, rights that suffice with none unused, the hooks' work."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.cni import kubeconfig
from agent.errors import ApiError
from agent.sources.kubernetes.api import Api, Presence, Written
from agent.sources.kubernetes.informer import Informer
from netns_tests.kubernetes.api_server import ApiServer, Refused
from netns_tests.kubernetes.objects import add_pod, pod_path
from netns_tests.patience import slow
from tests import charts
from tests.cni import AMBIENT, Runtime, entry, result, unused
from tests.test_chart import EVERYTHING, PLATFORMS

Hook = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.timeout(900)  # the first one builds helm
NAMESPACE = "istio-system"
NODE = "node-a"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
DAEMON_SET = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/weir"
FOLDERS = {
    "ClusterRole": f"{RBAC}/clusterroles",
    "ClusterRoleBinding": f"{RBAC}/clusterrolebindings",
    "Role": f"{RBAC}/namespaces/{NAMESPACE}/roles",
    "RoleBinding": f"{RBAC}/namespaces/{NAMESPACE}/rolebindings",
    "DaemonSet": f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets",
    "Job": f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs",
    **{
        kind: f"/api/v1/namespaces/{NAMESPACE}/{kind.lower()}s"
        for kind in ("ConfigMap", "Pod", "ResourceQuota", "Secret", "ServiceAccount")
    },
}


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with ApiServer() as made:
        made.ask("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        yield made


def helm(server: ApiServer, *arguments: str | Path) -> str:
    argv = [charts.helm(), *map(str, arguments), "--kubeconfig", str(server.kubeconfig), "--namespace", NAMESPACE]
    home = {"HOME": str(server.directory)}  # where it keeps what the API can do; made where it isn't there
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, **home})
    assert done.returncode == 0, done.stderr
    return done.stdout


def put(server: ApiServer, found: charts.Object, *, dry: bool = False) -> Any:
    """Apply an object as `kubectl apply --server-side` does, where an unknown field is an error."""
    path = f"{FOLDERS[found['kind']]}/{found['metadata']['name']}?fieldManager=test&fieldValidation=Strict"
    return server.ask("PATCH", path + "&dryRun=All" * dry, found, kind="application/apply-patch+yaml")


@pytest.fixture(scope="module")
def release(server: ApiServer) -> Iterator[ApiServer]:
    """The chart, as helm installs it."""
    said = helm(server, "install", "weir", charts.CHART)
    assert "rollout status daemonset/weir" in said
    yield server
    helm(server, "uninstall", "weir", "--no-hooks")
    with pytest.raises(Refused, match="404"):
        server.ask("GET", DAEMON_SET)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_api_takes_every_platforms_manifests(server: ApiServer, platform: str) -> None:
    for found in charts.objects({**EVERYTHING, "platform": platform}):
        if found["kind"] != "PodMonitor":  # of the Prometheus operator
            put(server, found, dry=True)
    # A DaemonSet's pod is looked at more closely when it is made: its capabilities, priority class and volumes.
    daemon_set = charts.one(charts.objects({"platform": platform}), "DaemonSet")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "weir"}, "spec": charts.pod(daemon_set)}
    assert put(server, pod, dry=True)["spec"]["priority"] == 2000001000


def test_the_api_takes_the_plain_manifests(server: ApiServer) -> None:
    for found in yaml.safe_load_all(charts.MANIFESTS.read_text()):
        put(server, found, dry=True)


def test_an_unknown_field_would_be_refused(server: ApiServer) -> None:
    broken = charts.one(charts.objects(), "DaemonSet")
    charts.agent(broken)["readinesProbe"] = {}
    with pytest.raises(Refused, match="readinesProbe"):
        put(server, broken, dry=True)


def test_an_upgrade_to_the_same_changes_no_pod(release: ApiServer) -> None:
    before = release.ask("GET", DAEMON_SET)["metadata"]["generation"]
    helm(release, "upgrade", "weir", charts.CHART)
    assert release.ask("GET", DAEMON_SET)["metadata"]["generation"] == before
    helm(release, "upgrade", "weir", charts.CHART, "--set", "ambient.dnsCapture=false")
    assert release.ask("GET", DAEMON_SET)["metadata"]["generation"] == before + 1


def account(server: ApiServer, name: str) -> Path:
    """A kubeconfig of one of the chart's service accounts."""
    return server.kubeconfig_of({"token": server.token(NAMESPACE, name)}, name)


async def answers(configuration: Path, namespace: str) -> dict[tuple[str, str], set[int]]:
    """Have the agent's own client do all that it ever does; return how the API answered, by verb and resource."""
    api = Api.open(configuration, node=NODE)
    informer = Informer(api, NODE, lambda _: None, lambda: None)
    listening = asyncio.create_task(informer.run())

    def counted() -> dict[tuple[str, str], set[int]]:
        found: dict[tuple[str, str], set[int]] = {}
        for each in api.calls():
            found.setdefault((each.verb, each.resource), set()).add(each.status)
        return found

    async def until(*calls: tuple[str, str]) -> None:
        async with asyncio.timeout(slow(30.0)):
            while not set(calls) <= set(counted()):  # noqa: ASYNC110 (polling with a deadline)
                await asyncio.sleep(0.01)

    try:
        pod = await api.pod(namespace, "web")
        assert pod is not None
        assert await api.namespace(namespace) is not None
        assert await api.daemon_set(NAMESPACE, "weir") is Presence.THERE
        await api.sidecars_elsewhere()
        assert await api.redirect_state(pod, "enabled") == Written()
        await api.event(pod, "Captured", "said by a test", warning=False)
        await until(("create", "events"), ("watch", "pods"), ("watch", "namespaces"))
        await api.event(pod, "Captured", "said by a test", warning=False)  # makes a series of the first
    finally:
        listening.cancel()
        await asyncio.wait([listening])
        await api.close()
    return counted()


def granted(rules: list[charts.Object]) -> set[tuple[str, str]]:
    return {(verb, resource) for each in rules for verb in each["verbs"] for resource in each["resources"]}


@pytest.fixture(scope="module")
def shop(release: ApiServer) -> str:
    """A namespace with an ambient pod and another one."""
    release.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "shop"}})
    for name, labels in (("web", AMBIENT), ("batch", {})):
        add_pod(release, "shop", name, NODE, labels=labels)
    return "shop"


def test_the_agents_rights_are_enough_and_none_is_unused(release: ApiServer, shop: str) -> None:
    found = asyncio.run(answers(account(release, "weir"), shop))
    assert {call: statuses for call, statuses in found.items() if not statuses <= {200, 201}} == {}
    everywhere = release.ask("GET", f"{RBAC}/clusterroles/weir")["rules"]
    here = release.ask("GET", f"{RBAC}/namespaces/{NAMESPACE}/roles/weir")["rules"]
    assert granted(everywhere) | granted(here) == set(found)
    assert [each["resourceNames"] for each in here] == [["weir"]]


def test_a_right_that_is_missing_would_be_seen(release: ApiServer, shop: str) -> None:
    path = f"{RBAC}/clusterroles/weir"
    rules = release.ask("GET", path)["rules"]
    fewer = [each for each in rules if each["resources"] != ["pods/status"]]
    release.patch(path, {"rules": fewer})
    try:
        with pytest.raises(ApiError, match="pods/status"):
            asyncio.run(answers(account(release, "weir"), shop))
    finally:
        release.patch(path, {"rules": rules})


def test_the_plugin_may_ask_whether_a_pod_is_ambient_and_no_more(release: ApiServer, shop: str, tmp_path: Path) -> None:
    folder = unused(tmp_path)
    token = release.token(NAMESPACE, "weir-cni")
    authority = release.authority.read_text()
    kubeconfig.write(folder, kubeconfig.Credentials(server=release.url, authority=authority, token=token))

    def runtime(name: str) -> Runtime:
        uid = release.ask("GET", pod_path(shop, name))["metadata"]["uid"]
        return Runtime(entry(folder, timeout=0.5), pod=f"{shop}/{name}", uid=uid)

    assert runtime("batch").call("ADD").result == result("1.0.0")
    assert str(runtime("web").call("ADD").error["msg"]).endswith("and it is to be captured")
    # Everything else is somebody else's.
    api = Api.open(account(release, "weir-cni"), node=NODE)

    async def others() -> int:
        try:
            return len(await api.sidecars_elsewhere())
        finally:
            await api.close()

    with pytest.raises(ApiError, match="403"):
        asyncio.run(others())
    rules = release.ask("GET", f"{RBAC}/clusterroles/weir-cni")["rules"]
    assert granted(rules) == {("get", "pods"), ("get", "namespaces")}


def test_the_plugins_token_is_no_pods(release: ApiServer) -> None:
    secret = release.ask("GET", f"{FOLDERS['Secret']}/weir-cni")
    assert secret["type"] == "kubernetes.io/service-account-token"
    assert secret["metadata"]["annotations"]["kubernetes.io/service-account.name"] == "weir-cni"


@pytest.fixture
def hooks(release: ApiServer, tmp_path: Path) -> Iterator[Hook]:
    """Run a hook as its pod would, with the rights that helm gives it for as long as it runs."""
    made = [each for each in charts.objects() if each["metadata"]["name"] == "weir-hooks"]
    for each in made:
        put(release, each)
    (tmp_path / "token").write_text(release.token(NAMESPACE, "weir-hooks"))
    (tmp_path / "ca.crt").write_text(release.authority.read_text())
    host, _, port = release.url.removeprefix("https://").rpartition(":")

    def run(task: str, name: str = "weir", seconds: float = 0.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, charts.ROOT / "deploy/release.py", task, NAMESPACE, name],
            env={
                "KUBERNETES_SERVICE_HOST": host,
                "KUBERNETES_SERVICE_PORT": port,
                "SERVICE_ACCOUNT": str(tmp_path),
                "WEIR_HOOK_SECONDS": str(seconds),
            },
            capture_output=True,
            text=True,
            check=False,
        )

    yield run
    for each in made:
        release.ask("DELETE", f"{FOLDERS[each['kind']]}/weir-hooks")


def status(server: ApiServer, wanted: int, ready: int) -> None:
    numbers = {"desiredNumberScheduled": wanted, "currentNumberScheduled": wanted, "numberReady": ready}
    server.patch(f"{DAEMON_SET}/status", {"status": {**numbers, "numberMisscheduled": 0}})


def test_the_test_says_whether_each_node_has_an_agent(release: ApiServer, hooks: Hook) -> None:
    status(release, 2, 1)
    done = hooks("ready")
    assert (done.returncode, "1 of 2 nodes have an agent that is ready" in done.stderr) == (1, True), done
    status(release, 0, 0)
    assert "no node is to have a pod of it" in hooks("ready").stderr
    status(release, 2, 2)
    done = hooks("ready")
    assert (done.returncode, done.stderr) == (0, ""), done


def test_a_hook_without_its_rights_says_so(release: ApiServer, hooks: Hook) -> None:
    done = hooks("ready", "other")
    assert (done.returncode, "403" in done.stderr) == (2, True), done
    assert hooks("reddy").returncode == 2


def test_a_hook_waits_for_an_api_that_is_away(release: ApiServer, hooks: Hook) -> None:
    release.stop()
    try:
        done = hooks("ready")
    finally:
        release.start()
    assert (done.returncode, "isn't to be reached" in done.stderr) == (2, True), done


def test_an_uninstall_deletes_the_agents_first_and_waits_for_them(release: ApiServer, hooks: Hook) -> None:
    """The garbage collector, which isn't here, takes the finalizer away after the last of the pods."""
    status(release, 2, 2)
    done = hooks("uninstall")
    assert (done.returncode, "2 pods are there still" in done.stderr) == (1, True), done
    going = release.ask("GET", DAEMON_SET)["metadata"]
    assert going["finalizers"] == ["foregroundDeletion"]
    # That is what an agent sees, which tells this from an update.
    api = Api.open(account(release, "weir"), node=NODE)

    async def there() -> Presence:
        try:
            return await api.daemon_set(NAMESPACE, "weir")
        finally:
            await api.close()

    assert asyncio.run(there()) is Presence.GONE
    release.patch(DAEMON_SET, {"metadata": {"finalizers": None}})
    done = hooks("uninstall", seconds=60)
    assert (done.returncode, done.stderr) == (0, ""), done
    helm(release, "upgrade", "weir", charts.CHART)  # which makes again what is gone
    assert release.ask("GET", DAEMON_SET)["metadata"]["name"] == "weir"
