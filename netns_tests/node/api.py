"""What stands in for the API server where a node is what is looked at: lists, watches, patches, and counts them.

Not for tests of what an API server does: bookmarks, 410, RBAC and preconditions are the real one's to show.
"""

import asyncio
import copy
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

from aiohttp import web

__all__ = ["Api", "Object"]

Object = dict[str, Any]
T = TypeVar("T")
SECONDS = 30.0
_KINDS = {"pods": "Pod", "namespaces": "Namespace", "daemonsets": "DaemonSet"}


class Api:
    """Objects of a cluster, served over HTTP from a thread. Use it in a `with` block."""

    def __init__(self, listener: socket.socket) -> None:
        """Take a socket that listens where clients find it."""
        self.asked: Counter[str] = Counter()  # by method and kind
        self.events: list[Object] = []
        self._listener = listener
        self._objects: dict[tuple[str, str, str], Object] = {}  # by kind, namespace and name
        self._log: list[tuple[int, str, str, Object]] = []  # version, kind, how, object
        self._version = 100
        self._ended = False
        self._news: set[asyncio.Event] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(SECONDS)
        return self

    def __exit__(self, *error: object) -> None:
        self._in_loop(self._end_watches)
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()

    @property
    def server(self) -> str:
        """Its address, as a kubeconfig has it."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def kubeconfig(self) -> str:
        """Return a kubeconfig for it; JSON is YAML too."""
        named = {"cluster": {"server": self.server, "insecure-skip-tls-verify": True}, "name": "here"}
        user = {"user": {"token": "nobody-looks"}, "name": "here"}
        context = {"context": {"cluster": "here", "user": "here", "namespace": "default"}, "name": "here"}
        parts = {"clusters": [named], "users": [user], "contexts": [context], "current-context": "here"}
        return json.dumps({"apiVersion": "v1", "kind": "Config", **parts})

    def put(self, kind: str, *objects: Object) -> None:
        """Have objects, in the place of those of their names."""
        self._in_loop(lambda: [self._put(kind, each) for each in objects])

    def get(self, kind: str, namespace: str, name: str) -> Object:
        """Return an object."""
        return self._in_loop(lambda: copy.deepcopy(self._objects[kind, namespace, name]))

    def change(self, kind: str, namespace: str, name: str, patch: Object) -> None:
        """Merge something into an object (RFC 7386)."""
        self._in_loop(lambda: self._put(kind, merged(self._objects[kind, namespace, name], patch)))

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Have an object no more."""

        def gone() -> None:
            found = self._objects.pop((kind, namespace, name))
            self._tell(kind, "DELETED", found)

        self._in_loop(gone)

    def _end_watches(self) -> None:
        self._ended = True
        for each in self._news:
            each.set()

    def _in_loop(self, call: Callable[[], T]) -> T:
        async def called() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(SECONDS)

    def _put(self, kind: str, new: Object) -> Object:
        metadata = new["metadata"]
        key = (kind, metadata.get("namespace", ""), metadata["name"])
        how = "MODIFIED" if key in self._objects else "ADDED"
        self._objects[key] = new = copy.deepcopy(new)
        self._tell(kind, how, new)
        return new

    def _tell(self, kind: str, how: str, about: Object) -> None:
        self._version += 1
        about["metadata"]["resourceVersion"] = str(self._version)
        self._log.append((self._version, kind, how, copy.deepcopy(about)))
        for each in self._news:
            each.set()

    async def _serve(self) -> None:
        served = web.Application()
        routes = served.router
        routes.add_get("/api/v1/{kind:pods|namespaces}", self._list)
        routes.add_get("/api/v1/namespaces/{name}", self._one)
        routes.add_get("/api/v1/namespaces/{namespace}/pods/{name}", self._one)
        routes.add_get("/apis/apps/v1/namespaces/{namespace}/{kind:daemonsets}/{name}", self._one)
        routes.add_patch("/api/v1/namespaces/{namespace}/pods/{name}{status:(/status)?}", self._patch)
        routes.add_post("/apis/events.k8s.io/v1/namespaces/{namespace}/events", self._event)
        routes.add_patch("/apis/events.k8s.io/v1/namespaces/{namespace}/events/{name}", self._event)
        self._runner = web.AppRunner(served, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.SockSite(self._runner, self._listener).start()

    async def _list(self, request: web.Request) -> web.StreamResponse:
        kind, query = request.match_info["kind"], request.query
        if query.get("watch") in ("true", "1", "True"):
            return await self._watch(request, kind)
        self.asked[f"list {kind}"] += 1
        found = [each for (its, _, _), each in self._objects.items() if its == kind and _chosen(each, query)]
        about = {"resourceVersion": str(self._version)}
        return web.json_response({"apiVersion": "v1", "kind": f"{_KINDS[kind]}List", "metadata": about, "items": found})

    async def _watch(self, request: web.Request, kind: str) -> web.StreamResponse:
        self.asked[f"watch {kind}"] += 1
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        news = asyncio.Event()
        self._news.add(news)
        at = next((n for n, each in enumerate(self._log) if each[0] > int(request.query["resourceVersion"])), None)
        place = len(self._log) if at is None else at
        try:
            while not self._ended:
                news.clear()
                fresh, place = self._log[place:], len(self._log)
                for _, its, how, about in fresh:
                    if its == kind and _chosen(about, request.query):
                        line = {"type": how, "object": {"apiVersion": "v1", "kind": _KINDS[kind], **about}}
                        await answer.write(json.dumps(line).encode() + b"\n")
                await news.wait()
            return answer
        finally:
            self._news.discard(news)

    async def _one(self, request: web.Request) -> web.Response:
        kind, key = _key(request)
        self.asked[f"get {kind}"] += 1
        found = self._objects.get(key)
        return _missing() if found is None else web.json_response({"apiVersion": "v1", "kind": _KINDS[kind], **found})

    async def _patch(self, request: web.Request) -> web.Response:
        kind, key = _key(request)
        self.asked[f"patch {kind}"] += 1
        patch, found = await request.json(), self._objects.get(key)
        if found is None:
            return _missing()
        uid = patch.get("metadata", {}).get("uid", found["metadata"].get("uid"))
        if uid != found["metadata"].get("uid"):
            said = "Precondition failed: UID in precondition: another pod has this name"
            return web.json_response({"kind": "Status", "code": 409, "reason": "Conflict", "message": said}, status=409)
        new = self._put(kind, merged(found, patch))
        return web.json_response({"apiVersion": "v1", "kind": _KINDS[kind], **new})

    async def _event(self, request: web.Request) -> web.Response:
        event = await request.json()
        self.events.append(event)
        return web.json_response(event, status=201)


def merged(old: Any, patch: Any) -> Any:
    """Return what a merge patch makes of a value (RFC 7386)."""
    if not isinstance(patch, Mapping):
        return patch
    kept = dict(old) if isinstance(old, Mapping) else {}
    for key, each in patch.items():
        if each is None:
            kept.pop(key, None)
        else:
            kept[key] = merged(kept.get(key), each)
    return kept


def _key(request: web.Request) -> tuple[str, tuple[str, str, str]]:
    info = request.match_info
    kind = info.get("kind") or ("pods" if "namespace" in info else "namespaces")
    return kind, (kind, info.get("namespace", ""), info["name"])


def _chosen(each: Object, query: Mapping[str, str]) -> bool:
    node = query.get("fieldSelector", "").removeprefix("spec.nodeName=")
    return not node or each.get("spec", {}).get("nodeName") == node


def _missing() -> web.Response:
    said = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
    return web.json_response(said, status=404)
