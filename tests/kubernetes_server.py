"""An API server that misbehaves on demand, over real HTTP. How a good one behaves is asked of a real one elsewhere."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from agent.sources.kubernetes.api import Api

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def pod(name: str, *, uid: str = "", namespace: str = "shop", version: str = "1", **spec: object) -> dict[str, object]:
    metadata = {"name": name, "namespace": namespace, "uid": uid or f"uid-{name}", "resourceVersion": version}
    return {"metadata": metadata, "spec": {"containers": [], **spec}, "status": {"phase": "Running"}}


def namespace(name: str, **labels: str) -> dict[str, object]:
    return {"metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": "1", "labels": labels}}


def page(*items: object, version: str = "10", more: str = "") -> web.Response:
    metadata = {"resourceVersion": version, **({"continue": more} if more else {})}
    return web.json_response({"kind": "List", "metadata": metadata, "items": list(items)})


def refused(status: int, message: str = "no") -> web.Response:
    return web.json_response({"kind": "Status", "message": message, "code": status}, status=status)


def line(kind: str, document: object) -> bytes:
    return json.dumps({"type": kind, "object": document}).encode() + b"\n"


def bookmark(version: str) -> bytes:
    return line("BOOKMARK", {"metadata": {"resourceVersion": version}})


async def stream(request: web.Request, *pieces: bytes, stay: bool = True) -> web.StreamResponse:
    """Send pieces one by one; then stay silent, or end."""
    answer = web.StreamResponse()
    await answer.prepare(request)
    for each in pieces:
        await answer.write(each)
        await asyncio.sleep(0.005)  # so that each is a read of its own
    if stay:
        await asyncio.sleep(3600)
    return answer


class Broken:
    """Answers to listings and watches of pods in the order given, the last one for ever. No namespaces, and silence."""

    def __init__(self) -> None:
        self.lists: list[Answer] = []
        self.watches: list[Answer] = []
        self.asked: list[dict[str, str]] = []
        self.authorization: list[str] = []
        self.events: list[tuple[str, dict[str, object]]] = []
        self.other: Answer | None = None
        self.namespaces: Answer = always(page)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.authorization.append(request.headers.get("Authorization", ""))
        watching = request.query.get("watch") == "1"
        if request.path == "/api/v1/pods":
            self.asked.append(dict(request.query))
            answers = self.watches if watching else self.lists
            return await (answers.pop(0) if len(answers) > 1 else answers[0])(request)
        if request.path == "/api/v1/namespaces":
            return await (stream(request) if watching else self.namespaces(request))
        if request.path.startswith("/apis/events.k8s.io/"):
            self.events.append((request.method, await request.json()))
        if self.other is not None:
            return await self.other(request)
        return web.json_response({}, status=201)


def always(answer: Callable[[], web.Response]) -> Answer:
    async def made(_: web.Request) -> web.StreamResponse:
        return answer()

    return made


@asynccontextmanager
async def served(broken: Broken, folder: Path, user: dict[str, object] | None = None) -> AsyncIterator[Api]:
    """Serve it on loopback, and return an `Api` that finds it by a kubeconfig."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", broken.answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.01, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    path = folder / "kubeconfig"
    path.write_text(json.dumps(kubeconfig(f"http://{host}:{port}", user or {"token": "secret"})))
    api = Api.open(path, node="node-a")
    try:
        yield api
    finally:
        await api.close()
        await runner.cleanup()


def kubeconfig(server: str, user: dict[str, object]) -> dict[str, object]:
    return {
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": server}}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
