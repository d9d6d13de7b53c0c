"""One request to the API server: TLS, token, deadline, and how it fared, counted. Answers are bytes, or pages of them.

lightkube reads the configuration, and its way of signing requests reads a token again when the API wants a newer one.
Its own listing and watching are left aside: they know no bookmarks, can't tell a watch that hangs, and keep a page of
decoded objects. Heavy to import, so only what runs with Kubernetes does.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import httpx2
import msgspec
from lightkube.core.exceptions import ConfigError as LightkubeConfigError

from agent.errors import ApiError
from agent.observe import spans
from agent.sources.kubernetes.clients import Client
from agent.sources.kubernetes.counting import CallCount, Counts
from agent.state import now

DEADLINE = 5.0  # seconds for an answer: a pod that starts waits for it, and the plugin for no more than eight
PAGE_DEADLINE = 30.0  # seconds for a page of a listing, which an old API server reads from all pods of a cluster
WATCH_DEADLINE = 10.0  # seconds until a watch begins
MOST_LINE = 16 << 20  # bytes of one object; etcd takes 1.5 MB

_FAILURES = (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, LightkubeConfigError, OSError)

_T = TypeVar("_T")


class Page(msgspec.Struct):
    """A page of a listing: its objects undecoded, so that a node's pods are never in memory whole."""

    items: list[msgspec.Raw]
    metadata: "_PageMetadata"


class _PageMetadata(msgspec.Struct):
    resource_version: str = msgspec.field(name="resourceVersion")
    more: str = msgspec.field(name="continue", default="")


class Event(msgspec.Struct):
    """One line of a watch."""

    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    message: str = ""
    reason: str = ""
    code: int = 0


def page(data: bytes, what: str) -> Page:
    """Return a page of a listing. Raises `ApiError`: what can't be read is no empty listing."""
    return _decoded(data, Page, what)


def event(line: bytes, what: str) -> Event:
    """Return an event of a watch. Raises `ApiError`."""
    return _decoded(line, Event, what)


def refusal(data: bytes | msgspec.Raw) -> tuple[int, str]:
    """Return the status and the words of a `Status` object, or of whatever came in its place."""
    try:
        status = msgspec.json.decode(data, type=_Status)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return 0, _one_line(bytes(data).decode(errors="replace"))
    return status.code, _one_line(status.message or status.reason)


def document(data: bytes | msgspec.Raw) -> object:
    """Return a JSON document. Raises `ApiError`."""
    return _decoded(data, object, "the answer")


