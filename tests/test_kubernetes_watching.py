"""A node's pods while the API misbehaves: nothing is forgotten that it didn't say is gone."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from agent.sources.kubernetes import watching
from agent.sources.kubernetes.api import Api
from agent.sources.kubernetes.informer import Informer
from agent.sources.kubernetes.watching import Patience
from agent.sources.kubernetes.watching import pause as pauses_of
from tests.kubernetes_server import Answer, Broken, always, bookmark, line, page, pod, refused, served, stream


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less between two tries."""
    monkeypatch.setattr(watching, "pause", lambda _: 0.005)


@pytest.fixture
def broken() -> Broken:
    made = Broken()
    made.lists = [always(lambda: page(pod("a"), pod("b")))]
    made.watches = [silent]
    return made


async def silent(request: web.Request) -> web.StreamResponse:
    return await stream(request)


def saying(*pieces: bytes, stay: bool = True) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return await stream(request, *pieces, stay=stay)

    return answer


class Watched:
    """An informer at work, and what it has told."""

    def __init__(self, api: Api, patience: Patience) -> None:
        self.changed: list[str] = []
        self.wholes = 0
        self.informer = Informer(api, "node-a", self.changed.append, self._whole, patience=patience)

    def _whole(self) -> None:
        self.wholes += 1

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not true():  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    def names(self) -> list[str]:
        return sorted(each.name for each in self.informer.pods.values())


@asynccontextmanager
async def watched(
    broken: Broken,
    folder: Path,
    patience: Patience = Patience(),  # noqa: B008
) -> AsyncIterator[Watched]:
    async with served(broken, folder) as api:
        made = Watched(api, patience)
        task = asyncio.create_task(made.informer.run())
        try:
            yield made
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def run(
    broken: Broken,
    folder: Path,
    story: Callable[[Watched], Awaitable[None]],
    patience: Patience = Patience(),  # noqa: B008
) -> None:
    async def told() -> None:
        async with watched(broken, folder, patience) as made:
            await story(made)

    asyncio.run(told())


def test_events_are_taken_in_their_order(broken: Broken, tmp_path: Path) -> None:
    broken.watches = [
        saying(
            line("ADDED", pod("c", version="11")),
            line("MODIFIED", pod("a", version="12", hostNetwork=True)),
            line("DELETED", pod("b", version="13")),
            bookmark("14"),
        )
    ]

    async def story(seen: Watched) -> None:
        await seen.until(lambda: seen.informer.state().bookmarks == 1)
        assert seen.names() == ["a", "c"]
        assert seen.changed == ["uid-a", "uid-b", "uid-c", "uid-a", "uid-b"]
        assert seen.wholes == 1
        assert seen.informer.state().connected

    run(broken, tmp_path, story)
    assert broken.asked[0]["fieldSelector"] == "spec.nodeName=node-a"
    assert "resourceVersion" not in broken.asked[0]
    assert broken.asked[1]["resourceVersion"] == "10"
    assert broken.asked[1]["allowWatchBookmarks"] == "true"


def test_a_watch_that_ends_goes_on_where_it_was(broken: Broken, tmp_path: Path) -> None:
    broken.watches = [saying(bookmark("20"), line("ADDED", pod("c", version="21")), stay=False), silent]

    async def story(seen: Watched) -> None:
        await seen.until(lambda: len(broken.asked) >= 3)

    run(broken, tmp_path, story)
    assert [each.get("resourceVersion") for each in broken.asked] == [None, "10", "21"]


def test_an_event_that_is_cut_off_comes_again(broken: Broken, tmp_path: Path) -> None:
    whole = line("ADDED", pod("c", version="21"))
    broken.watches = [saying(bookmark("20"), whole[:50], stay=False), saying(whole[:50], whole[50:])]

    async def story(seen: Watched) -> None:
        await seen.until(lambda: seen.names() == ["a", "b", "c"])

    run(broken, tmp_path, story)
    assert broken.asked[2]["resourceVersion"] == "20"


def test_a_watch_that_is_silent_is_begun_anew(broken: Broken, tmp_path: Path) -> None:
    async def story(seen: Watched) -> None:
        await seen.until(lambda: seen.informer.state().connected and seen.informer.state().restarts >= 2)
        assert seen.names() == ["a", "b"]

    run(broken, tmp_path, story, Patience(silence=0.5))
    assert {each.get("resourceVersion") for each in broken.asked[1:]} == {"10"}


