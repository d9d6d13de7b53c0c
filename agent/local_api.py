"""The unix socket on which commands reach a running daemon: HTTP with JSON, mode 0600, peer's user checked.

    GET  /v1/status                                   {"targets": [report...], "file": ..., "file_error": ...}
    GET  /v1/status?figures=1                         and "figures": {"at": seconds, "targets": {name: {"new",
                                                      "packets", "applies", "drifts", "connections", "direct",
                                                      "invalid"}}}: as of now, null where unknown; `daemon.figures`
    POST /v1/apply   {"targets": [name...]}           want them again, wait for a pass each
    POST /v1/remove  {"targets": [name...], "drain": seconds}   want nothing there until apply; wait until it is so
    POST /v1/held    {"identity": "device:inode"}     {"target": name}: who holds that namespace; empty: nobody

Names that the daemon doesn't know are left out of its answer. What headers say of a trace (traceparent, or B3) is where
that of an apply or a remove goes on; a command sends what TRACEPARENT and TRACESTATE of its environment say.
An answer that isn't 200 has {"error": text, "hint": text}.
"""

import http.client
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from agent import report
from agent.errors import ConfigError, DaemonError, WeirError
from agent.report import Report
from agent.state import run_directory

if TYPE_CHECKING:  # aiohttp takes 200 ms to import, and a command needs only the client
    from aiohttp import web

SOCKET_NAME = "weir.sock"
_SO_PEERCRED = struct.Struct("3i")  # pid, uid, gid (unix(7))
_MOST_BYTES = 1 << 20
_SOON = 10.0  # seconds; what has to wait for a namespace has no limit


class Daemon(Protocol):
    """What the socket serves."""

    def status(self) -> dict[str, object]:
        """Return the status document."""

    async def figures(self) -> dict[str, object]:
        """Return what is counted of each target, as of now: `agent.daemon.figures`."""

    def holder(self, identity: str) -> str:
        """Return the name of the target whose namespace this is, or an empty text."""

    async def apply(self, names: tuple[str, ...]) -> tuple[Report, ...]:
        """Want targets, and return how the next pass over each ended."""

    async def remove(self, names: tuple[str, ...], drain: float) -> tuple[Report, ...]:
        """Want nothing in targets, and return when nothing is left."""


def socket_path() -> Path:
    """Return where the daemon's socket is."""
    return run_directory() / SOCKET_NAME


def listening_socket(path: Path) -> socket.socket:
    """Return a listening socket at a path that only its owner can open. What was there before is replaced."""
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        # The mode of the socket file comes from the descriptor's when it is bound, so there is no moment in between.
        os.fchmod(opened.fileno(), 0o600)
        opened.bind(str(path))
        path.chmod(0o600)
    except OSError as error:
        opened.close()
        raise ConfigError(
            f"{path}: the socket can't be made: {error.strerror or error}", hint="set WEIR_RUN_DIR to another directory"
        ) from None
    return opened


def application(daemon: Daemon) -> "web.Application":
    """Return the server's routes."""
    from aiohttp import web

    from agent.observe import spans

    @web.middleware
    async def guarded(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if peer_user(request) not in (0, os.geteuid()):
            return web.json_response({"error": "this socket is for its owner and for root", "hint": ""}, status=403)
        try:
            return await handler(request)
        except WeirError as error:
            return web.json_response({"error": str(error), "hint": error.hint}, status=409)
        except web.HTTPException as error:
            return web.json_response({"error": error.reason, "hint": ""}, status=error.status)
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            return web.json_response({"error": f"request not understood: {error!r}", "hint": ""}, status=400)

    async def status(request: web.Request) -> web.Response:
        figures = {"figures": await daemon.figures()} if request.query.get("figures") == "1" else {}
        return web.json_response({**daemon.status(), **figures})

    async def apply(request: web.Request) -> web.Response:
        names = _names(await request.json())
        with spans.asking(request.headers.items(), names):
            return web.json_response(_documents(await daemon.apply(names)))

    async def remove(request: web.Request) -> web.Response:
        asked = await request.json()
        names, drain = _names(asked), _drain(asked)
        with spans.asking(request.headers.items(), names):
            return web.json_response(_documents(await daemon.remove(names, drain)))

    async def held(request: web.Request) -> web.Response:
        return web.json_response({"target": daemon.holder(str((await request.json())["identity"]))})

    served = web.Application(middlewares=[guarded], client_max_size=_MOST_BYTES)
    served.router.add_get("/v1/status", status)
    served.router.add_post("/v1/apply", apply)
    served.router.add_post("/v1/remove", remove)
    served.router.add_post("/v1/held", held)
    return served


def peer_user(request: "web.Request") -> int:
    """Return the user of the process at the other end, as the kernel knows it (unix(7)); -1 when it has gone."""
    transport = request.transport
    peer = transport.get_extra_info("socket") if transport else None
    if peer is None:
        return -1
    _, user, _ = _SO_PEERCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _SO_PEERCRED.size))
    return int(user)


