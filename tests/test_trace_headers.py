"""What the agent writes to the API is part of its trace, in each form of headers, and carries none without one."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from agent.observe import spans
from agent.observe.otlp_settings import settings
from agent.observe.propagation import FORMS, incoming
from agent.sources.kubernetes.facts import Pod
from tests.kubernetes_server import Broken, pod, served

HEADERS = ("traceparent", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled")
WEB = Pod(namespace="shop", name="web", uid="u")


@pytest.fixture
def traced() -> Iterator[None]:
    found = settings({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_EXPORT_TIMEOUT": "1"})
    assert found is not None
    spans.start(found)
    yield
    spans.stop()


def written(folder: Path) -> list[dict[str, str]]:
    """Return the headers of the requests that write a pod's annotation, first in a trace, then in none."""
    seen: list[dict[str, str]] = []

    async def take(request: web.Request) -> web.StreamResponse:
        seen.append({name: request.headers[name] for name in HEADERS if name in request.headers})
        return web.json_response(pod("web", uid="u"))

    async def story() -> None:
        broken = Broken()
        broken.other = take
        async with served(broken, folder) as api:
            spans.begin("enrol", "pod/shop/web")
            with spans.child("write status"):
                await api.redirect_state(WEB, "enabled")
            spans.end("pod/shop/web")
            spans.enter("pod/shop/web")
            await api.redirect_state(WEB, "enabled")

    asyncio.run(story())
    return seen


def test_the_api_is_told_of_the_trace_in_every_form(traced: None, tmp_path: Path) -> None:
    within, without = written(tmp_path)
    assert set(within) == {*HEADERS}
    found = incoming(within.items())
    assert found.context is not None
    assert (found.context.sampled, found.faults, found.conflicts) == (True, (), ())
    assert without == {}
    assert len(FORMS) == 3


def test_without_tracing_the_api_is_told_of_none(tmp_path: Path) -> None:
    assert written(tmp_path) == [{}, {}]
