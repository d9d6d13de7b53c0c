"""Where a trace goes on: contexts in HTTP headers, as W3C writes them and as B3 does, read strictly and written back.

Sources: Trace Context (W3C, level 1: traceparent, tracestate) and openzipkin/b3-propagation (one header `b3`, or four
that begin with `x-b3-`). What can't be read is as if it weren't there: no request fails for its headers. It is told in
words instead. Where several forms are there, the first that can be read counts: W3C, then `b3`, then `x-b3-`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

W3C, B3, B3_MULTI = "tracecontext", "b3", "b3multi"  # as OTEL_PROPAGATORS names them
FORMS = (W3C, B3, B3_MULTI)
MOST_STATE = 512  # characters of a tracestate that are passed on; W3C asks for no less
_MOST_READ = 8192  # characters of a header that are looked at
_MOST_MEMBERS = 32
_LONG_MEMBER = 128  # characters: such members go first where a tracestate is too long
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_KEY = r"[a-z][-a-z0-9_*/]{0,255}|[a-z0-9][-a-z0-9_*/]{0,240}@[a-z][-a-z0-9_*/]{0,13}"
_MEMBER = re.compile(rf"(?P<key>{_KEY})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{{0,255}}[\x21-\x2b\x2d-\x3c\x3e-\x7e]", re.ASCII)
_TRACE = re.compile(r"[0-9a-f]{16}|[0-9a-f]{32}", re.ASCII)
_SPAN = re.compile(r"[0-9a-f]{16}", re.ASCII)
_DECISIONS = {"0": False, "1": True, "d": True}
_MULTI_DECISIONS = {"0": False, "1": True, "false": False, "true": True}


@dataclass(frozen=True, slots=True)
class Context:
    """A span that others go on from.

    `trace_id` are 32 and `span_id` 16 small hexadecimal digits, neither all zero. `sampled`: whoever began the trace
    wants it recorded. `state` is the tracestate that goes with it, as it came.
    """

    trace_id: str
    span_id: str
    sampled: bool
    state: str = ""


@dataclass(frozen=True, slots=True)
class Incoming:
    """What headers say. `context` is None where none can be read; `sampled` is a decision without a context (B3).

    `faults` are headers that can't be used, in words; `conflicts` name forms that say something else than the one that
    counts.
    """

    context: Context | None = None
    sampled: bool | None = None
    faults: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()


class _Unreadable(ValueError):
    """A header that can't be used; the reason in words."""


def incoming(headers: Iterable[tuple[str, str]]) -> Incoming:
    """Return what headers say, names in any case. Never raises, whatever they hold."""
    given: dict[str, list[str]] = {}
    for name, value in headers:
        low = name.lower()
        if low in _NAMES:
            given.setdefault(low, []).append(value.strip(" \t"))
    if not given:
        return NO_HEADERS
    found: list[tuple[str, Context | None, bool | None]] = []
    faults: list[str] = []
    for form, read in ((W3C, _w3c), (B3, _b3), (B3_MULTI, _b3_multi)):
        try:
            context, sampled = read(given, faults)
        except _Unreadable as error:
            faults.append(str(error))
            continue
        if context is not None or sampled is not None:
            found.append((form, context, sampled))
    # A decision alone is no context: one that is whole counts before it.
    found.sort(key=lambda each: each[1] is None)
    if not found:
        return Incoming(faults=tuple(faults))
    first, context, sampled = found[0]
    conflicts = tuple(
        f"{form} differs from {first}, which counts"
        for form, other, decided in found[1:]
        if (other is not None and context is not None and _ids(other) != _ids(context)) or decided != sampled
    )
    return Incoming(context, sampled, tuple(faults), conflicts)


def outgoing(context: Context, forms: Iterable[str] = FORMS) -> dict[str, str]:
    """Return the headers that have others go on from a context, in each of these forms."""
    headers: dict[str, str] = {}
    flag = "1" if context.sampled else "0"
    for form in forms:
        match form:
            case "tracecontext":
                headers["traceparent"] = f"00-{context.trace_id}-{context.span_id}-0{flag}"
                if context.state:
                    headers["tracestate"] = context.state
            case "b3":
                headers["b3"] = f"{context.trace_id}-{context.span_id}-{flag}"
            case "b3multi":
                headers["x-b3-traceid"], headers["x-b3-spanid"] = context.trace_id, context.span_id
                headers["x-b3-sampled"] = flag
            case _:
                pass
    return headers


_MULTI = ("x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags", "x-b3-parentspanid")
_NAMES = frozenset(("traceparent", "tracestate", "b3", *_MULTI))
NO_HEADERS = Incoming()


def _ids(context: Context) -> tuple[str, str]:
    return context.trace_id, context.span_id


