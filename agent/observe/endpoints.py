"""HTTP for others on the machine: ``/metrics``, ``/healthz``, ``/readyz``. On loopback or a unix socket only."""

import ipaddress
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from agent.errors import ConfigError
from agent.observe.limits import Guard, Limits, Site

LIMITS = Limits()
http_log = logging.getLogger("weir.http")
# That somebody sent what is no HTTP is answered, and is no news; an error of ours is.
http_log.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where to listen: a loopback address with a port, or a unix socket's path; neither is nowhere."""

    host: str = ""
    port: int = 0
    path: Path | None = None


def parse_listen(text: str) -> Listen:
    """Return where to listen: ``ADDRESS:PORT`` on loopback, ``unix:PATH``, or ``none``. Raises `ConfigError`."""
    if text == "none":
        return Listen()
    if text.startswith("unix:/"):
        return Listen(path=Path(text.removeprefix("unix:")))
    found = re.fullmatch(r"(?:\[(?P<v6>[0-9a-fA-F:]+)\]|(?P<v4>[0-9.]+)):(?P<port>[0-9]{1,5})", text, re.ASCII)
    try:
        address = ipaddress.ip_address((found["v6"] or found["v4"]) if found else "")
        port = int(found["port"]) if found else 0
    except ValueError:
        raise ConfigError(f"--listen {text!r}: wants ADDRESS:PORT on loopback, unix:/PATH, or none") from None
    if not address.is_loopback:
        raise ConfigError(f"--listen {text!r}: {address} is not a loopback address; metrics are for this machine only")
    if not 0 < port < 65536:
        raise ConfigError(f"--listen {text!r}: port {port} is not one of 1 to 65535")
    return Listen(host=str(address), port=port)


def parse_metrics(address: str, port: str) -> Listen:
    """Return where others than this machine read metrics: METRICS_ADDRESS (else 127.0.0.1) and METRICS_PORT.

    No port is nowhere. Raises `ConfigError`.
    """
    if not port.strip():
        return Listen()
    try:
        host = str(ipaddress.ip_address(address.strip() or "127.0.0.1"))
    except ValueError:
        raise ConfigError(f"METRICS_ADDRESS = {address!r}: is no address") from None
    if not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or not 0 < int(port) < 65536:
        raise ConfigError(f"METRICS_PORT = {port!r}: is not one of 1 to 65535")
    return Listen(host=host, port=int(port))


async def serve(
    listen: Listen,
    registry: CollectorRegistry,
    ready: Callable[[], str] | None,
    count: Callable[[], Awaitable[None]] | None = None,
    limits: Limits = LIMITS,
) -> web.AppRunner | None:
    """Listen; the runner's `cleanup` ends it. `ready` returns why the daemon isn't ready; empty when it is.

    Without `ready` there is nothing but the metrics.
    `count` is awaited before they are written, to read what is too old. Raises `ConfigError` when the address
    can't be had.
    """
    if listen == Listen():
        return None

    async def metrics(request: web.Request) -> web.Response:
        if count is not None:
            await count()
        encode, kind = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": kind})

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        reason = ready() if ready is not None else ""
        return web.Response(text=f"{reason or 'ready'}\n", status=503 if reason else 200)

    guard = Guard(limits)
    served = web.Application(middlewares=[guard.middleware])
    served.router.add_get("/metrics", metrics)
    if ready is not None:
        served.router.add_get("/healthz", healthz)
        served.router.add_get("/readyz", readyz)
    runner = web.AppRunner(
        served, access_log=None, shutdown_timeout=1.0, logger=http_log, keepalive_timeout=limits.idle
    )
    await runner.setup()
    try:
        await Site(runner, guard, listen.path or (listen.host, listen.port)).start()
    except OSError as error:
        await runner.cleanup()
        where = listen.path or f"{listen.host}:{listen.port}"
        option = "--listen" if ready is not None else "METRICS_ADDRESS and METRICS_PORT:"
        raise ConfigError(
            f"{option} {where}: {error.strerror or error}", hint=f"name another with {option.rstrip(':')}"
        ) from None
    return runner
