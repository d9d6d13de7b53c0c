"""A kubelet for one pod: what the chart says of the agent's container, done with the kernel's own means.

`python -m netns_tests.chart_pod FOLDER [IMAGE]` is to be started in network, process and mount namespaces of its own,
where it is the node: process 1 with its network. It ends with 0 when the agent has done what it is there for.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from netns_tests.command import WEIR
from netns_tests.kubernetes.api_server import ApiServer
from netns_tests.patience import slow
from netns_tests.world import eventually
from tests import charts
from tests.cni import program

NAMESPACE = "istio-system"
NETWORK = '{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "bridge", "bridge": "cni0"}]}\n'
DAEMON_SET = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/weir"
FIELDS = {"spec.nodeName": "node-a", "metadata.name": "weir-x", "metadata.namespace": NAMESPACE}

_CAPABILITIES = {"DAC_OVERRIDE": 1, "NET_ADMIN": 12, "SYS_ADMIN": 21, "SYS_PTRACE": 19}  # linux/capability.h


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


class Pod:
    """The agent's container on this node, whose folders are below `node`."""

    def __init__(self, server: ApiServer, folder: Path, image: Path | None) -> None:
        """Without the file system of an image it is that of this machine, with Weir as it is under test."""
        daemon_set = server.ask("GET", DAEMON_SET)
        self.container = charts.agent(daemon_set)
        self.volumes = {each["name"]: each for each in charts.pod(daemon_set)["volumes"]}
        self.server, self.folder, self.image = server, folder, image
        self.root = folder / "root"
        self._credentials("weir", self.folder / "account")
        self._credentials("weir-cni", self.folder / "cni-credentials")
        self._mounts()

    def on_node(self, path: str) -> Path:
        """Where the node has what it has at a path."""
        return self.folder / "node" / path.lstrip("/")

    def _credentials(self, account: str, folder: Path) -> None:
        folder.mkdir()
        (folder / "token").write_text(self.server.token(NAMESPACE, account))
        (folder / "ca.crt").write_text(self.server.authority.read_text())
        (folder / "namespace").write_text(NAMESPACE)

    def _mounts(self) -> None:
        """It is seen through an overlay, so that mount points can be made."""
        for each in ("upper", "work", "root"):
            (self.folder / each).mkdir()
        layers = f"lowerdir={self.image or '/'},upperdir={self.folder}/upper,workdir={self.folder}/work"
        mount("-t", "overlay", "overlay", "-o", layers, self.root)
        sources = {"/proc": Path("/proc"), "/dev": Path("/dev"), "/sys": Path("/sys")}
        for each in self.container["volumeMounts"]:
            sources[each["mountPath"]] = self._source(self.volumes[each["name"]])
        sources["/var/run/secrets/kubernetes.io/serviceaccount"] = self.folder / "account"
        if self.image is None:
            sources[str(charts.ROOT)] = charts.ROOT  # which the pod's own /tmp may have covered
        for where, source in sources.items():
            target = self.root / os.path.realpath(where).lstrip("/")
            target.mkdir(parents=True, exist_ok=True)
            mount("--rbind", source, target)
        assert self.container["securityContext"]["readOnlyRootFilesystem"]
        mount("-o", "remount,bind,ro", self.root)

    def _source(self, volume: charts.Object) -> Path:
        name = volume["name"]
        made = self.on_node(volume["hostPath"]["path"]) if "hostPath" in volume else self.folder / name
        made.mkdir(parents=True, exist_ok=True)
        if "configMap" in volume:
            path = f"/api/v1/namespaces/{NAMESPACE}/configmaps/{volume['configMap']['name']}"
            for key, text in self.server.ask("GET", path)["data"].items():
                (made / key).write_text(text)
        return made

    @property
    def environment(self) -> dict[str, str]:
        host, _, port = self.server.url.removeprefix("https://").rpartition(":")
        given = {
            each["name"]: each["value"] if "value" in each else FIELDS[each["valueFrom"]["fieldRef"]["fieldPath"]]
            for each in self.container["env"]
        }
        plugin = "/opt/weir/weir-cni" if self.image else str(program())
        image = {"PATH": os.environ["PATH"], "WEIR_PLUGIN": plugin, "PYTHONDONTWRITEBYTECODE": "1"}
        return {**image, "KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port, **given}

    @contextlib.contextmanager
    def started(self) -> Iterator[subprocess.Popen[bytes]]:
        """Start it as a runtime does, and wait until the kubelet's probes of readiness succeed."""
        security = self.container["securityContext"]
        # prctl(2): SIGKILL when its parent ends, the bounding set, and no new privileges. It is for the image's Python,
        # since the image has no program for it.
        numbers = [_CAPABILITIES[each] for each in security["capabilities"]["add"]]
        calls = ("1, 9", *(f"24, {each}" for each in range(41) if each not in numbers), "38, 1, 0, 0, 0")
        confine = "".join(f"assert not prctl({each});" for each in calls)
        code = f"import ctypes, os, sys; prctl = ctypes.CDLL(None).prctl; {confine} os.execv(sys.argv[1], sys.argv[1:])"
        weir = "/opt/weir/bin/weir" if self.image else WEIR
        argv = ["chroot", str(self.root), "/usr/bin/python3", "-c", code, weir, *self.container["args"]]
        log = self.folder / "log"
        with log.open("ab") as file:
            process = subprocess.Popen(argv, env=self.environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        try:
            eventually(lambda: process.poll() is not None or self.answers("readinessProbe"), "ready", slow(60))
            assert process.poll() is None, "it ended"
            assert self.answers("livenessProbe")
            yield process
        except BaseException:
            sys.stderr.write(log.read_text())
            raise
        finally:
            process.kill()
            process.wait()

    def answers(self, probe: str) -> bool:
        """Whether a probe succeeds."""
        get = self.container[probe]["httpGet"]
        try:
            with urllib.request.urlopen(f"http://{get['host']}:{get['port']}{get['path']}", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def live(server: ApiServer, pod: Pod) -> None:
    """Have the agent installed, updated and uninstalled, as the chart does it."""
    network = pod.on_node("/etc/cni/net.d/10-bridge.conflist")
    network.parent.mkdir(parents=True, exist_ok=True)
    network.write_text(NETWORK)
    plugin = pod.on_node("/opt/cni/bin/weir-cni")
    before = rules_of_node()
    with pod.started() as agent:
        entry = json.loads(network.read_text())["plugins"][-1]
        assert entry["type"] == "weir-cni"
        assert plugin.read_bytes() == program().read_bytes()
        # The plugin runs on the node, where these paths have to lead to the same.
        assert pod.on_node(entry["agentSocket"]).is_socket()
        kubeconfig = json.loads(pod.on_node(entry["kubeconfig"]).read_text())
        assert kubeconfig["clusters"][0]["cluster"]["server"] == server.url
        assert pod.on_node("/var/run/ztunnel/ztunnel.sock").is_socket()
        assert "table inet weir-host" in rules_of_node()
        # The DaemonSet is there: this is an update, and the next one goes on where this one ends.
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(slow(30)) == 0
    assert plugin.exists()
    assert "weir-cni" in network.read_text()
    with pod.started() as agent:
        server.ask("DELETE", DAEMON_SET, {"propagationPolicy": "Foreground"})
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(slow(40)) == 0
    assert network.read_text() == NETWORK
    assert not plugin.exists()
    assert rules_of_node() == before


def rules_of_node() -> str:
    """All rules and routes of the node's own network."""
    script = "nft list ruleset; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all"
    return subprocess.run(["sh", "-ec", script], check=True, capture_output=True, text=True).stdout


def main(folder: Path, image: Path | None = None) -> None:
    """Be a node, of which everything is in a folder."""
    # A node has a network; kube-apiserver wants to know an address of it.
    for each in ("set lo up", "add cni0 type bridge", "set cni0 up"):
        subprocess.run(["ip", "link", *each.split()], check=True)
    subprocess.run(["ip", "address", "add", "10.9.9.1/24", "dev", "cni0"], check=True)
    subprocess.run(["ip", "route", "add", "default", "via", "10.9.9.2"], check=True)
    mount("-t", "tmpfs", "tmpfs", folder)  # an overlay can't have its own upper layer below it
    with ApiServer() as server:
        server.ask("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        install = ("install", "weir", str(charts.CHART), "--kubeconfig", str(server.kubeconfig), "-n", NAMESPACE)
        home = {**os.environ, "HOME": str(folder)}  # where helm keeps what the API can do
        subprocess.run([charts.helm(), *install], check=True, stdout=subprocess.DEVNULL, env=home)
        live(server, Pod(server, folder, image))


if __name__ == "__main__":
    assert os.getpid() == 1, "start it in namespaces of its own"
    main(*map(Path, sys.argv[1:]))
