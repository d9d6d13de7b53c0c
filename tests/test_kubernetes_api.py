"""What the API is asked, and how: with which token, by which names, and what its refusals mean."""

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from agent.errors import ApiError, ConfigError
from agent.sources.kubernetes.api import Api, Presence
from tests.kubernetes_server import Broken, always, page, pod, refused, served


@pytest.fixture
def broken() -> Broken:
    return Broken()


def test_a_token_that_was_replaced_is_read_again(broken: Broken, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")

    async def picky(request: web.Request) -> web.StreamResponse:
        if request.headers["Authorization"] != "Bearer new":
            return refused(401)
        return web.json_response(pod("a"))

    async def story() -> None:
        async with served(broken, tmp_path, {"tokenFile": str(token)}) as api:
            broken.other = picky
            with pytest.raises(ApiError) as refusal:
                await api.pod("shop", "a")
            assert refusal.value.status == 401
            assert refusal.value.hint
            token.write_text("new")
            found = await api.pod("shop", "a")
            assert found is not None
            token.unlink()
            assert await api.pod("shop", "a") is not None  # the API still takes what was read

    asyncio.run(story())


def test_nothing_is_asked_for_what_can_be_no_name(broken: Broken, tmp_path: Path) -> None:
    async def story() -> None:
        async with served(broken, tmp_path) as api:
            for name in ("", "..", "a/b", "a?b", "A", "é", "a\n", "x" * 300):
                assert await api.pod("shop", name) is None
                assert await api.namespace(name) is None
                assert await api.daemon_set(name, "weir") is Presence.GONE
            assert not broken.authorization

    asyncio.run(story())


@pytest.mark.parametrize(
    ("status", "rights", "there"),
    [
        (401, 200, Presence.UNKNOWN),
        (401, 401, Presence.UNKNOWN),
        (403, 200, Presence.UNKNOWN),
        (403, 401, Presence.UNKNOWN),
        (403, 403, Presence.FORBIDDEN),
        (404, 200, Presence.GONE),
        (500, 200, Presence.UNKNOWN),
    ],
)
def test_an_uninstall_is_told_from_what_cannot_be_told(
    broken: Broken, tmp_path: Path, status: int, rights: int, there: Presence
) -> None:
    async def story() -> None:
        async with served(broken, tmp_path) as api:
            broken.other = always(lambda: refused(status))
            broken.namespaces = always(lambda: refused(rights) if rights != 200 else page())
            assert await api.daemon_set("istio-system", "weir") is there

    asyncio.run(story())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "clusters: []",
        "{current-context: x, clusters: [], contexts: []}",
        "{current-context: x, clusters: [{name: c, cluster: 7}], contexts: [{name: x, context: {cluster: c}}]}",
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(ConfigError, match="kubeconfig") as refusal:
        Api.open(path, node="n")
    assert str(path) in str(refusal.value)
    assert refusal.value.hint


def test_outside_a_pod_the_missing_token_is_named() -> None:
    with pytest.raises(ConfigError, match="in-cluster configuration"):
        Api.open(None, node="n")
