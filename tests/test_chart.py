"""What the chart makes of its values: image, each platform's folders, the agent's settings, what others look for."""

import tomllib
from pathlib import PurePosixPath

import pytest
import typer.main
import yaml
from typer.core import TyperGroup

from agent.cli.app import app
from agent.cni.server import ISTIO_SOCKET
from rulesets.capture import Capture
from rulesets.vocabulary import Family
from tests.charts import CHART, ROOT, agent, environment, folders, objects, one, pod, run

pytestmark = pytest.mark.timeout(900)  # the first one builds helm
PLATFORMS = ("", "gke", "k3d", "k3s", "microk8s", "minikube", "openshift")
# By agent/cli/daemon.py without an option; the last is Python's own.
READ_ELSEWHERE = {
    *("HOST_CNI_BIN_DIR", "HOST_CNI_CONF_DIR", "LOG_LEVEL", "LOG_AS_JSON", "METRICS_PORT", "METRICS_ADDRESS"),
    "PYTHONASYNCIODEBUG",
}
# Every part that is left out by default.
EVERYTHING: dict[str, object] = {
    "cniConfFileName": "10-calico.conflist",
    "failOpenNamespaces": ["batch"],
    "imagePullSecrets": ["pull"],
    "istioCniSocket": True,
    "istioOwnedCNIConfig": True,
    "logging": {"level": "debug"},
    "metrics": {"enabled": True},
    "podMonitor": {"enabled": True},
    "pullPolicy": "Always",
    "resourceQuotas": {"enabled": True},
    "affinity": {"nodeAffinity": {}},
    "env": {"PYTHONASYNCIODEBUG": "1"},
}


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_helm_has_nothing_to_say(values: dict[str, object]) -> None:
    code, out, err = run("lint", "--strict", CHART, values=values)
    assert (code, "WARNING" in out + err) == (0, False), out + err


def test_the_chart_has_the_agents_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == project["version"]


@pytest.mark.parametrize(
    ("values", "image"),
    [
        ({}, "localhost/weir:0.1.0"),
        ({"hub": "registry.example/mesh", "tag": "7"}, "registry.example/mesh/weir:7"),
        ({"tag": 7}, "localhost/weir:7"),
        ({"global": {"hub": "registry.example", "tag": "8"}}, "registry.example/weir:8"),
        ({"hub": "own.example", "global": {"hub": "registry.example", "tag": "8"}}, "own.example/weir:8"),
        ({"image": "registry.example/other@sha256:00"}, "registry.example/other@sha256:00"),
    ],
    ids=str,
)
def test_the_image(values: dict[str, object], image: str) -> None:
    found = objects(values)
    assert agent(one(found, "DaemonSet"))["image"] == image
    hooks = [one(found, "Job", "weir-uninstall")["spec"]["template"]["spec"], one(found, "Pod", "test-weir")["spec"]]
    assert [each["containers"][0]["image"] for each in hooks] == [image, image]


@pytest.mark.parametrize(
    ("platform", "programs", "configurations", "namespaces"),
    [
        ("", "/opt/cni/bin", "/etc/cni/net.d", "/var/run/netns"),
        ("gke", "/home/kubernetes/bin", "/etc/cni/net.d", "/var/run/netns"),
        ("k3d", "/bin", "/var/lib/rancher/k3s/agent/etc/cni/net.d", "/var/run/netns"),
        ("k3s", "/var/lib/rancher/k3s/data/cni", "/var/lib/rancher/k3s/agent/etc/cni/net.d", "/var/run/netns"),
        (
            "microk8s",
            "/var/snap/microk8s/current/opt/cni/bin",
            "/var/snap/microk8s/current/args/cni-network",
            "/var/run/netns",
        ),
        ("minikube", "/opt/cni/bin", "/etc/cni/net.d", "/var/run/docker/netns"),
        ("openshift", "/var/lib/cni/bin", "/etc/kubernetes/cni/net.d", "/var/run/netns"),
    ],
)
@pytest.mark.parametrize("where", ["platform", "global"])
def test_a_platforms_folders(platform: str, programs: str, configurations: str, namespaces: str, where: str) -> None:
    values: dict[str, object] = {"platform": platform} if where == "platform" else {"global": {"platform": platform}}
    daemon_set = one(objects(values), "DaemonSet")
    found = folders(daemon_set)
    assert found["/host/opt/cni/bin"] == programs
    assert found["/host/etc/cni/net.d"] == configurations
    # The runtime's names of namespaces have to mean the same in the agent's pod.
    assert found[namespaces] == namespaces
    told = environment(daemon_set)
    assert told["CNI_NETNS_DIR"] == namespaces
    assert (told["HOST_CNI_BIN_DIR"], told["HOST_CNI_CONF_DIR"]) == (programs, configurations)


