"""One resource listed and watched for ever: what a store has is what the API has, or what it had when last heard of.

list in pages, by a consistent read      a page that fails is a listing that failed: nothing changes
watch from there, with bookmarks         each event is taken at once, in order
the watch ends, or is silent for long    watch again from the last event or bookmark: nothing is missed
410, Expired                             list again, and compare: deletions that were missed are found so
no answer, 5xx, 429                      wait a moment that grows to some seconds; keep everything meanwhile
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, NoReturn, Protocol, TypeVar

from agent.errors import ApiError
from agent.sources.kubernetes.facts import mapping
from agent.state import now

if TYPE_CHECKING:
    from agent.sources.kubernetes.calls import Calls

PAGE = 100  # objects: decoding them keeps the loop for some milliseconds
# Seconds. Bookmarks come each minute while anything changes in the cluster. A watch that is silent for longer hangs, or
# all is quiet: another one that is begun in its place tells.
SILENCE = 75.0
_WATCH = (300, 600)  # how long the API is asked to go on with one watch: spread, so that not all nodes come at once
_FIRST_PAUSE, LONGEST_PAUSE = 0.25, 4.0
_ENOUGH = 1.0  # a watch that was over sooner, and said nothing, has failed
_GIVE_UP_AFTER = 4  # refusals in a row to watch from a version: then list

log = logging.getLogger("weir.kubernetes")

_T = TypeVar("_T")


class Store(Protocol[_T]):
    """What takes the objects of one resource."""

    def read(self, document: Mapping[str, object]) -> _T:
        """Return what is kept of an object. Raises `ApiError` for one that can't even be told from others."""

    def replace(self, entries: Iterable[_T]) -> None:
        """Take a whole listing: what is not in it is gone."""

    def put(self, entry: _T) -> None:
        """Take an object that is new or has changed."""

    def drop(self, entry: _T) -> None:
        """Take the word that an object is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """What is listed: `name` as metrics and logs call it, its path, and which of it."""

    name: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds: how long a watch may be silent, and how long the API is to go on with one."""

    silence: float = SILENCE
    shortest: int = _WATCH[0]
    longest: int = _WATCH[1]