@pytest.mark.parametrize(
    "expired",
    [
        saying(line("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}), stay=False),
        always(lambda: refused(410, "too old resource version")),
    ],
    ids=["event", "status"],
)
def test_expired_is_listed_anew_and_compared(broken: Broken, tmp_path: Path, expired: Answer) -> None:
    broken.lists = [always(lambda: page(pod("a"), pod("b"))), always(lambda: page(pod("b"), pod("c"), version="90"))]
    broken.watches = [expired, silent]

    async def story(seen: Watched) -> None:
        await seen.until(lambda: len(broken.asked) >= 4)
        assert seen.names() == ["b", "c"]
        assert seen.changed == ["uid-a", "uid-b", "uid-a", "uid-c"]
        assert seen.wholes == 1
        assert seen.informer.state().relists == 1

    run(broken, tmp_path, story)
    assert broken.asked[3]["resourceVersion"] == "90"


@pytest.mark.parametrize(
    "failing",
    [
        always(lambda: refused(500)),
        always(lambda: refused(429)),
        always(lambda: refused(403)),
        always(lambda: web.Response(text="<html>who are you</html>")),
        always(lambda: web.json_response({"items": None, "metadata": {"resourceVersion": "5"}})),
        always(lambda: web.json_response({"items": []})),
        always(lambda: web.json_response({"metadata": {"resourceVersion": "5"}})),
        always(lambda: page({"spec": {}})),
        always(lambda: page("pod")),
        always(lambda: page(pod("c"), more="next")),
    ],
    ids=["500", "429", "403", "html", "null", "no-version", "no-items", "no-uid", "text", "second-page"],
)
def test_a_listing_that_fails_is_not_an_empty_one(broken: Broken, tmp_path: Path, failing: Answer) -> None:
    broken.lists = [always(lambda: page(pod("a"), pod("b"))), failing, always(lambda: refused(500))]
    broken.watches = [always(lambda: refused(410))]

    async def story(seen: Watched) -> None:
        await seen.until(lambda: len(broken.asked) >= 6)
        assert seen.names() == ["a", "b"]
        assert seen.changed == ["uid-a", "uid-b"]
        state = seen.informer.state()
        assert not state.connected
        assert state.error
        assert state.complete

    run(broken, tmp_path, story)


def test_pages_are_one_listing(broken: Broken, tmp_path: Path) -> None:
    broken.lists = [always(lambda: page(pod("a"), more="next")), always(lambda: page(pod("b")))]

    async def story(seen: Watched) -> None:
        await seen.until(lambda: seen.informer.complete)
        assert seen.names() == ["a", "b"]

    run(broken, tmp_path, story)
    assert [each.get("continue") for each in broken.asked[:2]] == [None, "next"]


def test_pages_that_are_no_longer_kept_are_asked_for_at_once(broken: Broken, tmp_path: Path) -> None:
    broken.lists = [
        always(lambda: page(pod("a"), more="next")),
        always(lambda: refused(410)),
        always(lambda: page(pod("a"), pod("b"))),
    ]

    async def story(seen: Watched) -> None:
        await seen.until(lambda: seen.informer.complete)
        assert seen.names() == ["a", "b"]

    run(broken, tmp_path, story)
    assert [each.get("limit") for each in broken.asked[:3]] == [str(watching.PAGE), str(watching.PAGE), None]


@pytest.mark.parametrize(
    "wrong",
    [b"no json\n", line("GREETING", {}), line("ADDED", "pod"), line("ADDED", {"metadata": {}}), b"\n"],
    ids=["text", "unknown", "no-object", "no-uid", "empty"],
)
def test_what_a_watch_should_not_send_changes_nothing(broken: Broken, tmp_path: Path, wrong: bytes) -> None:
    broken.watches = [saying(wrong), silent]

    async def story(seen: Watched) -> None:
        await seen.until(lambda: len(broken.asked) >= 3)
        assert seen.names() == ["a", "b"]

    run(broken, tmp_path, story)
    assert broken.asked[2].get("resourceVersion") == "10"


def test_an_api_that_always_says_expired_is_not_asked_without_pause(broken: Broken, tmp_path: Path) -> None:
    broken.watches = [always(lambda: refused(410))]
    waits: list[int] = []

    def noted(failures: int) -> float:
        waits.append(failures)
        return 0.0

    async def story(seen: Watched) -> None:
        await seen.until(lambda: len(broken.asked) >= 12)
        assert seen.names() == ["a", "b"]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(watching, "pause", noted)
        run(broken, tmp_path, story)
    assert waits[:4] == [1, 2, 3, 4]


def test_pauses_grow_to_seconds_and_no_further() -> None:
    tries = [[pauses_of(failures) for _ in range(50)] for failures in range(1, 200)]
    assert all(0 < each <= 4.0 for some in tries for each in some)
    assert max(tries[0]) <= 0.25
    assert min(tries[-1]) >= 2.0
    assert len(set(tries[-1])) > 1


def test_versions_that_began_anew_are_listed(broken: Broken, tmp_path: Path) -> None:
    """A backup put back into etcd: 504, "Too large resource version", for as long as one asks for it."""
    broken.lists = [
        always(lambda: page(pod("a"), pod("b"), version="900")),
        always(lambda: page(pod("a"), version="5")),
    ]
    broken.watches = [*(always(lambda: refused(504, "Too large resource version")) for _ in range(5)), silent]

    async def story(seen: Watched) -> None:
        await seen.until(lambda: seen.names() == ["a"] and seen.informer.state().connected)

    run(broken, tmp_path, story)


def test_one_unreadable_pod_keeps_none_of_the_others_away(broken: Broken, tmp_path: Path) -> None:
    broken.lists = [always(lambda: page(pod("a", hostNetwork="yes"), pod("b")))]

    async def story(seen: Watched) -> None:
        await seen.until(lambda: seen.informer.complete)
        assert seen.names() == ["b"]
        assert list(seen.informer.unreadable) == ["uid-a"]
        assert seen.informer.state().unreadable == 1

    run(broken, tmp_path, story)
