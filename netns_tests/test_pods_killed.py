"""An agent that is killed while pods start: each of them starts in the end, captured, and nothing is left of them."""

import json
import random
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from netns_tests.daemon import is_clean
from netns_tests.enrolling import slow
from netns_tests.mesh_proxy_process import MeshProxy
from netns_tests.node.stage import Node, bridge, portmap
from netns_tests.world import eventually
from tests.cni import AMBIENT

KILLS = 4
PROBES = [{"name": "app", "readinessProbe": {"tcpSocket": {"port": 8081}}}]
pytestmark = pytest.mark.timeout(600)  # the first one builds the plugin


@pytest.fixture
def node() -> Iterator[Node]:
    with Node() as made:
        made.label(AMBIENT)
        made.agent.start()
        yield made


def test_kills_in_the_middle_of_an_add_leave_nothing_half_done(node: Node) -> None:
    chance = random.Random(6)
    with MeshProxy(node.agent.zds, "--longest-wait=0.1"):
        for number in range(KILLS):
            (pod,) = node.create(f"web-{number}", containers=PROBES)
            *_, done = node.add([pod], bridge())[0]
            assert done["code"] == 0
            pod.result = json.loads(done["out"])
            killer = threading.Timer(chance.uniform(0.0, 0.03), node.agent.end, (signal.SIGKILL,))
            killer.start()
            *_, done = node.add([pod], node.plugin())[0]
            killer.join()
            node.agent.start(ready=False)
            # As a runtime does after a failure; here with the same namespace, so that all that was left counts.
            deadline = time.monotonic() + slow(20)
            while done["code"] != 0 and time.monotonic() < deadline:
                node.add([pod], node.plugin(), command="DEL")
                *_, done = node.add([pod], node.plugin())[0]
            assert done["code"] == 0, done["out"] + node.agent.log[-3000:]
            node.running(pod)
            node.live(pod)
        node.agent.eventually(lambda: node.agent.get("/readyz")[0] == 200, "the last agent is ready")
        node.wait_for("captured")
        for pod in node.pods.values():
            assert "redirect" in pod.command("nft", "list", "ruleset")
            assert pod.v4 in node.host.command("nft", "list", "table", "inet", "weir-host")
            node.add([pod], node.plugin(), portmap(), command="DEL")
            node.api.delete("pods", "shop", pod.pod)
        files = [node.agent.directory / "sandboxes", node.agent.directory / "namespaces"]
        eventually(
            lambda: not any(list(each.glob("*.json")) for each in files), "nothing is remembered of them", slow(20)
        )
        eventually(
            lambda: "elements" not in node.host.command("nft", "list", "table", "inet", "weir-host"),
            "no pod is in the node's table",
            slow(20),
        )


def test_a_pod_whose_add_failed_under_a_dead_agent_is_not_captured_by_the_next(node: Node) -> None:
    with MeshProxy(node.agent.zds, "--longest-wait=0.1", "--silent=add") as proxy:
        (pod,) = node.create("web")
        *_, done = node.add([pod], bridge())[0]
        pod.result = json.loads(done["out"])
        answers = []
        asking = threading.Thread(target=lambda: answers.append(node.add([pod], node.plugin())))
        asking.start()
        proxy.wait("add", pod.uid)
        node.agent.end(signal.SIGKILL)
        asking.join()
        assert answers[0][-1][-1]["code"] != 0
        proxy.tell("silent", kinds=[])
        proxy.forget()
        node.agent.start()
        proxy.wait("snapshot")
        assert not proxy.uids("add")
        assert not proxy.uids("keep")
        node.wait_for("starting", "web")
        assert is_clean(pod)


def test_a_command_cannot_release_what_labels_want(node: Node) -> None:
    with MeshProxy(node.agent.zds, "--longest-wait=0.1"):
        (pod,) = node.start("web")
        node.wait_for("captured")
        for change in (lambda names: node.agent.client.remove(names, 0.0), node.agent.client.apply):
            (told,) = change(("pod/shop/web",))
            assert (str(told.state), "the labels of the pod" in told.reason) == ("failed", True)
        assert node.agent.steps() == {"web": "captured"}
        assert "redirect" in pod.command("nft", "list", "ruleset")
