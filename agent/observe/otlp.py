"""OTLP: spans as what a collector takes, as protobuf and as JSON, encoded by hand.

The official SDK and its exporter would be 26 MB of every agent that traces, 18 of them before the first span; this
is one message of it, written and never read. Sources: opentelemetry-proto 1.x, trace/v1/trace.proto and
common/v1/common.proto; OTLP specification, JSON Protobuf encoding (ids are hexadecimal, 64-bit numbers are texts).
"""

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

Attribute = str | bool | int | float | tuple[str, ...]
Attributes = Mapping[str, Attribute]
SCOPE = "weir"
_LONGEST = 1024  # characters of a text
_FLAGS = 0x100  # whether the parent is remote is known ...
_REMOTE = 0x200  # ... and it is
_ERROR = 2  # as a status


class Kind(IntEnum):
    """On whose behalf a span is, as OTLP numbers it."""

    INTERNAL = 1
    SERVER = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A moment in a span, in nanoseconds since 1970."""

    name: str
    at: int
    attributes: Attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What took some time, in nanoseconds since 1970. Ids are hexadecimal; `parent_id` is empty for a trace's first.

    `remote`: the parent is in another process. `error` is what went wrong, empty where nothing did.
    """

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    start: int
    end: int
    kind: Kind = Kind.INTERNAL
    attributes: Attributes
    events: tuple[Event, ...] = ()
    error: str = ""
    state: str = ""
    remote: bool = False


def as_protobuf(resource: Attributes, spans: Iterable[Span], *, version: str) -> bytes:
    """Return an ExportTraceServiceRequest: a message with one resource, one scope, and these spans."""
    scope = _text(1, SCOPE) + _text(2, version)
    found = _message(1, scope) + b"".join(_message(2, _span(each)) for each in spans)
    return _message(1, _message(1, _attributes(1, resource)) + _message(2, found))


def as_json(resource: Attributes, spans: Iterable[Span], *, version: str) -> bytes:
    """Return the same as JSON."""
    found = {"scope": {"name": SCOPE, "version": version}, "spans": [_json_span(each) for each in spans]}
    document = {"resourceSpans": [{"resource": {"attributes": _json_attributes(resource)}, "scopeSpans": [found]}]}
    return json.dumps(document, separators=(",", ":")).encode()


def rejected(answer: bytes, *, written_as_json: bool) -> tuple[int, str]:
    """Return how many spans a collector that took the rest has left out, and why (ExportTraceServiceResponse).

    An answer that can't be read says that none was.
    """
    try:
        if written_as_json:
            partial = json.loads(answer or b"{}").get("partialSuccess", {})
            return max(0, int(partial.get("rejectedSpans", 0))), str(partial.get("errorMessage", ""))[:_LONGEST]
        found = dict(_fields(next((value for field, value in _fields(answer) if field == 1), b"")))
        why = found.get(2, b"")
        return int(found.get(1, 0)), why.decode("utf-8", "replace")[:_LONGEST] if isinstance(why, bytes) else ""
    except (ValueError, TypeError, AttributeError, IndexError):
        return 0, ""


def _fields(message: bytes | int) -> Iterator[tuple[int, bytes | int]]:
    """Yield the numbers and values of a message's fields, as far as they are numbers and texts."""
    if isinstance(message, int):
        raise TypeError("is no message")
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        number, at = _read_varint(message, at)
        if key & 7 == 2:
            if at + number > len(message):
                raise ValueError("ends too early")
            yield key >> 3, message[at : at + number]
            at += number
        elif key & 7 == 0:
            yield key >> 3, number
        else:
            raise ValueError("has a field of another kind")


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 64, 7):
        number |= (message[at] & 0x7F) << shift
        at += 1
        if message[at - 1] < 0x80:
            return number, at
    raise ValueError("has a number without an end")


def _span(span: Span) -> bytes:
    status = _text(2, span.error) + _key(3, 0) + _varint(_ERROR) if span.error else b""
    return b"".join(
        (
            _bytes(1, bytes.fromhex(span.trace_id)),
            _bytes(2, bytes.fromhex(span.span_id)),
            _text(3, span.state) if span.state else b"",
            _bytes(4, bytes.fromhex(span.parent_id)) if span.parent_id else b"",
            _text(5, span.name),
            _key(6, 0) + _varint(span.kind),
            _key(7, 1) + struct.pack("<Q", span.start),
            _key(8, 1) + struct.pack("<Q", span.end),
            _attributes(9, span.attributes),
            b"".join(_message(11, _event(each)) for each in span.events),
            _message(15, status) if status else b"",
            _key(16, 5) + struct.pack("<I", _flags(span)),
        )
    )


def _flags(span: Span) -> int:
    return 1 | _FLAGS | (_REMOTE if span.remote else 0)


def _event(event: Event) -> bytes:
    return _key(1, 1) + struct.pack("<Q", event.at) + _text(2, event.name) + _attributes(3, event.attributes)


def _attributes(field: int, attributes: Attributes) -> bytes:
    return b"".join(_message(field, _text(1, key) + _message(2, _value(value))) for key, value in attributes.items())


def _value(value: Attribute) -> bytes:
    match value:
        case str():
            return _text(1, value)
        case bool():
            return _key(2, 0) + _varint(value)
        case int():
            return _key(3, 0) + _varint(value & 0xFFFF_FFFF_FFFF_FFFF)
        case float():
            return _key(4, 1) + struct.pack("<d", value)
        case tuple():
            return _message(5, b"".join(_message(1, _text(1, each)) for each in value))


def _key(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, 2) + _varint(len(value)) + value


_message = _bytes


def _text(field: int, value: str) -> bytes:
    return _bytes(field, _fit(value).encode())


def _fit(value: str) -> str:
    """Return a text that UTF-8 can hold, and that is not too long."""
    return value[:_LONGEST].encode("utf-8", "backslashreplace").decode()


def _json_span(span: Span) -> dict[str, object]:
    document: dict[str, object] = {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        "name": _fit(span.name),
        "kind": int(span.kind),
        "startTimeUnixNano": str(span.start),
        "endTimeUnixNano": str(span.end),
        "attributes": _json_attributes(span.attributes),
        "flags": _flags(span),
    }
    if span.parent_id:
        document["parentSpanId"] = span.parent_id
    if span.state:
        document["traceState"] = span.state
    if span.events:
        document["events"] = [
            {"timeUnixNano": str(each.at), "name": each.name, "attributes": _json_attributes(each.attributes)}
            for each in span.events
        ]
    if span.error:
        document["status"] = {"code": _ERROR, "message": _fit(span.error)}
    return document


def _json_attributes(attributes: Attributes) -> list[dict[str, object]]:
    return [{"key": key, "value": _json_value(value)} for key, value in attributes.items()]


def _json_value(value: Attribute) -> dict[str, object]:
    match value:
        case str():
            return {"stringValue": _fit(value)}
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case tuple():
            return {"arrayValue": {"values": [{"stringValue": _fit(each)} for each in value]}}
