"""Where spans go, from the environment variables that OpenTelemetry's specification has for it.

A value that can't be used is said once and passed over, as the specification demands: a mistyped sampler must not keep
a node from capturing. What only traces have (OTEL_EXPORTER_OTLP_TRACES_...) counts before what all signals share.
"""

import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from agent.observe.otlp import Attributes
from agent.observe.propagation import FORMS

log = logging.getLogger("weir")
_T = TypeVar("_T")
_SAMPLERS = ("always_on", "always_off", "traceidratio")
_PROTOCOLS = ("http/protobuf", "http/json")
DEFAULT_ENDPOINT = "http://localhost:4318"


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpSettings:
    """Where spans go, and which. Times are in seconds.

    `ratio` is the part of traces that is recorded (1 is all); with `by_parent` that counts only for those that nobody
    else has begun. `forms` are the headers that others get (`propagation.FORMS`). At most `most_waiting` spans wait,
    at most `most_at_once` of them go together, `delay` after the first. `patience` is for one attempt, `longest` for
    all of one batch.
    """

    url: str
    headers: Mapping[str, str]
    protocol: str
    gzip: bool
    certificate: str
    client_certificate: str
    client_key: str
    resource: Attributes
    ratio: float
    by_parent: bool
    forms: tuple[str, ...]
    most_waiting: int
    most_at_once: int
    delay: float
    patience: float
    longest: float


def settings(environment: Mapping[str, str]) -> OtlpSettings | None:
    """Return where spans go; None where nobody asks for any: by an endpoint, or by ``OTEL_TRACES_EXPORTER=otlp``."""
    read = _Reading(environment)
    if read.text("OTEL_SDK_DISABLED").lower() == "true" or not _asked_for(read):
        return None
    url = _endpoint(read)
    ratio, by_parent = _sampler(read)
    most_waiting = read.number("OTEL_BSP_MAX_QUEUE_SIZE", 2048, int, 1)
    return OtlpSettings(
        url=url,
        headers=_pairs(read, *_otlp("HEADERS")),
        protocol=read.choice(_otlp("PROTOCOL"), _PROTOCOLS, "http/protobuf"),
        gzip=read.choice(_otlp("COMPRESSION"), ("none", "gzip"), "none") == "gzip",
        certificate=read.first(_otlp("CERTIFICATE")),
        client_certificate=read.first(_otlp("CLIENT_CERTIFICATE")),
        client_key=read.first(_otlp("CLIENT_KEY")),
        resource=_resource(read),
        ratio=ratio,
        by_parent=by_parent,
        forms=_forms(read),
        most_waiting=most_waiting,
        most_at_once=min(most_waiting, read.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512, int, 1)),
        delay=read.number("OTEL_BSP_SCHEDULE_DELAY", 5000, int, 0) / 1000,
        patience=read.number(_first_set(read, _otlp("TIMEOUT")), 10_000, int, 1) / 1000,
        longest=read.number("OTEL_BSP_EXPORT_TIMEOUT", 30_000, int, 1) / 1000,
    )


class _Reading:
    """Variables, empty ones as if they weren't set."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def text(self, name: str) -> str:
        return self._environment.get(name, "").strip()

    def first(self, names: tuple[str, ...]) -> str:
        return next(filter(None, map(self.text, names)), "")

    def number(self, name: str, default: _T, read: Callable[[str], _T], least: float) -> _T:
        text = self.text(name)
        if not text:
            return default
        try:
            value = read(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= 2**31:  # type: ignore[operator]
            refuse(name, text, f"wants a number of at least {least:g}", default)
            return default
        return value

    def choice(self, names: tuple[str, ...], known: tuple[str, ...], default: str) -> str:
        text = self.first(names)
        if text and text not in known:
            refuse(_first_set(self, names), text, f"wants one of {', '.join(known)}", default)
        return text if text in known else default


def refuse(name: str, value: str, wants: str, instead: object) -> None:
    """Say that a variable can't be used."""
    log.warning("%s = %r: %s; %s is taken instead", name, value[:200], wants, instead)


