"""The unix socket on which plugins reach the agent: HTTP with JSON, mode 0600, peer's user checked.

    POST /v1/cni/add|check|del|gc|status   200 {"verdict": ..., "reason": ...}, or {"error": text, "hint": text} with
         400, 403, 404, 413   the request isn't understood, or its sender may not ask
         409                  the agent says no: a pod must not start, isn't as it should be, or an ADD would fail
         500, 503, 504        the agent can't tell, or not in time: the plugin finds out for itself
    POST /cmdadd              as Istio's plugin asks: 200 and nothing, or another status and the reason as text

What headers say of a trace (W3C's traceparent, or B3) is where the trace of an ADD goes on; none is an error.
A request that its sender no longer waits for, or that takes longer than the deadline, is cancelled.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path, PurePath

from aiohttp import web

from agent.cni.protocol import (
    MOST_BYTES,
    Add,
    Answer,
    Check,
    Collect,
    Delete,
    Request,
    RequestError,
    Status,
    Verdict,
    parse,
    parse_istio,
)
from agent.errors import ConfigError, NodeNamespace, TargetError, WeirError
from agent.kernel.netns import identify, node_identity
from agent.local_api import listening_socket, peer_user
from agent.observe import spans
from agent.observe.endpoints import http_log
from agent.state import run_directory
from rulesets.settings import shown

SOCKET_NAME = "cni.sock"
AWAY_NAME = "cni.sock.away"  # where the plugin notes since when its STATUS has found nobody; agent/cni/plugin
ISTIO_SOCKET = Path("/var/run/istio-cni/pluginevent.sock")
DEADLINE = 8.0  # seconds for an answer; the plugin waits a little longer, so that it always hears the reason

# Bytes of a header. One of a trace that is too long is passed over, not refused: it is none of the pod's.
_MOST_HEADER = 1 << 16

log = logging.getLogger("weir.cni")
_MISFIT = "plugin and agent are of versions that don't fit: see whether the agent has installed its own plugin"
_HTTP_STATUS = {Verdict.REFUSED: 409, Verdict.UNKNOWN: 503}

Decide = Callable[[Request], Awaitable[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """How one request fared, for metrics. `verb` is one of `protocol.VERBS`, ``cmdadd``, or empty for what is none."""

    verb: str
    status: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the server listens, and which namespaces it is asked about.

    `istio` is None where Istio's plugin isn't served. `netns` is the folder that the runtime keeps its namespaces in
    (``cniNetnsDir``); None believes any path, and leaves it to whoever opens it to find nothing there.
    """

    socket: Path
    istio: Path | None = None
    netns: Path | None = None


def socket_path() -> Path:
    """Return where the plugin finds the agent."""
    return run_directory() / SOCKET_NAME


async def serve(
    decide: Decide,
    places: Places,
    *,
    deadline: float = DEADLINE,
    count: Callable[[Served], None] = lambda _served: None,
) -> web.AppRunner:
    """Listen; the runner's `cleanup` ends it. Raises `ConfigError` where another process listens already.

    `decide` is awaited for each request, several at a time, and two of them may be about one pod; a `WeirError` that it
    raises is a refusal. It is cancelled at the deadline (seconds) and when the plugin was killed, and has to leave
    nothing half-done then. `count` is called once for each request.
    """
    paths = [places.socket] if places.istio is None else [places.socket, places.istio]
    for path in paths:
        await asyncio.to_thread(_refuse_other, path)
    runner = web.AppRunner(
        application(decide, netns=places.netns, deadline=deadline, count=count),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=1.0,
        logger=http_log,
        max_field_size=_MOST_HEADER,
    )
    await runner.setup()
    try:
        for path in paths:
            await web.SockSite(runner, await asyncio.to_thread(listening_socket, path)).start()
    except ConfigError:
        await runner.cleanup()
        raise
    places.socket.with_name(AWAY_NAME).unlink(missing_ok=True)
    return runner


