"""An agent on a real node that stops: an upgrade leaves everything, an uninstall leaves the node as it was before."""

import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from agent.cni.conflist import PLUGIN
from netns_tests.enrolling import FAMILIES, alive, slow
from netns_tests.mesh_proxy_process import MeshProxy
from netns_tests.node.stage import NODE, Node, Pod
from netns_tests.stream import Stream
from netns_tests.world import Host, eventually
from tests.cni import AMBIENT, program
from tests.cni_folders import CALICO, Folders

NAME = {"namespace": "istio-system", "name": "weir"}
REDIRECTION = "ambient.istio.io/redirection"
pytestmark = pytest.mark.timeout(600)  # the first one builds the plugin


class Installed:
    """A node with an agent of a DaemonSet, which has put its plugin into a folder."""

    def __init__(self, node: Node, folders: Folders, conflist: Path) -> None:
        """Describe it."""
        self.node, self.folders, self.conflist = node, folders, conflist
        self.files = folders.seen()
        self.web: list[Pod] = []

    def rules(self) -> list[str]:
        """Everything of the node and its pods that could be left."""
        script = (
            "nft -s list ruleset; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all proto 119"
        )
        return [self.node.machine.state(), *(each.command("sh", "-c", script) for each in self.web)]

    def annotations(self) -> list[str | None]:
        """The pods' redirection, as the API has it."""
        pods = (self.node.api.get("pods", "shop", each.pod) for each in self.web)
        return [each["metadata"].get("annotations", {}).get(REDIRECTION) for each in pods]

    def capture(self) -> None:
        """Have the pods captured, with the plugin in place."""
        self.node.label(AMBIENT)
        self.node.wait_for("captured", *(each.pod for each in self.web))
        eventually(lambda: self.annotations() == ["enabled"] * len(self.web), "the annotations say so", slow(20))
        eventually(lambda: PLUGIN in self.conflist.read_text(), "the plugin is installed", slow(20))

    def uninstall(self) -> None:
        """Take the DaemonSet away, as helm and kubectl do."""
        self.node.api.delete("daemonsets", NAME["namespace"], NAME["name"])


def arguments(folders: Folders) -> list[str]:
    return [
        "--install-cni",
        f"--cni-bin-dir={folders.bin}",
        f"--cni-conf-dir={folders.conf}",
        f"--plugin={folders.program}",
        f"--agent-namespace={NAME['namespace']}",
        f"--daemon-set={NAME['name']}",
    ]


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


@pytest.fixture
def installed(folders: Folders) -> Iterator[Installed]:
    conflist = folders.write("10-calico.conflist", CALICO)
    program()
    with ExitStack() as stack:
        node = stack.enter_context(Node(*arguments(folders)))
        proxy = stack.enter_context(MeshProxy(node.agent.zds, "--longest-wait=0.1"))
        made = Installed(node, folders, conflist)
        node.api.put("daemonsets", {"metadata": {**NAME, "uid": "d"}})
        node.agent.start(ready=False)
        proxy.wait("snapshot")
        probed = [{"name": "app", "readinessProbe": {"tcpSocket": {"port": 1}}}]
        made.web = node.start("web-0", "web-1", containers=probed)
        yield made


@pytest.fixture
def outside(installed: Installed) -> Iterator[Host]:
    with Host.create("outside") as made:
        made.v4, made.v6 = "10.9.0.2", "fd09::2"
        installed.node.machine.connect(
            made, "wan", here=("10.9.0.1/24", "fd09::1/64"), there=("10.9.0.2/24", "fd09::2/64")
        )
        made.ip("route add default via 10.9.0.1", "route add ::/0 via fd09::1")
        yield made


def test_an_upgrade_leaves_everything(installed: Installed) -> None:
    installed.capture()
    rules, files = installed.rules(), installed.folders.seen()
    assert installed.node.agent.end() == 0
    assert (_unowned(installed.rules()), installed.folders.seen()) == (_unowned(rules), files)
    assert installed.annotations() == ["enabled"] * 2
    assert "weir-host" in rules[0]


