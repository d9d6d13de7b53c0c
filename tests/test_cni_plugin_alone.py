"""The CNI plugin without an agent: the API says which pods may start, and the rest waits and says why."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cni.protocol import Answer, Request, Verdict
from tests.cni import AMBIENT, UID, Agent, Api, Runtime, entry, result, unused

REFUSED = Answer(verdict=Verdict.REFUSED, reason="pod shop/web-0: no proxy is connected", hint="see ztunnel")


IMPATIENT = 1.0  # seconds for an agent that isn't there; a third of it again for one that may come back
pytestmark = pytest.mark.timeout(600)  # the first one builds the plugin


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return unused(tmp_path)


@pytest.fixture
def runtime(folder: Path) -> Runtime:
    return Runtime(entry(folder, timeout=IMPATIENT))


@pytest.fixture
def api(folder: Path) -> Iterator[Api]:
    with Api(folder) as made:
        yield made


def lacking(runtime: Runtime) -> str:
    """What a user reads who wonders why a pod doesn't start."""
    error = runtime.call("ADD").error
    assert error["code"] == 11, "to be tried again"
    assert "see whether the agent runs on this node" in error["details"]
    return str(error["msg"])


def test_without_agent_pods_start_that_are_not_to_be_captured(runtime: Runtime, api: Api) -> None:
    api.pod("shop/web-0")
    assert runtime.call("ADD").result == result("1.0.0")
    assert sorted(api.paths) == ["/api/v1/namespaces/shop", "/api/v1/namespaces/shop/pods/web-0"]


def test_without_agent_pods_wait_that_are_to_be_captured(runtime: Runtime, api: Api) -> None:
    api.pod("shop/web-0", AMBIENT)
    said = lacking(runtime)
    assert said.startswith("pod shop/web-0: Weir's agent gave no answer (")
    assert "cni.sock" in said
    assert said.endswith("and it is to be captured")


LABELS = "istio.io/dataplane-mode"


@pytest.mark.parametrize(
    ("pod", "namespace", "captured"),
    [
        ({}, {}, False),
        ({}, {LABELS: "ambient"}, True),
        ({LABELS: "none"}, {LABELS: "ambient"}, False),
        ({LABELS: "ambient"}, {LABELS: "none"}, True),
        ({LABELS: "ambient"}, {}, True),
        ({LABELS: ""}, {}, False),
        ({LABELS: "AMBIENT"}, {}, False),
        ({LABELS: "other"}, {LABELS: "ambient"}, True),
    ],
)
def test_labels_decide_as_they_do_for_istio(
    runtime: Runtime, api: Api, pod: dict[str, str], namespace: dict[str, str], captured: bool
) -> None:
    api.namespace("shop", namespace)
    api.pod("shop/web-0", pod)
    assert (runtime.call("ADD").code == 0) is not captured


def test_a_pod_with_a_sidecar_is_not_to_be_captured(runtime: Runtime, api: Api) -> None:
    api.pod("shop/web-0", AMBIENT, annotations={"sidecar.istio.io/status": "{}"})
    assert runtime.call("ADD").code == 0


def test_a_static_pod_is_known_by_its_copy(folder: Path, api: Api) -> None:
    """Its UID is a digest; its copy in the API has another, and names it."""
    runtime = Runtime(entry(folder, timeout=IMPATIENT), uid="0123456789abcdef0123456789abcdef")
    api.pod("shop/web-0")
    assert "the API has another pod of that name" in lacking(runtime)
    api.pod("shop/web-0", annotations={"kubernetes.io/config.mirror": runtime.uid})
    assert runtime.call("ADD").code == 0


@pytest.mark.parametrize("uid", ["", UID])
def test_a_runtime_may_leave_the_uid_out(folder: Path, api: Api, uid: str) -> None:
    api.pod("shop/web-0")
    assert Runtime(entry(folder), uid=uid).call("ADD").code == 0


def test_what_cannot_be_told_waits(folder: Path, runtime: Runtime, api: Api) -> None:
    assert "/api/v1/namespaces/shop" in lacking(runtime), "the API knows no such pod"
    api.pod("shop/web-0")
    api.write(token="ey.too.old")  # noqa: S106 - of a server that lives for one test
    assert "401" in lacking(runtime)
    api.write(authority=(folder / "key.pem").read_text())
    assert "names no server with its authority" in lacking(runtime)
    api.write(server="https://127.0.0.1:1")
    assert "https://127.0.0.1:1/api" in lacking(runtime)
    (folder / "cni-token").unlink()
    assert "cni-token: no such file" in lacking(runtime)
    (folder / "cni-kubeconfig").unlink()
    assert "cni-kubeconfig: no such file" in lacking(runtime)
    assert "can't be told" in lacking(runtime)


def test_an_api_that_hangs_is_not_waited_for(runtime: Runtime, api: Api) -> None:
    api.pod("shop/web-0")
    api.released.clear()
    assert "deadline exceeded" in lacking(runtime)


def test_pods_of_named_namespaces_start_whatever_happens(folder: Path) -> None:
    runtime = Runtime(entry(folder, fail_open=("shop",)))
    done = runtime.call("ADD")
    assert done.result == result("1.0.0")
    assert "shop/web-0 starts uncaptured, by failOpen" in done.err, "in the runtime's log"
    with Agent(folder, REFUSED):
        assert runtime.call("ADD").error["msg"] == REFUSED.reason, "the agent has answered"


def test_no_answer_that_counts_is_no_answer(folder: Path, api: Api) -> None:
    """The agent that fails, knows nothing yet, is too slow or speaks something else is as good as none."""

    async def fails(_request: Request) -> Answer:
        raise ZeroDivisionError("a fault")

    async def sleeps(_request: Request) -> Answer:
        await asyncio.sleep(30)
        return REFUSED

    unknown = Answer(verdict=Verdict.UNKNOWN, reason="no listing of the pods yet")
    for answer, said, timeout in (
        (fails, "a fault", 5.0),
        (unknown, "no listing of the pods yet", 5.0),
        (sleeps, "i/o timeout", 0.2),
    ):
        runtime = Runtime(entry(folder, timeout=timeout))
        with Agent(folder, answer):
            api.pod("shop/web-0")
            assert runtime.call("ADD").code == 0
            api.pod("shop/web-0", AMBIENT)
            assert said in lacking(runtime)


def test_something_else_that_listens_is_no_agent(folder: Path, api: Api, runtime: Runtime) -> None:
    api.pod("shop/web-0", AMBIENT)
    for greeting in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"\xff" * 100):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "cni.sock"))
            listener.listen()
            threading.Thread(target=greet, args=(listener, greeting), daemon=True).start()
            assert "gave no answer" in lacking(runtime)
            listener.shutdown(socket.SHUT_RDWR)
        (folder / "cni.sock").unlink()


def greet(listener: socket.socket, greeting: bytes) -> None:
    while True:
        try:
            peer, _ = listener.accept()
        except OSError:
            return
        with peer:
            peer.recv(65536)
            peer.sendall(greeting)


def test_an_agent_that_comes_back_is_waited_for(folder: Path, api: Api) -> None:
    """The kubelet would only try again after ten seconds."""
    runtime = Runtime(entry(folder, timeout=60.0))
    api.pod("shop/web-0", AMBIENT)
    ended: list[int] = []
    thread = threading.Thread(target=lambda: ended.append(runtime.call("ADD").code))
    thread.start()
    while len(api.paths) < 2:  # it has asked the API, so it has found nobody
        time.sleep(0.01)
    with Agent(folder) as agent:
        thread.join()
    assert ended == [0]
    assert len(agent.asked) == 1