def test_gke_is_known_by_its_version() -> None:
    assert folders(one(objects({}, "--kube-version", "1.36.1-gke.100"), "DaemonSet"))["/host/opt/cni/bin"] == (
        "/home/kubernetes/bin"
    )


def test_a_users_folders_win() -> None:
    values = {"platform": "k3s", "cniBinDir": "/a/", "cniConfDir": "/b", "cniNetnsDir": "/run/c"}
    found = folders(one(objects(values), "DaemonSet"))
    assert (found["/host/opt/cni/bin"], found["/host/etc/cni/net.d"], found["/run/c"]) == ("/a", "/b", "/run/c")


def test_what_openshift_and_gke_need_besides() -> None:
    rules = one(objects({"platform": "openshift"}), "ClusterRole")["rules"]
    assert [each["resourceNames"] for each in rules if "securitycontextconstraints" in each["resources"]] == [
        ["privileged"]
    ]
    assert not [each for each in one(objects(), "ClusterRole")["rules"] if "resourceNames" in each]
    quota = one(objects({"platform": "gke"}), "ResourceQuota")["spec"]
    assert quota["scopeSelector"]["matchExpressions"][0]["values"] == ["system-node-critical"]
    kinds = {each["kind"] for each in objects({"platform": "gke", "resourceQuotas": {"enabled": False}})}
    assert "ResourceQuota" not in kinds | {each["kind"] for each in objects()}


def test_others_find_the_agent_by_the_labels_of_istios() -> None:
    """istiod takes the taint cni.istio.io/not-ready off a node by this one (pilot/pkg/controllers/untaint)."""
    daemon_set = one(objects({"podLabels": {"k8s-app": "mine", "team": "net"}}), "DaemonSet")
    labels = daemon_set["spec"]["template"]["metadata"]["labels"]
    assert labels["k8s-app"] == "istio-cni-node"
    assert labels["istio.io/dataplane-mode"] == "none"
    assert labels["sidecar.istio.io/inject"] == "false"
    assert labels["team"] == "net"
    assert daemon_set["spec"]["selector"]["matchLabels"].items() <= labels.items()
    # With Istio's selector, its own DaemonSet and ours would fight over pods that nobody owns.
    assert "k8s-app" not in daemon_set["spec"]["selector"]["matchLabels"]
    # `istioctl install` prunes and `istioctl uninstall` deletes what bears this.
    assert "operator.istio.io/component" not in str(objects(EVERYTHING))


def test_the_agent_is_told_what_it_is_to_do() -> None:
    daemon_set = one(objects(), "DaemonSet")
    told = environment(daemon_set)
    assert told["NODE_NAME"] == "spec.nodeName"
    assert told["EXCLUDE_NAMESPACES"] == "kube-system"
    assert told["DAEMON_SET"] == daemon_set["metadata"]["name"]
    selectors = yaml.safe_load(told["AMBIENT_ENABLEMENT_SELECTOR"])
    assert [set(each) for each in selectors] == [{"podSelector"}, {"podSelector", "namespaceSelector"}]
    assert not {"FAIL_OPEN_NAMESPACES", "CNI_CONF_NAME", "OWN_CONFLIST", "ISTIO_CNI_SOCKET"} & set(told)
    told = environment(one(objects(EVERYTHING), "DaemonSet"))
    assert told["FAIL_OPEN_NAMESPACES"] == "batch"
    assert told["CNI_CONF_NAME"] == "10-calico.conflist"
    assert told["OWN_CONFLIST"] == "02-weir.conflist"
    assert told["ISTIO_CNI_SOCKET"] == str(ISTIO_SOCKET)
    assert told["METRICS_PORT"] == "15014"
    assert told["PYTHONASYNCIODEBUG"] == "1"


