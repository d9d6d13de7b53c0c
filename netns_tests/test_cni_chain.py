"""The plugin in a real chain behind Debian's bridge, host-local and portmap, installed as on a node, run as by libcni.

The node is a network namespace, and so is each pod; the container runtime's part is played here.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from agent.cni.conflist import PLUGIN
from agent.cni.installation import Installation
from agent.cni.installer import Installer
from agent.cni.protocol import Add, Answer, Check, Delete, Request, Verdict
from agent.kernel.netns import node_namespace
from netns_tests.namespace import Namespace
from tests.cni import UID, Agent, Done, entry, program, unused

PLUGINS = next(
    (each for each in (Path("/usr/lib/cni"), Path("/usr/libexec/cni")) if each.is_dir()), Path("/opt/cni/bin")
)
SECONDS = 60.0
pytestmark = pytest.mark.timeout(600)  # the first one builds the plugin


@dataclass
class Node:
    """A node: its namespace, its folders, and its runtime."""

    namespace: Namespace
    folder: Path
    agent: Agent
    called: list[str] = field(default_factory=list)

    @property
    def conf(self) -> Path:
        return self.folder / "net.d"

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    def leases(self) -> set[str]:
        """The addresses that are given away."""
        return {each.name for each in (self.folder / "leases").rglob("10.*")}

    def links(self) -> set[str]:
        found = json.loads(self.namespace.command("ip", "-j", "link"))
        return {each["ifname"] for each in found} - {"lo", "cni0"}

    def call(self, command: str, plugin: str, configuration: dict[str, Any], netns: str, pod: str) -> Done:
        """Start one plugin."""
        self.called.append(f"{command} {plugin}")
        environment = {
            "PATH": os.environ["PATH"],
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": f"sandbox-of-{pod}",
            "CNI_NETNS": netns,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": f"{self.bin}:{PLUGINS}",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={pod};K8S_POD_UID={UID}",
        }
        found = next(each for each in (self.bin / plugin, PLUGINS / plugin) if each.exists())

        def start() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [found],
                input=json.dumps(configuration),
                env=environment,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )

        done = self.namespace.run(start)
        return Done(done.returncode, done.stdout, done.stderr)

    def chain(self) -> dict[str, Any]:
        """The configuration that the runtime uses: the first."""
        document = json.loads(min(self.conf.iterdir()).read_text())
        assert isinstance(document, dict)
        return document

    def add(self, pod: Namespace, name: str = "web-0") -> Done:
        """Run the whole chain as libcni does; what fails is deleted again."""
        return self._each("ADD", pod, name, self.chain()["plugins"], None)

    def check(self, pod: Namespace, result: dict[str, Any], name: str = "web-0") -> Done:
        return self._each("CHECK", pod, name, self.chain()["plugins"], result)

    def delete(self, pod: Namespace, result: dict[str, Any] | None, name: str = "web-0") -> Done:
        return self._each("DEL", pod, name, self.chain()["plugins"][::-1], result)

    def _each(
        self, command: str, pod: Namespace, name: str, plugins: list[dict[str, Any]], result: dict[str, Any] | None
    ) -> Done:
        chain, done = self.chain(), Done(0, "{}", "")
        for plugin in plugins:
            given = {**plugin, "name": chain["name"], "cniVersion": chain["cniVersion"]}
            given |= {"prevResult": result} if result is not None else {}
            done = self.call(command, plugin["type"], given, str(pod.path), name)
            if done.code != 0:
                break
            result = json.loads(done.out) if command == "ADD" else result
        return done


@pytest.fixture(params=["0.3.1", "0.4.0", "1.0.0"])
def version(request: pytest.FixtureRequest) -> str:
    """Every version that Debian's plugins speak."""
    return str(request.param)


