"""kubectl's plugin against the cluster: it finds the agent of a pod's node, and its exit code is weir's."""

import json

import pytest

from netns_tests.kubernetes.cluster_tests.conftest import Installed
from netns_tests.kubernetes.cluster_tests.webs import Webs

pytestmark = pytest.mark.timeout(300)


def test_status_of_a_pod_comes_from_its_own_node(installed: Installed, webs: Webs) -> None:
    for pod in webs.pods():
        name = f"pod/{webs.namespace}/{pod['metadata']['name']}"
        done = installed.weir.plugin("status", name, "--output", "json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)
        short = installed.weir.plugin("--namespace", webs.namespace, "status", name.replace(f"{webs.namespace}/", ""))
        assert short.returncode == 0, short.stderr
        assert name in short.stdout


def test_status_of_all_nodes(installed: Installed, webs: Webs) -> None:
    done = installed.weir.plugin("status")
    assert done.returncode == 0, done.stderr
    for node, pod in zip(installed.cluster.nodes, webs.pods(), strict=True):
        _, _, after = done.stdout.partition(f"== node {node.name}\n")
        own, _, _ = after.partition("== node ")
        assert f"pod/{webs.namespace}/{pod['metadata']['name']}" in own


@pytest.mark.parametrize("command", ["verify", "diff"])
def test_a_captured_pod_is_found_right(installed: Installed, webs: Webs, command: str) -> None:
    for pod in webs.pods():
        done = installed.weir.plugin(command, f"pod/{webs.namespace}/{pod['metadata']['name']}")
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_captured_pod_waits_for_nothing(installed: Installed, webs: Webs) -> None:
    name = f"pod/{webs.namespace}/{webs.pods()[0]['metadata']['name']}"
    done = installed.weir.plugin("wait", name, "--timeout", "10")
    assert done.returncode == 0, done.stdout + done.stderr


def test_doctor_examines_a_node_and_a_pod(installed: Installed, webs: Webs) -> None:
    for node, pod in zip(installed.cluster.nodes, webs.pods(), strict=True):
        name = f"pod/{webs.namespace}/{pod['metadata']['name']}"
        for arguments in (("--node", node.name, "doctor"), ("doctor", name)):
            done = installed.weir.plugin(*arguments, "--output", "json")
            assert done.returncode in (0, 1), done.stdout + done.stderr
            found = json.loads(done.stdout)
            errors = [each for each in found["findings"] if each["level"] == "error"]
            assert not errors


def test_a_pod_that_is_not_captured_is_told_by_the_exit_code(installed: Installed) -> None:
    pod = installed.earlier.pods()[1]
    done = installed.weir.plugin("verify", f"pod/{installed.earlier.namespace}/{pod['metadata']['name']}")
    assert done.returncode == 1, done.stdout + done.stderr


def test_what_is_not_there_is_refused(installed: Installed, webs: Webs) -> None:
    done = installed.weir.plugin("status", f"pod/{webs.namespace}/none")
    assert done.returncode == 2
    assert '"none" not found' in done.stderr
    done = installed.weir.plugin("--node", "node-z", "status")
    assert done.returncode == 2
    assert "no agent of Weir runs on node node-z" in done.stderr