@pytest.mark.parametrize("values", [{}, EVERYTHING, {"excludeNamespaces": [], "installCNI": False}], ids=str)
def test_the_agent_understands_all_that_it_is_told(values: dict[str, object]) -> None:
    command = typer.main.get_command(app)
    assert isinstance(command, TyperGroup)
    daemon = command.commands["daemon"]
    daemon_set = one(objects(values), "DaemonSet")
    verb, *arguments = agent(daemon_set)["args"]
    assert verb == daemon.name
    assert daemon.make_context(verb, arguments).params["kubernetes"] is True
    read = {str(each.envvar) for each in daemon.params if each.envvar} | READ_ELSEWHERE
    assert set(environment(daemon_set)) <= read


def test_no_excluded_namespace_is_said_and_not_left_to_a_default() -> None:
    daemon_set = one(objects({"excludeNamespaces": []}), "DaemonSet")
    assert "--exclude-namespaces=" in agent(daemon_set)["args"]
    assert "EXCLUDE_NAMESPACES" not in environment(daemon_set)


def test_settings_of_capture_reach_the_agent_as_it_reads_them() -> None:
    settings: dict[str, object] = {
        "exclude_outbound_ports": [25, "6000-6063"],
        "exclude_outbound_networks": ["fd00:10:96::/112"],
        "include_inbound_ports": "*",
        "kept_deadline": 1800,
        "established": "reset",
        "proxy_mark": "0x539/0xfff",
    }
    values = {"ambient": {"dnsCapture": False, "ipv6": False}, "capture": settings}
    text = one(objects(values), "ConfigMap")["data"]["weir.toml"]
    capture = Capture.parse(tomllib.loads(text)["defaults"])
    assert (capture.dns, capture.families) == (False, (Family.IPV4,))
    assert capture.kept_deadline == 1800
    assert capture == Capture().changed({"dns": False, "families": ["ipv4"], **settings})
    assert Capture.parse(tomllib.loads(one(objects(), "ConfigMap")["data"]["weir.toml"])["defaults"]) == Capture()


def test_changed_settings_roll_the_agents() -> None:
    def sum_of(values: dict[str, object]) -> str:
        found: str = one(objects(values), "DaemonSet")["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
        return found

    assert sum_of({}) != sum_of({"ambient": {"dnsCapture": False}})
    assert sum_of({}) == sum_of({"podAnnotations": {"a": "b"}})


def test_the_pod_is_as_closed_as_its_work_allows() -> None:
    daemon_set = one(objects(), "DaemonSet")
    security = agent(daemon_set)["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["privileged"] is False
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert security["capabilities"]["drop"] == ["ALL"]
    assert pod(daemon_set)["priorityClassName"] == "system-node-critical"
    mounts = {each["mountPath"]: each for each in agent(daemon_set)["volumeMounts"]}
    assert mounts["/var/run/netns"]["mountPropagation"] == "HostToContainer"
    # What the plugin on the node looks for has to have the same path there.
    assert folders(daemon_set)["/run/weir"] == "/run/weir"
    # No more of the node than it works on.
    assert not [path for path in folders(daemon_set).values() if len(PurePosixPath(path).parts) < 3]
    for hook in (
        one(objects(), "Job", "weir-uninstall")["spec"]["template"]["spec"],
        one(objects(), "Pod", "test-weir")["spec"],
    ):
        (container,) = hook["containers"]
        assert container["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert "volumes" not in hook


def test_apparmor_is_said_as_each_kubernetes_reads_it() -> None:
    old = one(objects({}, "--kube-version", "1.29.0"), "DaemonSet")
    note = "container.apparmor.security.beta.kubernetes.io/agent"
    assert old["spec"]["template"]["metadata"]["annotations"][note] == "unconfined"
    assert "appArmorProfile" not in agent(old)["securityContext"]
    recent = one(objects({}, "--kube-version", "1.30.0"), "DaemonSet")
    assert note not in recent["spec"]["template"]["metadata"]["annotations"]
    assert agent(recent)["securityContext"]["appArmorProfile"] == {"type": "Unconfined"}
