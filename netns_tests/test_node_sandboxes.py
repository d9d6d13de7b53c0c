"""An agent that has lost what it knew finds its pods again, and believes nothing that isn't so."""

import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from agent.kernel.netns import identify
from netns_tests.enrolling import slow
from netns_tests.mesh_proxy_process import MeshProxy
from netns_tests.node.stage import Node, Pod, bridge, portmap
from netns_tests.world import eventually
from tests.cni import AMBIENT

pytestmark = pytest.mark.timeout(600)  # the first one builds the plugin


class Known:
    """Two captured pods with processes, an agent that can be ended, and its proxy."""

    def __init__(self, node: Node, proxy: MeshProxy, web: list[Pod]) -> None:
        self.node, self.proxy, self.web = node, proxy, web

    @property
    def files(self) -> Path:
        """Where the agent keeps what it knows."""
        return self.node.agent.directory / "sandboxes"

    def rules(self) -> list[str]:
        """The pods' tables, with the handles that another writing would have changed."""
        listed = (each.command("nft", "-a", "-s", "list", "table", "inet", "weir-pod") for each in self.web)
        return [
            "\n".join(line for line in each.splitlines() if "# handle" in line and "table" not in line)
            for each in listed
        ]

    def again(self) -> None:
        """Start an agent, and wait until it has its pods and its proxy has heard of them."""
        self.node.agent.start(ready=False)
        self.proxy.wait("snapshot", times=2)
        self.node.wait_for("captured", *(each.pod for each in self.web))

    def sandboxes(self) -> list[str]:
        """What the agent says of the pods' namespaces."""
        said = self.node.agent.pods()
        return [said[each.pod]["identity"] for each in self.web]

    def written(self) -> list[str]:
        """What its files say."""
        found = []
        for each in self.web:
            with suppress(OSError, ValueError):
                said = json.loads((self.files / f"{each.uid}.json").read_text())
                found.append(f"{said['device']}:{said['inode']}")
        return found

    def real(self) -> list[str]:
        """What they are."""
        return [str(identify(each.path)) for each in self.web]


@pytest.fixture
def known() -> Iterator[Known]:
    with ExitStack() as stack:
        node = stack.enter_context(Node())
        proxy = stack.enter_context(MeshProxy(node.agent.zds, "--longest-wait=0.1"))
        node.agent.start(ready=False)
        proxy.wait("snapshot")
        node.label(AMBIENT)
        made = Known(node, proxy, node.start("web-0", "web-1"))
        node.wait_for("captured", *(each.pod for each in made.web))
        eventually(lambda: made.written() == made.real(), "what it knows is written down", slow(20))
        yield made


def lose(known: Known) -> None:
    shutil.rmtree(known.files)


def exchange(known: Known) -> None:
    """Let each pod's file say what the other's says, as if inodes had been used again."""
    one, other = (known.files / f"{each.uid}.json" for each in known.web)
    first, second = json.loads(one.read_text()), json.loads(other.read_text())
    one.write_text(json.dumps({**second, "uid": first["uid"], "cookie": first["cookie"]}))
    other.write_text(json.dumps({**first, "uid": second["uid"], "cookie": second["cookie"]}))


def another_boot(known: Known) -> None:
    for each in known.files.glob("*.json"):
        each.write_text(json.dumps({**json.loads(each.read_text()), "boot": "another"}))


def cut(known: Known) -> None:
    for each in known.files.glob("*.json"):
        each.write_text(each.read_text()[:-9])


@pytest.mark.parametrize("harm", [lose, exchange, another_boot, cut])
def test_pods_are_found_again_and_no_rule_is_written(known: Known, harm: object) -> None:
    rules = known.rules()
    assert known.sandboxes() == known.real()
    known.node.agent.end(signal.SIGKILL)
    assert callable(harm)
    harm(known)
    known.again()
    assert known.sandboxes() == known.real()
    assert known.rules() == rules
    eventually(lambda: known.written() == known.real(), "what it has found is written down", slow(20))


def test_what_an_agent_knew_of_pods_that_have_gone_is_forgotten(known: Known) -> None:
    known.node.agent.end(signal.SIGKILL)
    gone, _ = known.web
    (known.files / "0c0ffee0-0000-4000-8000-000000000000.json").write_text("{}")
    known.node.api.delete("pods", "shop", gone.pod)
    known.node.agent.start(ready=False)
    known.proxy.wait("snapshot", times=2)
    known.node.wait_for("captured", known.web[1].pod)
    eventually(
        lambda: [each.stem for each in known.files.iterdir()] == [known.web[1].uid],
        "files of pods that are there",
        slow(20),
    )


def test_a_pod_of_gvisor_is_refused_with_words_and_never_called_captured(known: Known) -> None:
    node = known.node
    (pod,) = node.create("walled", runtimeClassName="gvisor")
    *_, done = node.add([pod], bridge(), portmap(), node.plugin())[0]
    assert done["code"] != 0
    assert "runtimeClassName gvisor" in done["out"]
    said = node.agent.pods()["walled"]
    assert (said["step"], said["captured"]) == ("unfit", False)
    assert "gVisor" in said["reason"]
    assert "weir-pod" not in pod.command("nft", "list", "tables")


def test_a_runtime_class_of_any_name_is_told_by_its_processes_once_they_run(known: Known, tmp_path: Path) -> None:
    node = known.node
    program = tmp_path / "runsc-sandbox"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    walled, other = node.create("walled", "other", runtimeClassName="fast")
    for pod, done in zip((walled, other), node.add([walled, other], bridge(), portmap(), node.plugin()), strict=True):
        assert done[-1]["code"] == 0
        pod.result = json.loads(done[-1]["out"])
    node.live(walled, str(program), "600")
    node.live(other)
    node.running(walled, other)
    node.wait_for("unfit", "walled")
    node.wait_for("captured", "other")
    assert "runsc-sandbox" in node.agent.pods()["walled"]["reason"]
    eventually(lambda: "weir-pod" not in walled.command("nft", "list", "tables"), "its rules are gone", slow(20))
    eventually(lambda: walled.uid in known.proxy.uids("delete"), "the proxy is told", slow(20))

    def redirection() -> object:
        found = node.api.get("pods", "shop", "walled")["metadata"].get("annotations", {})
        return found.get("ambient.istio.io/redirection")

    eventually(lambda: redirection() is None, "nobody is told that it is captured", slow(20))
