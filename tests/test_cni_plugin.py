"""The CNI plugin as a container runtime starts it, against the agent's own server."""

import json
import os
import shutil
import subprocess
import time
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.cni.protocol import Add, Answer, Attachment, Check, Collect, Delete, Sandbox, Status, Verdict
from tests.cni import VERSIONS, Agent, Runtime, entry, program, result, unused
from tests.packages import ROOT

REFUSED = Answer(
    verdict=Verdict.REFUSED, reason="pod shop/web-0: no proxy is connected", hint="see ztunnel on this node"
)


pytestmark = pytest.mark.timeout(600)  # the first one builds the plugin


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return unused(tmp_path)


@pytest.fixture
def runtime(folder: Path) -> Runtime:
    return Runtime(entry(folder))


def sandbox(runtime: Runtime) -> Sandbox:
    namespace, _, name = runtime.pod.partition("/")
    return Sandbox(
        namespace=namespace,
        pod=name,
        uid=runtime.uid,
        container=runtime.container,
        interface="eth0",
        netns=runtime.netns,
        addresses=(ip_address("10.0.0.2"), ip_address("fd00::2")),
    )


def test_the_program_is_static_and_its_source_short_and_as_gofmt_writes_it() -> None:
    content = program().read_bytes()
    assert content.startswith(b"\x7fELF")
    assert b"ld-linux" not in content, "it needs nothing of the node"
    sources = sorted((ROOT / "agent/cni/plugin").glob("*.go"))
    assert sum(len(each.read_text().splitlines()) for each in sources) < 300
    gofmt = shutil.which("gofmt") or "/usr/local/go/bin/gofmt"
    said = subprocess.run([gofmt, "-d", *sources], capture_output=True, text=True, check=True)
    assert said.stdout == ""


# With an agent.


@pytest.mark.parametrize("version", VERSIONS)
def test_a_pod_starts_when_the_agent_says_so_with_the_networks_own_result(folder: Path, version: str) -> None:
    runtime = Runtime(entry(folder), version=version)
    with Agent(folder) as agent:
        done = runtime.call("ADD")
    assert agent.asked == [Add(sandbox=sandbox(runtime))]
    # To the byte, with what no version of CNI knows.
    assert done.out == json.dumps(result(version)) + "\n"
    assert done.code == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_deletes_and_checks(folder: Path, version: str) -> None:
    runtime = Runtime(entry(folder), version=version)
    with Agent(folder) as agent:
        if version != "0.3.1":  # CHECK came with 0.4.0
            assert runtime.call("CHECK").code == 0
        assert runtime.call("DEL").code == 0
    checked = [] if version == "0.3.1" else [Check(sandbox=sandbox(runtime))]
    assert agent.asked == [*checked, Delete(sandbox=sandbox(runtime))]


def test_it_says_which_versions_it_speaks(runtime: Runtime) -> None:
    supported = runtime.call("VERSION", json.dumps({"cniVersion": "1.0.0"})).result["supportedVersions"]
    assert set(VERSIONS) <= set(supported)


def test_a_refusal_fails_the_pod_in_the_agents_own_words(folder: Path, runtime: Runtime) -> None:
    with Agent(folder, REFUSED):
        error = runtime.call("ADD").error
    assert (error["msg"], error["details"]) == (REFUSED.reason, REFUSED.hint)
    assert error["code"] >= 100


def test_a_check_fails_when_the_agent_says_so(folder: Path, runtime: Runtime) -> None:
    with Agent(folder, REFUSED):
        assert runtime.call("CHECK").error["msg"] == REFUSED.reason


def test_a_delete_never_fails(folder: Path, runtime: Runtime) -> None:
    assert runtime.call("DEL").code == 0, "no agent"
    with Agent(folder, REFUSED):
        assert runtime.call("DEL").code == 0
        bare = json.dumps({"cniVersion": "1.0.0", "name": "net", **runtime.given.document()})
        assert runtime.call("DEL", bare, CNI_NETNS="").code == 0, "nothing is left of the sandbox"
        broken = json.dumps({"cniVersion": "1.0.0", "name": "net", "type": "weir-cni", "failOpen": 7})
        assert runtime.call("DEL", broken).code == 0, "its own entry can't be read"
    (folder / "cni.sock").unlink()
    (folder / "cni.sock").write_text("no socket")
    assert runtime.call("DEL").code == 0


def test_what_a_runtime_still_has_reaches_the_agent(folder: Path) -> None:
    kept = [{"containerID": "a1", "ifname": "eth0"}, {"containerID": "b2", "ifname": "net1"}]
    runtime = Runtime(entry(folder), version="1.1.0", beside={"cni.dev/valid-attachments": kept})
    with Agent(folder) as agent:
        assert runtime.call("GC").code == 0
    assert agent.asked == [Collect(kept=frozenset({Attachment("a1", "eth0"), Attachment("b2", "net1")}))]
    assert runtime.call("GC").code == 0, "no agent"