def _otlp(name: str) -> tuple[str, str]:
    return f"OTEL_EXPORTER_OTLP_TRACES_{name}", f"OTEL_EXPORTER_OTLP_{name}"


def _first_set(read: _Reading, names: tuple[str, ...]) -> str:
    return next((each for each in names if read.text(each)), names[-1])


def _asked_for(read: _Reading) -> bool:
    exporters = [each.strip() for each in read.text("OTEL_TRACES_EXPORTER").split(",") if each.strip()]
    for each in exporters:
        if each not in ("otlp", "none"):
            refuse("OTEL_TRACES_EXPORTER", each, "wants otlp or none", "none")
    return "otlp" in exporters or (not exporters and bool(read.first(_otlp("ENDPOINT"))))


def _endpoint(read: _Reading) -> str:
    own = read.text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if own and _usable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", own):
        return own
    shared = read.text("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not shared or not _usable("OTEL_EXPORTER_OTLP_ENDPOINT", shared):
        shared = DEFAULT_ENDPOINT
    return f"{shared.rstrip('/')}/v1/traces"


def _usable(name: str, url: str) -> bool:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        refuse(name, url, "wants http://HOST:PORT or https://HOST:PORT", DEFAULT_ENDPOINT)
    return good


def _pairs(read: _Reading, *names: str) -> dict[str, str]:
    """Return ``KEY=VALUE,KEY=VALUE`` as pairs, values percent-decoded; what is no pair is said, without its value."""
    found: dict[str, str] = {}
    name = _first_set(read, names)
    for each in filter(None, (part.strip() for part in read.text(name).split(","))):
        key, equals, value = (part.strip() for part in each.partition("="))
        value = unquote(value)
        fit = equals and key and key.isascii() and key.isprintable() and not {*key} & {*' :"'} and value.isprintable()
        if not fit:
            refuse(name, key, "wants KEY=VALUE,KEY=VALUE", "nothing")
            continue
        found[key] = value
    return found


def _resource(read: _Reading) -> Attributes:
    from importlib.metadata import version

    node = read.text("NODE_NAME")
    return {
        "service.name": "weir",
        "service.version": version("weir"),
        "host.name": socket.gethostname(),
        **({"k8s.node.name": node} if node else {}),
        **_pairs(read, "OTEL_RESOURCE_ATTRIBUTES"),
        **({"service.name": name} if (name := read.text("OTEL_SERVICE_NAME")) else {}),
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "weir",
        "telemetry.sdk.version": version("weir"),
    }


def _sampler(read: _Reading) -> tuple[float, bool]:
    """Return which part of traces is recorded, and whether whoever began a trace decides."""
    known = (*_SAMPLERS, *(f"parentbased_{each}" for each in _SAMPLERS))
    name = read.choice(("OTEL_TRACES_SAMPLER",), known, "parentbased_always_on")
    ratio = 1.0 if name.endswith("always_on") else 0.0
    if name.endswith("traceidratio"):
        ratio = read.number("OTEL_TRACES_SAMPLER_ARG", 1.0, float, 0)
        if not ratio <= 1:
            refuse("OTEL_TRACES_SAMPLER_ARG", f"{ratio:g}", "wants a number from 0 to 1", 1.0)
            ratio = 1.0
    return ratio, name.startswith("parentbased_")


def _forms(read: _Reading) -> tuple[str, ...]:
    names = [each.strip() for each in read.text("OTEL_PROPAGATORS").split(",") if each.strip()]
    for each in names:
        if each not in (*FORMS, "baggage", "none"):
            refuse("OTEL_PROPAGATORS", each, f"wants some of {', '.join(FORMS)}, none", "nothing")
    return tuple(each for each in FORMS if each in names) if names else FORMS
