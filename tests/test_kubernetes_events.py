"""Events on pods: few, counted, and nothing waits for them."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from agent.sources.kubernetes import events
from agent.sources.kubernetes.api import Api
from agent.sources.kubernetes.facts import Pod
from tests.kubernetes_server import Broken, always, refused, served

WEB = Pod(namespace="shop", name="web", uid="uid-web")


def run(broken: Broken, folder: Path, story: Callable[[Api], Awaitable[None]]) -> None:
    async def told() -> None:
        async with served(broken, folder) as api:
            await story(api)

    asyncio.run(told())


async def sent(broken: Broken, number: int) -> None:
    async with asyncio.timeout(30):
        while len(broken.events) < number:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_GAP", 0.001)
    monkeypatch.setattr(events, "_RETRY", 0.01)


def test_an_event_names_pod_reason_and_node(tmp_path: Path) -> None:
    broken = Broken()

    async def story(api: Api) -> None:
        await api.event(WEB, "CaptureFailed", "tcp/15008: refused", warning=True)
        await sent(broken, 1)

    run(broken, tmp_path, story)
    method, event = broken.events[0]
    assert method == "POST"
    assert event["regarding"] == {
        "apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "web", "uid": "uid-web"
    }  # fmt: skip
    assert (event["reason"], event["note"], event["type"]) == ("CaptureFailed", "tcp/15008: refused", "Warning")
    assert event["reportingInstance"] == "node-a"


def test_the_same_again_is_a_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_SERIES_GAP", 0.01)
    broken = Broken()

    async def story(api: Api) -> None:
        await api.event(WEB, "CaptureFailed", "no", warning=True)
        await sent(broken, 1)
        for _ in range(500):
            await api.event(WEB, "CaptureFailed", "no", warning=True)
        await sent(broken, 2)

    run(broken, tmp_path, story)
    assert [method for method, _ in broken.events] == ["POST", "PATCH"]
    series = broken.events[1][1]["series"]
    assert isinstance(series, dict)
    assert series["count"] == 501


def test_one_pod_tells_a_burst_and_no_more(tmp_path: Path) -> None:
    broken = Broken()

    async def story(api: Api) -> None:
        for number in range(1000):
            await api.event(WEB, "CaptureFailed", f"no {number}", warning=True)
        await api.event(Pod(namespace="shop", name="other", uid="o"), "Captured", "yes", warning=False)
        await sent(broken, 11)
        assert api.events_dropped == 990

    run(broken, tmp_path, story)
    assert len(broken.events) == 11
    assert broken.events[-1][1]["reason"] == "Captured"


def test_what_the_api_does_not_take_at_once_is_told_later(tmp_path: Path) -> None:
    broken = Broken()
    answers = [refused(500), refused(429), web.json_response({}, status=201)]

    async def other(_: web.Request) -> web.StreamResponse:
        return answers.pop(0)

    async def story(api: Api) -> None:
        broken.other = other
        await api.event(WEB, "Captured", "yes", warning=False)
        await sent(broken, 3)

    run(broken, tmp_path, story)
    assert len({str(each["metadata"]) for _, each in broken.events}) == 1


@pytest.mark.parametrize("status", [400, 403, 404, 422])
def test_what_the_api_refuses_is_counted(tmp_path: Path, status: int) -> None:
    broken = Broken()
    broken.other = always(lambda: refused(status))

    async def story(api: Api) -> None:
        await api.event(WEB, "Captured", "yes", warning=False)
        await api.event(WEB, "Captured", "again", warning=False)
        await sent(broken, 2)
        async with asyncio.timeout(30):
            while api.events_dropped < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    run(broken, tmp_path, story)


def test_an_event_that_the_api_has_forgotten_is_told_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_SERIES_GAP", 0.01)
    broken = Broken()

    async def other(request: web.Request) -> web.StreamResponse:
        return refused(404) if request.method == "PATCH" else web.json_response({}, status=201)

    async def story(api: Api) -> None:
        broken.other = other
        await api.event(WEB, "Captured", "yes", warning=False)
        await sent(broken, 1)
        await api.event(WEB, "Captured", "yes", warning=False)
        await sent(broken, 3)

    run(broken, tmp_path, story)
    assert [method for method, _ in broken.events] == ["POST", "PATCH", "POST"]
    assert broken.events[2][1]["metadata"] != broken.events[0][1]["metadata"]


def test_what_waits_is_told_before_the_end(tmp_path: Path) -> None:
    broken = Broken()

    async def story(api: Api) -> None:
        await api.event(WEB, "Captured", "yes", warning=False)

    run(broken, tmp_path, story)
    assert len(broken.events) == 1


@pytest.mark.parametrize("note", ["", "x" * 100_000, "é" * 5000, "\ud800 lone", "a\nb\0c"])
def test_any_note_is_told(tmp_path: Path, note: str) -> None:
    broken = Broken()

    async def story(api: Api) -> None:
        await api.event(WEB, "Captured", note, warning=False)
        await sent(broken, 1)
        assert api.events_dropped == 0

    run(broken, tmp_path, story)
    assert len(str(broken.events[0][1]["note"]).encode()) <= 1024