def _names(asked: Mapping[str, object]) -> tuple[str, ...]:
    names = asked["targets"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError("targets is no list of names")
    return tuple(names)


def _drain(asked: Mapping[str, object]) -> float:
    drain = asked.get("drain", 0)
    if isinstance(drain, bool) or not isinstance(drain, int | float) or not 0 <= drain <= 31_536_000:
        raise ValueError("drain is no number of seconds")
    return float(drain)


def _documents(reports: tuple[Report, ...]) -> dict[str, object]:
    return {"targets": [each.document() for each in reports]}


class Client:
    """A command's side of the socket."""

    def __init__(self, path: Path | None = None) -> None:
        """Speak to the daemon at `path`, by default in the run directory."""
        self._path = path or socket_path()

    def is_there(self) -> bool:
        """Tell whether a daemon listens."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(self._path))
            except OSError:
                return False
        return True

    def process(self) -> int:
        """Return the daemon's process, as it is numbered here; 0 where none listens or it can't be seen from here."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(self._path))
                told = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _SO_PEERCRED.size)
            except OSError:
                return 0
        return int(_SO_PEERCRED.unpack(told)[0])

    def status(self, *, figures: bool = False) -> dict[str, object]:
        """Return the daemon's status document, with what is counted of each target where `figures` are asked for."""
        return self._ask("GET", "/v1/status?figures=1" if figures else "/v1/status", None, _SOON)

    def apply(self, names: tuple[str, ...]) -> tuple[Report, ...]:
        """Have targets captured, and return how they fared."""
        return _reports(self._ask("POST", "/v1/apply", {"targets": list(names)}))

    def remove(self, names: tuple[str, ...], drain: float) -> tuple[Report, ...]:
        """Have targets released; returns when nothing is left in them."""
        return _reports(self._ask("POST", "/v1/remove", {"targets": list(names), "drain": drain}))

    def holder(self, identity: str) -> str:
        """Return the name of the target whose namespace this is, or an empty text."""
        return str(self._ask("POST", "/v1/held", {"identity": identity}, _SOON).get("target", ""))

    def _ask(
        self, method: str, path: str, body: dict[str, object] | None, timeout: float | None = None
    ) -> dict[str, object]:
        connection = _UnixConnection(self._path, timeout)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), _of_trace())
            answer = connection.getresponse()
            document = json.loads(answer.read(64 * _MOST_BYTES))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DaemonError(
                f"the daemon at {self._path} gave no answer: {error!r}",
                hint="`systemctl status weir` or its log says why",
            ) from None
        finally:
            connection.close()
        if not isinstance(document, dict):
            raise DaemonError(f"the daemon at {self._path} gave an answer of another version")
        if answer.status != http.client.OK:
            raise DaemonError(str(document.get("error", answer.reason)), hint=str(document.get("hint", "")))
        return document


def _of_trace() -> dict[str, str]:
    """Return the headers of the trace that a command is part of, where whoever started it says so."""
    said = {name: os.environ.get(name.upper(), "") for name in ("traceparent", "tracestate")}
    return {name: text for name, text in said.items() if text and text.isascii() and text.isprintable()}


def _reports(document: Mapping[str, object]) -> tuple[Report, ...]:
    targets = document.get("targets")
    if not isinstance(targets, list):
        raise DaemonError("the daemon gave an answer of another version")
    try:
        return tuple(report.parse(each) for each in targets)
    except (ValueError, TypeError, KeyError) as error:
        raise DaemonError(f"the daemon gave an answer of another version: {error!r}") from None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


async def serve(daemon: Daemon, path: Path) -> "web.AppRunner":
    """Listen; the runner's `cleanup` ends it."""
    import asyncio

    from aiohttp import web

    from agent.observe.endpoints import http_log

    # A command that was killed waits for nothing any more; its wish stays. When the daemon stops, commands hear so.
    runner = web.AppRunner(
        application(daemon), access_log=None, handler_cancellation=True, shutdown_timeout=1.0, logger=http_log
    )
    await runner.setup()
    await web.SockSite(runner, await asyncio.to_thread(listening_socket, path)).start()
    return runner
