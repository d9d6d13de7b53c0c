"""The agent's side of CNI on its unix socket: who may ask, what is understood, and what the log says of requests."""

import asyncio
import http.client
import json
import logging
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agent.cni.protocol import Add, Answer, Request, Verdict
from agent.cni.server import Places, Served, socket_path
from agent.errors import ConfigError, NodeNamespace
from agent.kernel.netns import node_namespace
from tests.cni import CAPTURED, Agent, unused
from tests.test_cni_protocol import ASKED, ISTIO


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return unused(tmp_path)


def ask(
    path: Path, method: str, url: str, body: object = None, headers: dict[str, str] | None = None
) -> tuple[int, str]:
    """Return status and text of an answer."""
    connection = http.client.HTTPConnection("agent", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request(method, url, body if isinstance(body, bytes) else json.dumps(body), headers or {})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def weirs(agent: Agent, body: object = ASKED, verb: str = "add") -> tuple[int, Any]:
    status, text = ask(agent.places.socket, "POST", f"/v1/cni/{verb}", body)
    return status, json.loads(text)


def istios(agent: Agent, body: object = ISTIO) -> tuple[int, str]:
    assert agent.places.istio is not None
    return ask(agent.places.istio, "POST", "/cmdadd", body, {"Content-Type": "application/json"})


def test_only_its_owner_can_open_it(folder: Path) -> None:
    with Agent(folder) as agent:
        for path in (agent.places.socket, agent.places.istio):
            assert path is not None
            assert path.stat().st_mode & 0o777 == 0o600
    assert socket_path().name == "cni.sock"


@pytest.mark.parametrize(
    ("answer", "weir", "istio"),
    [
        (CAPTURED, 200, 200),
        (Answer(verdict=Verdict.OUTSIDE, reason="its namespace isn't ambient"), 200, 500),
        (Answer(verdict=Verdict.REFUSED, reason="no proxy", hint="see ztunnel"), 409, 409),
        (Answer(verdict=Verdict.UNKNOWN, reason="not yet", hint="wait"), 503, 500),
    ],
)
def test_both_plugins_are_told_the_same_in_their_own_ways(folder: Path, answer: Answer, weir: int, istio: int) -> None:
    with Agent(folder, answer) as agent:
        status, said = weirs(agent)
        assert status == weir
        good = {"verdict": str(answer.verdict), "reason": answer.reason}
        assert said == (good if weir == 200 else {"error": answer.reason, "hint": answer.hint})
        status, text = istios(agent)
        assert status == istio
        assert text == ("" if istio == 200 else ": ".join(filter(None, (answer.reason, answer.hint))))
    assert [type(each) for each in agent.asked] == [Add, Add]
    assert [(each.verb, each.status) for each in agent.served] == [("add", weir), ("cmdadd", istio)]


def test_what_goes_wrong_is_a_refusal_or_no_answer(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def refuses(_request: Request) -> Answer:
        raise NodeNamespace("netns = /proc/1/ns/net: is the node's own", hint="see the runtime")

    async def fails(_request: Request) -> Answer:
        raise ZeroDivisionError("fault")

    async def gives_up(_request: Request) -> Answer:
        raise TimeoutError("no acknowledgement")

    with Agent(folder, refuses) as agent:
        assert weirs(agent) == (409, {"error": "netns = /proc/1/ns/net: is the node's own", "hint": "see the runtime"})
        agent.answer = fails
        status, said = weirs(agent)
        assert (status, "ZeroDivisionError('fault')" in said["error"]) == (500, True)
        assert istios(agent)[0] == 500
        agent.answer = gives_up
        status, said = weirs(agent)
        assert (status, "TimeoutError('no acknowledgement')" in said["error"]) == (500, True), (
            "not the server's own limit"
        )
    assert "Traceback" in caplog.text, "for whoever mends it"


def test_one_line_in_the_log_says_how_each_request_fared(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "weir.cni")
    with Agent(folder) as agent:
        weirs(agent)
        agent.answer = Answer(verdict=Verdict.REFUSED, reason="no proxy", hint="see ztunnel")
        istios(agent)
        weirs(agent, {**ASKED, "pod": "a\nCNI add pod shop/web-0: captured"})
    said = [(each.levelname, re.sub(r"\d+\.\d+ ms", "N ms", each.getMessage())) for each in caplog.records]
    assert said == [
        ("INFO", "cni add pod shop/web-0.a: captured in N ms"),
        ("WARNING", "cni add pod shop/web-0 (asked by istio-cni): refused in N ms: no proxy (see ztunnel)"),
        (
            "WARNING",
            r"cni add: request not understood: pod = 'a\nCNI add pod shop/web-0: captured': is no such name",
        ),
    ]


@pytest.mark.parametrize(
    ("method", "url", "body", "status"),
    [
        ("GET", "/v1/cni/add", None, 405),
        ("POST", "/v1/cni/none", ASKED, 404),
        ("POST", "/v1/cni/add", b"{", 400),
        ("POST", "/v1/cni/add", {**ASKED, "netns": 7}, 400),
        ("POST", "/v1/cni/add", b"x" * (1 << 20) + b"x", 413),
        ("GET", "/cmdadd", ISTIO, 405),
        ("POST", "/cmdadd", b"", 400),
        ("POST", "/cmdadd", {**ISTIO, "PodName": "../x"}, 400),
        ("POST", "/", ASKED, 404),
    ],
)
def test_what_is_not_understood_is_answered(folder: Path, method: str, url: str, body: object, status: int) -> None:
    with Agent(folder) as agent:
        assert ask(agent.places.socket, method, url, body)[0] == status
        assert agent.asked == []
        assert [each.status for each in agent.served] == [status]
        assert weirs(agent)[0] == 200, "it goes on"


CUT = b"POST /v1/cni/add HTTP/1.1\r\nHost: agent\r\nContent-Length: 500\r\n\r\n{"


def test_a_request_cut_short_or_no_request_at_all_harms_nobody(folder: Path) -> None:
    with Agent(folder) as agent:
        for sent in (b"", b"\0" * 5000, b"GET " + b"a" * 90_000, CUT):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(str(agent.places.socket))
                peer.sendall(sent)
        assert weirs(agent)[0] == 200
    assert len(agent.asked) == 1


def test_a_namespace_elsewhere_than_the_runtimes_is_named(folder: Path) -> None:
    agent = Agent(folder)
    agent.places = Places(socket=folder / "cni.sock", istio=folder / "istio.sock", netns=Path("/run/docker/netns"))
    with agent:
        status, said = weirs(agent)
        assert status == 409
        assert said["error"] == "pod shop/web-0.a: netns = '/var/run/netns/cni-1': is not below /run/docker/netns"
        assert "cniNetnsDir" in said["hint"]
        assert istios(agent)[0] == 409
        for where in ("/run/docker/netns/x", "/var/run/docker/netns/x"):
            assert weirs(agent, {**ASKED, "netns": where})[0] == 200, "/var/run is /run"
        assert weirs(agent, {**ASKED, "netns": ""}, "del")[0] == 200


def test_the_nodes_own_namespace_is_no_pods(folder: Path) -> None:
    """By whatever name: rules that are put into it would capture the whole node."""
    own = node_namespace()
    (folder / "link").symlink_to(own)
    with Agent(folder) as agent:
        for where in (str(own), str(folder / "link"), str(own).replace("/ns/", "/./ns//")):
            for status, said in (weirs(agent, {**ASKED, "netns": where}), istios(agent, {**ISTIO, "Netns": where})):
                assert status == 409
                assert "is the node's own" in str(said)
    assert agent.asked == []


def test_a_slow_answer_is_given_up_at_the_deadline(folder: Path) -> None:
    ended: list[str] = []

    async def hangs(request: Request) -> Answer:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append(str(request))
            raise
        return CAPTURED

    agent = Agent(folder, hangs)
    agent.deadline = 0.05
    with agent:
        status, said = weirs(agent)
        assert (status, said["error"]) == (504, "add pod shop/web-0.a: the agent has no answer after 0.05 seconds")
        assert istios(agent)[0] == 500
    assert len(ended) == 2, "what was begun has been told to end"


def test_a_plugin_that_was_killed_is_waited_for_no_longer(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    begun, ended = threading.Event(), threading.Event()

    async def hangs(_request: Request) -> Answer:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.set()
            raise
        return CAPTURED

    with Agent(folder, hangs) as agent:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(agent.places.socket))
            body = json.dumps(ASKED).encode()
            peer.sendall(
                b"POST /v1/cni/add HTTP/1.1\r\nHost: agent\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            assert begun.wait(30)
        assert ended.wait(30)
        agent.answer = CAPTURED
        assert weirs(agent)[0] == 200
    assert [each.status for each in agent.served] == [499, 200]
    assert "cni add pod shop/web-0.a: after" in caplog.text, "it has its line in the log too"


def test_many_at_once_are_answered_each_with_its_own(folder: Path) -> None:
    together = asyncio.Barrier(16)

    async def named(request: Request) -> Answer:
        await together.wait()
        return Answer(verdict=Verdict.CAPTURED, reason=str(request))

    with Agent(folder, named) as agent, ThreadPoolExecutor(16) as threads:
        bodies = [{**ASKED, "pod": f"web-{n}"} for n in range(16)]
        answers = list(threads.map(lambda body: weirs(agent, body)[1]["reason"], bodies))
    assert answers == [f"add pod shop/web-{n}" for n in range(16)]


def test_where_somebody_listens_already_nothing_is_taken_over(folder: Path) -> None:
    """Another agent would go on unheard, and its plugin's pods with it."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(folder / "pluginevent.sock"))
        other.listen()
        with (
            pytest.raises(ConfigError, match=r"pluginevent.sock: another process listens there") as refused,
            Agent(folder),
        ):
            pass
        assert "Istio" in refused.value.hint
        assert not (folder / "cni.sock").exists()
    with Agent(folder) as agent:
        assert weirs(agent)[0] == 200, "what a dead one left is replaced"


def test_metrics_hear_of_seconds(folder: Path) -> None:
    with Agent(folder) as agent:
        weirs(agent)
    (served,) = agent.served
    assert served == Served(verb="add", status=200, seconds=served.seconds)
    assert served.seconds >= 0
