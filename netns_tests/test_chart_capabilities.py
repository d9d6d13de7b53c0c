"""The agent with just the rights that its pod has in a cluster, on a root file system that is read-only like there.

Each capability is proved to be needed: without it the agent can't do a thing that users rely on.
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from netns_tests.command import Command
from netns_tests.daemon import CAPTURE, Daemon, rules, targets
from netns_tests.namespace import Namespace
from netns_tests.patience import slow
from netns_tests.world import eventually

ROOT = Path(__file__).parent.parent
MANIFESTS = ROOT / "deploy/kubernetes/weir.yaml"
NOBODY = 65534
# What the agent finds of the node's file system: nothing that it could write but the mounts of its own.
READ_ONLY = (
    'for each in "$1" "$2"; do mount --bind "$each" "$each"; done; mount -o remount,bind,ro /; shift 2; exec "$@"'
)
INSTALL = """
import sys
from pathlib import Path
from agent.cni.entry import Entry
from agent.cni.installation import Installation
from agent.cni.installer import Installer
from agent.errors import WeirError
node = Path(sys.argv[1])
entry = Entry(agent_socket="/run/weir/cni.sock", kubeconfig="/run/weir/cni-kubeconfig", selectors=())
wanted = Installation(
    program=node / "weir-cni", entry=entry, bin_directory=node / "bin", conf_directory=node / "net.d"
)
try:
    print(Installer(wanted).put())
except WeirError as error:
    sys.exit(str(error))
"""


def container() -> dict[str, Any]:
    """The agent's container in the plain manifests."""
    found = (each for each in yaml.safe_load_all(MANIFESTS.read_text()) if each["kind"] == "DaemonSet")
    (only,) = next(found)["spec"]["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


CAPABILITIES = tuple(str(each).lower() for each in container()["securityContext"]["capabilities"]["add"])


def with_only(capabilities: Iterable[str]) -> tuple[str, ...]:
    """What starts a program as a container runtime starts the agent."""
    kept = "".join(f",+{each}" for each in capabilities)
    return ("setpriv", "--pdeathsig", "KILL", "--no-new-privs", f"--bounding-set=-all{kept}", "--inh-caps=-all")


@dataclass(frozen=True)
class Node:
    """A named namespace, another one that only a process of another user keeps, and CNI folders of that user's."""

    pod: Namespace
    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def targets(self) -> str:
        return targets([self.pod, ("theirs", f"pid:{self.process.pid}")], CAPTURE)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with ExitStack() as stack:
        pod, other = (stack.enter_context(Namespace.create(name)) for name in ("pod", "other"))
        process = other.spawn(["sleep", "infinity"], user=NOBODY)
        folder = tmp_path / "node"
        for each in (folder / "net.d", folder / "bin"):
            each.mkdir(parents=True)
            each.chmod(0o755)
        (folder / "net.d/10-bridge.conflist").write_text(
            '{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "bridge"}]}'
        )
        (folder / "weir-cni").write_bytes(b"plugin")
        for each in (folder / "net.d", folder / "bin"):
            os.chown(each, NOBODY, NOBODY)
        yield Node(pod, process, folder)


class Confined(Daemon):
    """The daemon with some capabilities, on a root file system that is read-only but for its folder and the node's."""

    def __init__(self, directory: Path, node: Node, capabilities: Iterable[str]) -> None:
        directory.mkdir()
        super().__init__(directory, node.targets)
        inside = ("unshare", "--mount", "--propagation", "slave", "sh", "-ec", READ_ONLY, "sh")
        prefix = (*inside, str(directory), str(node.folder), *with_only(capabilities))
        self._started = Command(self.directory, prefix)


def standing(directory: Path, node: Node, capabilities: Iterable[str]) -> dict[str, tuple[str, str]]:
    """State and reason of each target under a daemon with these capabilities; its log where it doesn't even run."""
    with Confined(directory, node, capabilities) as daemon:
        daemon.start(ready=False)
        process = daemon.process
        assert process is not None

        def settled() -> bool:
            try:
                return process.poll() is not None or daemon.get("/readyz")[0] == 200
            except OSError:
                return False

        eventually(settled, "the daemon has looked at each target, or ended", slow(30))
        if process.poll() is not None:
            return {"daemon": ("ended", daemon.log)}
        return {name: (daemon.state(name), daemon.target(name)["reason"]) for name in ("t0", "theirs")}


def installed(node: Node, capabilities: Iterable[str]) -> str:
    """What the installer says of putting the plugin into folders of another user; empty when it has."""
    argv = [*with_only(capabilities), sys.executable, "-c", INSTALL, str(node.folder)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stderr


def without(name: str) -> tuple[str, ...]:
    return tuple(each for each in CAPABILITIES if each != name)


def test_the_rights_of_the_chart_are_enough(tmp_path: Path, node: Node) -> None:
    # Nothing listens on the proxy's ports, so what is captured is degraded; that is another matter.
    assert {name: state for name, (state, _) in standing(tmp_path / "all", node, CAPABILITIES).items()} == {
        "t0": "degraded",
        "theirs": "degraded",
    }
    assert "nat-out" in rules(node.pod)
    assert installed(node, CAPABILITIES) == ""
    assert (node.folder / "bin/weir-cni").read_bytes() == b"plugin"
    assert '"weir-cni"' in (node.folder / "net.d/10-bridge.conflist").read_text()


def test_the_chart_asks_for_those_that_are_tried_here() -> None:
    assert set(CAPABILITIES) == {"net_admin", "sys_admin", "sys_ptrace", "dac_override"}


@pytest.mark.parametrize("name", ["net_admin", "sys_admin"])
def test_nothing_is_captured_without(name: str, tmp_path: Path, node: Node) -> None:
    found = standing(tmp_path / name, node, without(name))
    assert set(found) == {"daemon"}, found
    assert "not permitted" in found["daemon"][1]
    assert "nat-out" not in rules(node.pod)


def test_pods_of_other_users_are_not_captured_without_sys_ptrace(tmp_path: Path, node: Node) -> None:
    found = standing(tmp_path / "ptrace", node, without("sys_ptrace"))
    assert (found["t0"][0], found["theirs"][0]) == ("degraded", "failed"), found


def test_the_plugin_is_not_put_into_folders_of_others_without_dac_override(node: Node) -> None:
    assert "Permission denied" in installed(node, without("dac_override"))
    assert not (node.folder / "bin/weir-cni").exists()