def application(
    decide: Decide, *, netns: Path | None, deadline: float, count: Callable[[Served], None]
) -> web.Application:
    """Return the server's routes."""

    @web.middleware
    async def told(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Let only the owner and root in; say in the log and to `count` how each request fared."""
        with spans.reading(request.headers.items()):
            began = time.monotonic()
            verb = request.match_info.get("verb", "cmdadd" if request.path == "/cmdadd" else "")
            status = 499  # as web servers say it: the other side went away
            try:
                if (user := peer_user(request)) not in (0, os.geteuid()):
                    log.warning("a process of user %d may not ask: this socket is for its owner and for root", user)
                    answer: web.StreamResponse = _said_no(verb, 403, "this socket is for its owner and for root")
                else:
                    answer = await handler(request)
                status = answer.status
                return answer
            except web.HTTPException as error:
                status = error.status
                log.warning("request not understood: %s", error.reason)
                return _said_no(verb, status, f"request not understood: {error.reason}")
            finally:
                count(Served(verb=verb, status=status, seconds=time.monotonic() - began))

    async def weirs(request: web.Request) -> web.Response:
        verb, body = request.match_info["verb"], await request.read()
        return await _answered(verb, lambda: parse(verb, body))

    async def istios(request: web.Request) -> web.Response:
        body = await request.read()
        return await _answered("cmdadd", lambda: parse_istio(body))

    async def _answered(verb: str, read: Callable[[], Request]) -> web.Response:
        began = time.monotonic()
        try:
            asked = _checked(read(), netns)
        except RequestError as error:
            log.warning("cni %s: request not understood: %s", verb, error)
            return _said_no(verb, 400, f"request not understood: {error}", _MISFIT)
        except WeirError as error:
            log.warning("cni %s: refused: %s", verb, error)
            return _said_no(verb, 409, str(error), error.hint)
        try:
            status, answer = await _decided(decide, asked, deadline)
        except asyncio.CancelledError:
            log.warning("cni %s: after %.1f ms nobody waits for an answer any more", asked, _ms(began))
            raise
        if verb == "cmdadd" and answer.verdict is Verdict.OUTSIDE:
            # Istio's plugin has found the pod to be ambient: one of the two is mistaken, and it must not start so.
            status = 500
        good = logging.DEBUG if isinstance(asked, Status) else logging.INFO  # runtimes ask that every few seconds
        level = good if status == 200 else logging.WARNING
        hint = f" ({answer.hint})" if answer.hint else ""
        reason = f": {answer.reason}" if answer.reason else ""
        log.log(level, "cni %s: %s in %.1f ms%s%s", asked, answer.verdict, _ms(began), reason, hint)
        if status != 200:
            return _said_no(verb, status, answer.reason or "the agent gave no reason", answer.hint)
        if verb == "cmdadd":
            return web.Response()
        return web.json_response({"verdict": answer.verdict, "reason": answer.reason})

    served = web.Application(middlewares=[told], client_max_size=MOST_BYTES)
    served.router.add_post("/v1/cni/{verb:add|check|del|gc|status}", weirs)
    served.router.add_post("/cmdadd", istios)
    return served


async def _decided(decide: Decide, asked: Request, deadline: float) -> tuple[int, Answer]:
    """Return what the agent says, and that as a status of HTTP: of a failure or a delay of its own too."""
    limit = asyncio.timeout(deadline)
    try:
        async with limit:
            answer = await decide(asked)
    except WeirError as error:
        answer = Answer(verdict=Verdict.REFUSED, reason=str(error), hint=error.hint)
    except Exception as error:  # whatever fails, a pod waits for an answer
        if limit.expired():
            reason = f"{asked}: the agent has no answer after {deadline:g} seconds"
            return 504, Answer(verdict=Verdict.UNKNOWN, reason=reason, hint="its log says what it waits for")
        log.error("cni %s: the agent failed", asked, exc_info=error)
        reason = f"{asked}: the agent failed: {error!r}"
        return 500, Answer(verdict=Verdict.UNKNOWN, reason=reason, hint="this is a fault of Weir's: report it")
    return _HTTP_STATUS.get(answer.verdict, 200), answer


def _said_no(verb: str, status: int, text: str, hint: str = "") -> web.Response:
    if verb == "cmdadd":
        return web.Response(text=f"{text}: {hint}" if hint else text, status=min(status, 500))
    return web.json_response({"error": text, "hint": hint}, status=status)


def _checked(asked: Request, folder: Path | None) -> Request:
    """Return a request whose namespace is a pod's: below a folder, and not the node's own. Raises `TargetError`."""
    match asked:
        case Add(sandbox=sandbox) | Check(sandbox=sandbox):
            if folder is not None and not _plain(PurePath(sandbox.netns)).is_relative_to(_plain(folder)):
                raise TargetError(
                    f"{sandbox}: netns = {shown(sandbox.netns)}: is not below {folder}",
                    hint="set cniNetnsDir to the folder that the container runtime keeps its namespaces in",
                )
            if identify(sandbox.netns) == node_identity():
                raise NodeNamespace(
                    f"{sandbox}: netns = {shown(sandbox.netns)}: is the node's own",
                    hint="pods of the host's network are never captured, and no runtime runs plugins for them",
                )
        case Delete() | Collect() | Status():
            pass
    return asked


def _plain(path: PurePath) -> PurePath:
    return PurePath("/run", *path.parts[3:]) if path.parts[:3] == ("/", "var", "run") else path


def _refuse_other(path: Path) -> None:
    """Raise `ConfigError` where a process listens at a path: it would go on unheard, and not know why."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return
    raise ConfigError(
        f"{path}: another process listens there",
        hint="it is another Weir or Istio's CNI agent; end it first (`ss -xlp` names it)",
    )


def _ms(began: float) -> float:
    return (time.monotonic() - began) * 1000