def pause(failures: int) -> float:
    """Return the seconds to wait after so many failures in a row."""
    longest = min(LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(failures - 1, 10))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 (so that nodes don't come in step)


class Follower(Generic[_T]):
    """Keeps one store as the API has it. `error` is what failed last, empty while all is well.

    `since` is when `connected` last changed, in seconds since boot. `lists` counts whole listings, `restarts` watches
    that were begun after the first, `bookmarks` those received.
    """

    def __init__(
        self,
        calls: "Calls",
        resource: Resource,
        store: Store[_T],
        *,
        patience: Patience,
        listed: Callable[[], None] = lambda: None,
    ) -> None:
        """`listed` is called after each whole listing."""
        self._calls, self._resource, self._store = calls, resource, store
        self._patience, self._listed = patience, listed
        self._version: str | None = None
        self._failures, self._expired = 0, False
        self._status = -1  # of what failed last: while it is the same, the log has it once
        self._watches = 0
        self.connected, self.since, self.error = False, now(), ""
        self.lists = self.bookmarks = 0

    @property
    def restarts(self) -> int:
        """How many watches were begun after the first."""
        return max(0, self._watches - 1)

    async def run(self) -> NoReturn:
        """List and watch until cancelled."""
        while True:
            try:
                if self._version is None:
                    self._version = await self._list()
                await self._watch()
            except ApiError as error:
                await self._recover(error)
            except Exception as error:  # a fault of ours must not leave a node without eyes
                log.exception("%s: can't go on; listing anew", self._resource.name)
                self._version = None
                await self._recover(ApiError(f"{self._resource.name}: {error!r}"))

    async def _recover(self, error: ApiError) -> None:
        """Take in what failed, and wait until it is tried again."""
        name = self._resource.name
        if error.status == 410:
            log.info("%s: the API knows no changes since version %s any more: listing anew", name, self._version)
            self._version = None
            if not self._expired:  # twice in a row, without a word between, is a server that always says so
                self._expired = True
                return
        self._failures += 1
        if error.status and self._failures % _GIVE_UP_AFTER == 0:
            self._version = None  # the API's versions may have begun anew: restored from a backup, say
        if self.connected or error.status != self._status:
            log.warning("%s: %s%s; what is known stays", name, error, f" ({error.hint})" if error.hint else "")
        self._status = error.status
        self._note(connected=False, error=str(error))
        await asyncio.sleep(pause(self._failures))

    def _note(self, *, connected: bool, error: str = "") -> None:
        if connected != self.connected:
            if connected and self.error:
                log.info("%s: heard again after %.1f s", self._resource.name, now() - self.since)
            self.connected, self.since = connected, now()
        self.error = error

    async def _list(self) -> str:
        """Replace what the store has; return the version that it has then. Raises `ApiError`, and changes nothing."""
        try:
            found, version = await self._pages({"limit": str(PAGE)})
        except ApiError as error:
            if error.status != 410:
                raise
            found, version = await self._pages({})  # the rest of the pages is no longer kept: all at once, then
        self._store.replace(found)
        self.lists += 1
        self._note(connected=True)
        self._listed()
        return version

    async def _pages(self, limit: Mapping[str, str]) -> tuple[list[_T], str]:
        from agent.sources.kubernetes import calls

        found: list[_T] = []
        more = ""
        while True:
            # No resourceVersion: the newest there is. From a cache that lags, a pod could be missing.
            query = {**self._resource.query, **limit, **({"continue": more} if more else {})}
            data = await self._calls.get(
                self._resource.path,
                resource=self._resource.name,
                verb="list",
                query=query,
                seconds=calls.PAGE_DEADLINE,
            )
            page = calls.page(data, f"the listing of {self._resource.name}")
            del data
            found += [self._read(calls.document(each)) for each in page.items]
            more = page.metadata.more
            if not more:
                return found, page.metadata.resource_version

    def _read(self, document: object) -> _T:
        if not isinstance(document, Mapping):
            raise ApiError(f"the API has sent something else than an object among {self._resource.name}")
        return self._store.read(document)

    async def _watch(self) -> None:
        """Take events until the watch ends. Raises `ApiError`; the version to go on from is kept."""
        assert self._version is not None  # noqa: S101
        query = {
            **self._resource.query,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(random.randint(self._patience.shortest, self._patience.longest)),  # noqa: S311
        }
        began, heard = now(), False
        async with self._calls.watch(
            self._resource.path, resource=self._resource.name, query=query, silence=self._patience.silence
        ) as lines:
            self._watches += 1
            self._note(connected=True)
            async for line in lines:
                self._take(line)
                heard, self._failures, self._expired = True, 0, False
        if not heard and now() - began < _ENOUGH:
            raise ApiError(f"the watch of {self._resource.name} was over as soon as it had begun")
        self._failures, self._expired = 0, False

    def _take(self, line: bytes) -> None:
        from agent.sources.kubernetes import calls

        event = calls.event(line, f"the watch of {self._resource.name}")
        if event.type == "ERROR":
            status, said = calls.refusal(event.object)
            raise ApiError(f"the watch of {self._resource.name}: {status}: {said}", status=status)
        document = calls.document(event.object)
        if not isinstance(document, Mapping):
            raise ApiError(f"the watch of {self._resource.name} has sent something else than an object")
        match event.type:
            case "ADDED" | "MODIFIED":
                self._store.put(self._store.read(document))
            case "DELETED":
                self._store.drop(self._store.read(document))
            case "BOOKMARK":
                self.bookmarks += 1
            case other:
                raise ApiError(f"the watch of {self._resource.name}: an event of the kind {other[:40]!r}")
        version = mapping("metadata", document.get("metadata")).get("resourceVersion")
        if isinstance(version, str) and version:
            self._version = version