def _one(given: dict[str, list[str]], name: str) -> str | None:
    """Return the value of a header that may be there once. Raises `_Unreadable`."""
    values = given.get(name)
    if values is None:
        return None
    if len(values) > 1:
        raise _Unreadable(f"{name}: is there {len(values)} times")
    if len(values[0]) > _MOST_READ:
        raise _Unreadable(f"{name}: has {len(values[0])} characters")
    return values[0]


def _w3c(given: dict[str, list[str]], faults: list[str]) -> tuple[Context | None, bool | None]:
    parent = _one(given, "traceparent")
    if parent is None:
        return None, None
    found = _PARENT.fullmatch(parent)
    if found is None:
        raise _Unreadable(f"traceparent = {parent[:80]!r}: is no VERSION-TRACE-PARENT-FLAGS in small hexadecimal")
    version, trace, span, flags, more = found.groups()
    if version == "ff" or (version == "00" and more is not None):
        raise _Unreadable(f"traceparent = {parent[:80]!r}: version {version} is not written so")
    _refuse_zeros("traceparent", trace, span)
    sampled = bool(int(flags, 16) & 1)
    return Context(trace, span, sampled, _state(given.get("tracestate", []), faults)), sampled


def _state(values: list[str], faults: list[str]) -> str:
    """Return a tracestate to pass on: as it came, less what is too long; empty where any of it can't be read."""
    text = ",".join(values)
    if len(text) > _MOST_READ:
        faults.append(f"tracestate: has {len(text)} characters")
        return ""
    members = [each.strip(" \t") for each in text.split(",")]
    members = [each for each in members if each]
    keys = [found["key"] for each in members if (found := _MEMBER.fullmatch(each))]
    if len(keys) != len(members) or len({*keys}) != len(keys) or len(members) > _MOST_MEMBERS:
        faults.append(f"tracestate = {text[:80]!r}: is no list of at most {_MOST_MEMBERS} different members")
        return ""
    long = [each for each in members if len(each) > _LONG_MEMBER]
    while members and len(",".join(members)) > MOST_STATE:
        members.remove(long.pop() if long else members[-1])
    return ",".join(members)


def _b3(given: dict[str, list[str]], _faults: list[str]) -> tuple[Context | None, bool | None]:
    text = _one(given, "b3")
    if text is None:
        return None, None
    if text.lower() in _DECISIONS:
        return None, _DECISIONS[text.lower()]
    parts = text.lower().split("-")
    if not 2 <= len(parts) <= 4 or (len(parts) == 4 and not _SPAN.fullmatch(parts[3])):
        raise _Unreadable(f"b3 = {text[:80]!r}: is no TRACE-SPAN-DECISION-PARENT")
    if len(parts) > 2 and parts[2] not in _DECISIONS:
        raise _Unreadable(f"b3 = {text[:80]!r}: decision {parts[2][:20]!r} is not 0, 1 or d")
    # Without a decision it is left to whoever reads: to us, and what can be asked for is wanted.
    sampled = _DECISIONS[parts[2]] if len(parts) > 2 else True
    return _of_b3("b3", parts[0], parts[1], sampled), sampled


def _b3_multi(given: dict[str, list[str]], _faults: list[str]) -> tuple[Context | None, bool | None]:
    trace, span, decision, flags, parent = (_one(given, name) for name in _MULTI)
    if flags not in (None, "", "0", "1"):
        raise _Unreadable(f"x-b3-flags = {flags[:20]!r}: is not 0 or 1")
    if decision is not None and decision.lower() not in _MULTI_DECISIONS:
        raise _Unreadable(f"x-b3-sampled = {decision[:20]!r}: is not 0 or 1")
    if parent is not None and not _SPAN.fullmatch(parent.lower()):
        raise _Unreadable(f"x-b3-parentspanid = {parent[:40]!r}: wants 16 hexadecimal digits")
    sampled = True if flags == "1" else None if decision is None else _MULTI_DECISIONS[decision.lower()]
    if trace is None and span is None:
        return None, sampled
    if trace is None or span is None:
        raise _Unreadable(f"x-b3-{'traceid' if trace is None else 'spanid'}: is missing beside the other one")
    sampled = True if sampled is None else sampled
    return _of_b3("x-b3", trace.lower(), span.lower(), sampled), sampled


def _of_b3(where: str, trace: str, span: str, sampled: bool) -> Context:
    if not _TRACE.fullmatch(trace) or not _SPAN.fullmatch(span):
        raise _Unreadable(f"{where}: {trace[:40]!r} and {span[:40]!r} are no trace and span in hexadecimal digits")
    _refuse_zeros(where, trace, span)
    return Context(trace.rjust(32, "0"), span, sampled)


def _refuse_zeros(where: str, trace: str, span: str) -> None:
    if not trace.strip("0") or not span.strip("0"):
        raise _Unreadable(f"{where}: a trace or a span of zeros is none")