class Calls:
    """Requests to one API server, counted. To be used in one loop."""

    def __init__(self, client: Client) -> None:
        """Take a client, which `close` ends."""
        self._client, self._server, self._renew = client.http, client.server, client.renew
        self._counts = Counts()

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    def counted(self) -> tuple[CallCount, ...]:
        """Return how the requests have fared so far."""
        return self._counts.all()

    async def get(
        self,
        path: str,
        *,
        resource: str,
        verb: str = "get",
        query: Mapping[str, str] | None = None,
        seconds: float = DEADLINE,
    ) -> bytes:
        """Return what is at a path. Raises `ApiError`."""
        return await self._answer(
            self._client.build_request("GET", path, params=query), resource=resource, verb=verb, seconds=seconds
        )

    async def patch(self, path: str, body: object, *, resource: str) -> bytes:
        """Merge a JSON document into what is at a path. Raises `ApiError`."""
        return await self._send("PATCH", path, body, resource=resource, verb="patch")

    async def create(self, path: str, body: object, *, resource: str) -> bytes:
        """Add an object. Raises `ApiError`."""
        return await self._send("POST", path, body, resource=resource, verb="create")

    @asynccontextmanager
    async def watch(
        self, path: str, *, resource: str, query: Mapping[str, str], silence: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Return the lines of a watch, which end after so many seconds without one. Raises `ApiError`."""
        request = self._client.build_request("GET", path, params=query)
        patient = httpx2.Timeout(DEADLINE, read=silence, pool=None)
        request.extensions["timeout"] = patient.as_dict()
        with self._translated(request, f"no answer in {WATCH_DEADLINE:g} s"):
            began, status = now(), 0
            try:
                async with asyncio.timeout(WATCH_DEADLINE):
                    answer = await self._client.send(request, stream=True)
                status = answer.status_code
            finally:
                self._counts.add("watch", resource, status, now() - began)
            try:
                if answer.is_error:
                    raise self._refused(request, status, await answer.aread())
                yield _lines(answer)
            finally:
                await answer.aclose()

    async def _send(self, method: str, path: str, body: object, *, resource: str, verb: str) -> bytes:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        request = self._client.build_request(
            method,
            path,
            params={"fieldManager": "weir"},
            content=msgspec.json.encode(body),
            headers={"Content-Type": kind, **spans.headers()},
        )
        return await self._answer(request, resource=resource, verb=verb, seconds=DEADLINE)

    async def _answer(self, request: httpx2.Request, *, resource: str, verb: str, seconds: float) -> bytes:
        began, status = now(), 0
        try:
            with self._translated(request, f"no answer in {seconds:g} s"):
                async with asyncio.timeout(seconds):
                    answer = await self._sent(request)
            status = answer.status_code
        finally:
            self._counts.add(verb, resource, status, now() - began)
        if answer.is_error:
            raise self._refused(request, status, answer.content)
        return answer.content

    async def _sent(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request, and once more where a kept connection was closed by the server as it was sent.

        All that is sent here may arrive twice: reading, a patch of one value, an Event with a name of ours.
        """
        try:
            return await self._client.send(request)
        except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError):
            return await self._client.send(request)

    @contextmanager
    def _translated(self, request: httpx2.Request, late: str) -> Iterator[None]:
        """Turn what goes wrong below HTTP into `ApiError`."""
        try:
            yield
        except (TimeoutError, httpx2.TimeoutException):
            raise ApiError(f"{self._shown(request)}: {late}", hint=_UNREACHABLE) from None
        except _FAILURES as error:
            if _is_of_certificate(error):
                self._renew()
                raise ApiError(f"{self._shown(request)}: {error}", hint=_CERTIFICATE) from None
            said = _one_line(str(error)) or type(error).__name__
            raise ApiError(f"{self._shown(request)}: {said}", hint=_UNREACHABLE) from None

    def _refused(self, request: httpx2.Request, status: int, data: bytes) -> ApiError:
        said = refusal(data)[1] or httpx2.codes.get_reason_phrase(status)
        return ApiError(f"{self._shown(request)}: {status}: {said}", status=status, hint=_HINTS.get(status, ""))

    def _shown(self, request: httpx2.Request) -> str:
        return f"{request.method} {self._server}{request.url.raw_path.decode('ascii', 'replace').partition('?')[0]}"


_UNREACHABLE = "see whether the API server runs and this node reaches it; it is tried again"
_CERTIFICATE = "the server's certificate is not of the authority that the configuration names"
_HINTS = {
    401: "the API doesn't take the token: see whether the service account is still there",
    403: "the service account lacks a right: compare its ClusterRole with the chart's",
}


def _is_of_certificate(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


async def _lines(answer: httpx2.Response) -> AsyncIterator[bytes]:
    """Yield the whole lines of an answer, until it ends or falls silent; one that was cut off is none."""
    kept = bytearray()
    chunks = answer.aiter_raw()
    while True:
        try:
            chunk = await anext(chunks)
        except (StopAsyncIteration, httpx2.ReadTimeout):
            return
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            kept += chunk[start:end]
            yield bytes(kept)
            kept.clear()
            start = end + 1
        kept += chunk[start:]
        if len(kept) > MOST_LINE:
            raise ApiError(f"a watch sent more than {MOST_LINE} bytes for one object")


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()[:500]


def _decoded(data: bytes | msgspec.Raw, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise ApiError(f"{what} can't be read: {_one_line(str(error))}") from None