@pytest.fixture
def node(tmp_path: Path, version: str) -> Iterator[Node]:
    assert (PLUGINS / "bridge").exists(), f"install containernetworking-plugins: there is no bridge in {PLUGINS}"
    run = unused(tmp_path)
    for name in ("net.d", "bin"):
        (tmp_path / name).mkdir()
    conflist = {
        "name": "pods",
        "cniVersion": version,
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(tmp_path / "leases"),
                    "ranges": [[{"subnet": "10.77.0.0/24"}]],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
    (tmp_path / "net.d/10-pods.conflist").write_text(json.dumps(conflist, indent=4))
    installation = Installation(
        program=program(), entry=entry(run), bin_directory=tmp_path / "bin", conf_directory=tmp_path / "net.d"
    )
    with Namespace.create("node") as namespace, Agent(run) as agent:
        made = Node(namespace, tmp_path, agent)
        installer = Installer(installation)
        assert installer.put().ready
        yield made
        assert installer.remove() == ()
        assert json.loads((tmp_path / "net.d/10-pods.conflist").read_text()) == conflist


def addresses(pod: Namespace) -> set[str]:
    found = json.loads(pod.command("ip", "-j", "-4", "addr", "show", "scope", "global"))
    return {each["local"] for link in found for each in link["addr_info"]}


def test_a_pod_is_added_checked_and_deleted(node: Node, version: str) -> None:
    seen: list[set[str]] = []

    async def decide(request: Request) -> Answer:
        # When the agent is asked, the pod's network is there: it can look at it and put its rules in.
        if isinstance(request, Add):
            seen.append(addresses(pod))
        return Answer(verdict=Verdict.CAPTURED)

    node.agent.answer = decide
    with Namespace.create("pod") as pod:
        done = node.add(pod)
        result = done.result
        assert result["cniVersion"] == version
        (address,) = addresses(pod)
        assert seen == [{address}]
        (asked,) = node.agent.asked
        assert isinstance(asked, Add)
        assert asked.sandbox.netns == str(pod.path)
        assert asked.sandbox.addresses == (ip_address(address),)
        assert asked.sandbox.uid == UID
        # The result is portmap's own, to the byte.
        assert [each["address"] for each in result["ips"]] == [f"{address}/24"]
        if version != "0.3.1":
            assert node.check(pod, result).code == 0
            assert isinstance(node.agent.asked[-1], Check)
        assert node.leases() == {address}
        assert node.delete(pod, result).code == 0
        assert node.called[-3:] == [f"DEL {PLUGIN}", "DEL portmap", "DEL bridge"]
        assert isinstance(node.agent.asked[-1], Delete)
        assert (node.leases(), node.links(), addresses(pod)) == (set(), set(), set())


def test_a_pod_that_is_refused_leaves_nothing_behind(node: Node) -> None:
    node.agent.answer = Answer(
        verdict=Verdict.REFUSED, reason="pod shop/web-0: no proxy is connected", hint="see ztunnel"
    )
    with Namespace.create("pod") as pod:
        for _ in range(2):  # the kubelet tries again
            error = node.add(pod).error
            assert (error["msg"], error["details"]) == ("pod shop/web-0: no proxy is connected", "see ztunnel")
            assert node.delete(pod, None).code == 0
            assert (node.leases(), node.links()) == (set(), set())
        node.agent.answer = Answer(verdict=Verdict.CAPTURED)
        assert node.add(pod).code == 0


def test_a_pod_is_deleted_whose_namespace_has_gone(node: Node) -> None:
    with Namespace.create("pod") as pod:
        result = node.add(pod).result
    assert node.delete(pod, result).code == 0
    assert node.delete(pod, None).code == 0, "and once more"
    assert node.leases() == set()


def test_the_nodes_own_namespace_is_never_asked_about(node: Node) -> None:
    configuration = {**node.chain()["plugins"][-1], "name": "pods", "cniVersion": "1.0.0"}
    own = str(node_namespace())
    done = node.call("ADD", PLUGIN, configuration, own, "web-0")
    assert done.error["msg"] == f"pod shop/web-0: netns = '{own}': is the node's own"
    assert node.agent.asked == []


def test_only_root_and_the_owner_may_ask() -> None:
    """Mode and user are checked, each on its own: here the mode lets everybody in."""
    folder = Path(tempfile.mkdtemp(prefix="weir-cni-"))
    folder.chmod(0o755)
    try:
        with Agent(folder) as agent:
            for url in ("/v1/cni/add", "/cmdadd", "/v1/cni/status"):
                curl = [
                    "curl",
                    "-s",
                    "-X",
                    "POST",
                    "-d",
                    "{}",
                    "--unix-socket",
                    str(agent.places.socket),
                    f"http://agent{url}",
                ]
                closed = subprocess.run(curl, capture_output=True, text=True, user=65534, check=False)
                assert closed.returncode == 7, "it can't be opened"
                agent.places.socket.chmod(0o666)
                refused = subprocess.run(curl, capture_output=True, text=True, user=65534, check=True)
                agent.places.socket.chmod(0o600)
                assert "this socket is for its owner and for root" in refused.stdout
            assert agent.asked == []
            assert {each.status for each in agent.served} == {403}
    finally:
        shutil.rmtree(folder)
