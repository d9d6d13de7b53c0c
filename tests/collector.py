"""A collector of spans: a real HTTP server that decodes OTLP with OpenTelemetry's own messages, or as JSON."""

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

SECONDS = 30.0


@dataclass(frozen=True)
class Told:
    """One span as it came, ids in hexadecimal."""

    name: str
    trace: str
    span: str
    parent: str
    kind: int
    start: int
    end: int
    attributes: dict[str, Any]
    events: tuple[str, ...]
    error: str
    state: str


@dataclass
class Request:
    """One request: headers with small names, and the resource that the spans are of."""

    headers: dict[str, str]
    resource: dict[str, Any]
    spans: list[Told]


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing: a client may go away, and TLS is no request."""


@dataclass
class Collector:
    """Listens on loopback. `answers` are statuses for the next requests; then all are taken."""

    answers: list[int] = field(default_factory=list)
    retry_after: str = ""
    delay: float = 0.0
    rejected: int = 0
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> Self:
        outer = self

        class Answering(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces", self.path
                outer.released.wait(outer.delay)
                status = outer.answers.pop(0) if outer.answers else 200
                if status == 200:
                    outer.requests.append(_read({k.lower(): v for k, v in self.headers.items()}, body))
                said = ExportTraceServiceResponse()
                said.partial_success.rejected_spans = outer.rejected
                said.partial_success.error_message = "too many" if outer.rejected else ""
                as_json = "json" in self.headers["Content-Type"]
                answer = json_format.MessageToJson(said).encode() if as_json else said.SerializeToString()
                self.send_response(status)
                self.send_header("Content-Type", self.headers["Content-Type"])
                self.send_header("Content-Length", str(len(answer)))
                if outer.retry_after:
                    self.send_header("Retry-After", outer.retry_after)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self.released = threading.Event()
        self.server = _Server(("127.0.0.1", 0), Answering)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    @property
    def spans(self) -> list[Told]:
        """All spans so far."""
        return [span for request in tuple(self.requests) for span in request.spans]

    def until(self, holds: Callable[[list[Told]], object], what: str) -> list[Told]:
        """Wait until something holds of the spans; return them."""
        end = time.monotonic() + SECONDS
        while not holds(self.spans):
            assert time.monotonic() < end, f"{what}: {[(each.name, each.attributes) for each in self.spans]}"
            time.sleep(0.02)
        return self.spans


def tree(spans: Iterable[Told]) -> dict[str, list[str]]:
    """Return the names of spans with the names of what is right below, each sorted; "" is above all."""
    spans = list(spans)
    names = {each.span: each.name for each in spans}
    found: dict[str, list[str]] = {}
    for each in spans:
        found.setdefault(names.get(each.parent, "" if not each.parent else f"remote {each.parent}"), []).append(
            each.name
        )
    return {name: sorted(below) for name, below in found.items()}


def _read(headers: dict[str, str], body: bytes) -> Request:
    if headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    message = ExportTraceServiceRequest()
    if headers["content-type"] == "application/json":
        message = json_format.Parse(_ids_in_base64(body), message)
    else:
        assert headers["content-type"] == "application/x-protobuf"
        message.ParseFromString(body)
    [of_resource] = message.resource_spans
    [of_scope] = of_resource.scope_spans
    assert of_scope.scope.name == "weir"
    return Request(headers, _attributes(of_resource.resource.attributes), [_told(each) for each in of_scope.spans])


def _ids_in_base64(body: bytes) -> str:
    """Return OTLP's JSON as protobuf's own JSON has it: that writes ids in base64."""
    import base64

    document = json.loads(body)
    for span in document["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        for key in ("traceId", "spanId", "parentSpanId"):
            if key in span:
                span[key] = base64.b64encode(bytes.fromhex(span[key])).decode()
    return json.dumps(document)


def _told(span: Any) -> Told:
    return Told(
        name=span.name,
        trace=span.trace_id.hex(),
        span=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        kind=span.kind,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes=_attributes(span.attributes),
        events=tuple(each.name for each in span.events),
        error=span.status.message if span.status.code == 2 else "",
        state=span.trace_state,
    )


def _attributes(found: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in found}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return tuple(_value(each) for each in value.array_value.values) if kind == "array_value" else getattr(value, kind)