def test_an_uninstall_drains_and_leaves_the_node_as_it_was(installed: Installed, outside: Host) -> None:
    before = _without_weir(installed.rules())
    installed.capture()
    agent = installed.node.agent
    with ExitStack() as stack:
        streams = [
            stack.enter_context(Stream(each, outside, (outside.address(family), 0)))
            for each in installed.web
            for family in FAMILIES
        ]
        installed.uninstall()
        os.kill(agent.pid, signal.SIGTERM)
        eventually(lambda: installed.annotations() == [None] * 2, "the annotations are gone", slow(20))
        assert PLUGIN not in installed.conflist.read_text(), "no pod is to wait for an agent that goes"
        assert alive(streams) == ["alive"] * len(streams)
        for each in streams:
            each.finish()
        assert ended(installed.node) == 0
    assert installed.rules() == before
    assert installed.folders.seen() == installed.files
    assert "nothing of Weir is left on this node" in agent.log
    assert agent.weir("remove", "--all").out == "nothing of Weir is in any namespace\n"


def test_what_a_killed_uninstall_leaves_is_swept(installed: Installed, outside: Host) -> None:
    before = _without_weir(installed.rules())
    installed.capture()
    agent = installed.node.agent
    with Stream(installed.web[0], outside, (outside.v4, 0)):
        installed.uninstall()
        os.kill(agent.pid, signal.SIGTERM)
        eventually(lambda: PLUGIN not in installed.conflist.read_text(), "the plugin is gone", slow(20))
        eventually(lambda: installed.annotations() == [None] * 2, "the pods are drained", slow(20))
        agent.end(signal.SIGKILL)
        assert installed.rules() != before
        assert agent.weir("remove", "--all").code == 0
    assert installed.rules() == before
    assert installed.folders.seen() == installed.files


def ended(node: Node) -> int:
    """Wait until the agent has ended by itself; return its exit code."""
    assert node.agent.process is not None
    try:
        return node.agent.process.wait(slow(40))
    finally:
        node.agent.process.kill()
        node.agent.process.wait()
        node.agent.process = None


def _without_weir(rules: list[str]) -> list[str]:
    """Without the node's table, which the agent makes first thing: the rest is as it was before the agent came."""
    return [re.sub(r"table inet weir-host \{.*?\n\}\n", "", each, flags=re.DOTALL) for each in rules]


def _unowned(rules: list[str]) -> list[str]:
    """Without who owns a table, which is nobody once the agent has gone."""
    return [re.sub(r"\n\tflags [a-z,]*| # progname \S+", "", each) for each in rules]


@pytest.mark.parametrize("kind", ["proxies' socket", "istio's entry", "istio's pod"])
def test_another_agent_is_refused_before_anything_is_changed(folders: Folders, kind: str) -> None:
    conflist = folders.write("10-calico.conflist", CALICO)
    document: Any = {
        "metadata": {
            "name": "istio-cni-node-x",
            "namespace": "istio-system",
            "uid": "i",
            "labels": {"k8s-app": "istio-cni-node", "app.kubernetes.io/name": "istio-cni"},
        },
        "spec": {"nodeName": NODE, "hostNetwork": True, "containers": [{"name": "install-cni"}]},
        "status": {"phase": "Running"},
    }
    with Node(*arguments(folders)) as node, ExitStack() as stack:
        if kind == "proxies' socket":
            node.agent.directory.mkdir(exist_ok=True)
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            listener.bind(str(node.agent.zds))
            listener.listen()
        elif kind == "istio's entry":
            conflist.write_text(CALICO.replace('"portmap"', '"istio-cni"'))
        else:
            node.api.put("pods", document)
        before, files = node.machine.state(), folders.seen()
        node.agent.start(ready=False)
        assert ended(node) != 0
        said = {
            "proxies' socket": str(node.agent.zds),
            "istio's entry": str(conflist),
            "istio's pod": "istio-cni-node-x",
        }
        assert said[kind] in node.agent.log
        assert (node.machine.state(), folders.seen()) == (before, files)