@pytest.mark.parametrize(
    "pod", ["kube-system/coredns-1", "istio-system/ztunnel-x7k2p", "weir-system/weir-9d8f7", "/", ""]
)
def test_some_pods_are_never_asked_about(folder: Path, pod: str) -> None:
    """Excluded namespaces, the agent's own pod, the proxy's, and what is no pod: they start with nobody there."""
    runtime = Runtime(entry(folder), pod=pod)
    assert runtime.call("ADD").result == result("1.0.0")
    assert runtime.call("CHECK").code == 0
    with Agent(folder, REFUSED) as agent:
        assert runtime.call("ADD").code == 0
        assert runtime.call("DEL").code == 0
    assert agent.asked == []


@pytest.mark.parametrize("pod", ["shop/ztunnel-x7k2p", "istio-system/waypoint", "kube-system2/coredns-1"])
def test_names_alike_are_asked_about(folder: Path, pod: str) -> None:
    with Agent(folder) as agent:
        assert Runtime(entry(folder), pod=pod).call("ADD").code == 0
    assert len(agent.asked) == 1


def test_without_a_network_before_it_there_is_still_a_result(folder: Path, runtime: Runtime) -> None:
    for previous in ({}, {"prevResult": None}):
        document = {"cniVersion": "1.0.0", "name": "net", **runtime.given.document(), **previous}
        with Agent(folder) as agent:
            assert runtime.call("ADD", json.dumps(document)).result == {"cniVersion": "1.0.0"}
        (asked,) = agent.asked
        assert isinstance(asked, Add)
        assert asked.sandbox.addresses == ()


@pytest.mark.parametrize(
    "configuration",
    [
        '{"cniVersion": "1.0.0", "name": "net", "type": "weir-cni", "failOpen": 7}',
        '{"cniVersion": "1.0.0", "name": "net", "type": "weir-cni", "failOpen": "shop"}',
    ],
)
def test_an_entry_that_cannot_be_read_says_so(runtime: Runtime, configuration: str) -> None:
    error = runtime.call("ADD", configuration).error
    assert "its entry can't be read" in error["msg"]
    assert "installer" in error["details"]


def test_hostile_names_are_refused_by_the_agent(folder: Path) -> None:
    with Agent(folder) as agent:
        for runtime in (
            Runtime(entry(folder), pod="shop/web\n0"),
            Runtime(entry(folder), pod="shop/../../kube-system"),
            Runtime(entry(folder), pod=f"shop/{'a' * 254}"),
            Runtime(entry(folder), netns="/var/run/netns/../../proc/1/ns/net"),
        ):
            assert "request not understood" in runtime.call("ADD").error["msg"]
    assert agent.asked == []


# Whether the node is ready.


def test_status_fails_only_when_the_agent_stays_away(folder: Path) -> None:
    patient = Runtime(entry(folder, status_grace=3600.0), version="1.1.0")
    assert patient.call("STATUS").code == 0, "it may be restarting"
    assert patient.call("STATUS", CNI_CONTAINERID="", CNI_NETNS="", CNI_IFNAME="", CNI_ARGS="").code == 0
    time.sleep(0.05)
    runtime = Runtime(entry(folder, status_grace=0.01), version="1.1.0")
    error = runtime.call("STATUS").error
    assert error["code"] == 50
    assert "Weir could capture no pod" in error["msg"]
    with Agent(folder) as agent:
        assert runtime.call("STATUS").code == 0
        assert agent.asked == [Status()]
    assert runtime.call("STATUS").code == 0, "it begins anew"


def test_status_counts_what_the_agent_says_of_itself(folder: Path) -> None:
    runtime = Runtime(entry(folder, status_grace=0.001), version="1.1.0")
    with Agent(folder, Answer(verdict=Verdict.REFUSED, reason="the API has been away since 12:00")):
        runtime.call("STATUS")
        time.sleep(0.02)
        assert "the API has been away since 12:00" in runtime.call("STATUS").error["msg"]


def test_an_agent_that_begins_to_listen_forgets_how_long_it_was_away(folder: Path) -> None:
    runtime = Runtime(entry(folder, status_grace=0.2), version="1.1.0")
    assert runtime.call("STATUS").code == 0
    time.sleep(0.3)
    with Agent(folder):
        pass
    assert runtime.call("STATUS").code == 0


@pytest.mark.parametrize("mark", ["", "soon\n", "99999999999\n", "-1"])
def test_a_mark_that_cannot_be_true_is_written_anew(folder: Path, mark: str) -> None:
    """A clock that jumped, a file from before a boot: the node isn't unready for that."""
    (folder / "cni.sock.away").write_text(mark)
    runtime = Runtime(entry(folder, status_grace=5), version="1.1.0")
    assert runtime.call("STATUS").code == 0


def test_status_makes_the_folder_after_a_boot(tmp_path: Path) -> None:
    runtime = Runtime(entry(tmp_path / "gone", status_grace=0.01), version="1.1.0")
    assert runtime.call("STATUS").code == 0
    assert os.stat(tmp_path / "gone").st_mode & 0o777 == 0o700
    time.sleep(0.05)
    assert runtime.call("STATUS").code != 0


def test_where_the_agent_needs_the_pods_network_itself_status_never_fails(folder: Path) -> None:
    runtime = Runtime(entry(folder, status_grace=0.0), version="1.1.0")
    runtime.call("STATUS")
    time.sleep(0.05)
    assert runtime.call("STATUS").code == 0
