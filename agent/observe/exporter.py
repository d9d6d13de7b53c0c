"""A thread that hands spans to a collector. Whoever ends a span waits for nothing; what can't be told is counted.

Sources: OTLP specification, OTLP/HTTP (429, 502, 503 and 504 are tried again, Retry-After is kept to, a partial success
is none); the SDK specification's batching processor.
"""

import http.client
import logging
import random
import threading
import time
from collections import Counter, deque
from urllib.parse import urlsplit

from agent.observe import otlp
from agent.observe.otlp import Span
from agent.observe.otlp_settings import OtlpSettings
from agent.words import printable

log = logging.getLogger("weir")
FULL, REFUSED, UNREACHABLE, STOPPED = "full", "refused", "unreachable", "stopped"  # why spans are dropped
REASONS = (FULL, REFUSED, UNREACHABLE, STOPPED)
_AGAIN = (429, 502, 503, 504)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # seconds
_MOST_ANSWER = 64 << 10  # bytes of an answer that are looked at


class Exporter:
    """Sends spans, from a thread of its own."""

    def __init__(self, settings: OtlpSettings) -> None:
        """Take where to; nothing is sent before `start`."""
        self._settings = settings
        self._version = str(settings.resource.get("service.version", ""))
        self._waiting: deque[Span] = deque()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._deadline = float("inf")  # of the last attempts, once it is to stop
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._said = ""
        self.exported = 0
        self.dropped = Counter[str]()

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def take(self, span: Span) -> None:
        """Have a span sent; from any thread, and never waits for the network."""
        with self._changed:
            if len(self._waiting) >= self._settings.most_waiting or self._stopping.is_set():
                self.dropped[STOPPED if self._stopping.is_set() else FULL] += 1
                return
            self._waiting.append(span)
            if len(self._waiting) in (1, self._settings.most_at_once):
                self._changed.notify()

    def close(self, seconds: float) -> None:
        """Send what waits, for so long at most, and end."""
        with self._changed:
            self._deadline = time.monotonic() + seconds
            self._stopping.set()
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)
        with self._changed:
            self.dropped[STOPPED] += len(self._waiting)
            self._waiting.clear()

    def _run(self) -> None:
        while batch := self._next():
            try:
                self._send(batch)
            except Exception as error:
                log.exception("spans")  # a bug must not end the thread: all others would wait for ever
                self._drop(len(batch), REFUSED, f"unexpected: {error!r}")

    def _next(self) -> list[Span]:
        """Return the next spans to send; none when it is to end."""
        with self._changed:
            while not self._waiting and not self._stopping.is_set():
                self._changed.wait()
            until = time.monotonic() + self._settings.delay
            while len(self._waiting) < self._settings.most_at_once and not self._stopping.is_set():
                if (left := until - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), self._settings.most_at_once))]

    def _send(self, batch: list[Span]) -> None:
        body, headers = self._request(batch)
        began, pause = time.monotonic(), _FIRST_PAUSE
        while True:
            status, answer, wait = self._attempt(body, headers)
            if 200 <= status < 300:
                self._delivered(len(batch), answer)
                return
            said = printable(answer.decode("utf-8", "replace")[:200])
            said = f"status {status}: {said}" if status else said
            reason = REFUSED if status else UNREACHABLE
            if status and status not in _AGAIN:
                self._drop(len(batch), REFUSED, said)
                return
            wait = random.uniform(pause / 2, pause) if wait is None else wait  # noqa: S311 (only to come at odds)
            until = min(began + self._settings.longest, self._deadline)
            if time.monotonic() + wait >= until:
                self._drop(len(batch), reason, said)
                return
            self._say(said)
            if self._stopping.is_set():
                time.sleep(wait)  # which ends before the deadline
            else:
                self._stopping.wait(wait)
            pause = min(_LONGEST_PAUSE, pause * 2)

    def _request(self, batch: list[Span]) -> tuple[bytes, dict[str, str]]:
        settings = self._settings
        encode, kind = (otlp.as_json, "json") if settings.protocol == "http/json" else (otlp.as_protobuf, "x-protobuf")
        body = encode(settings.resource, batch, version=self._version)
        headers = {"User-Agent": f"weir/{self._version}", **settings.headers, "Content-Type": f"application/{kind}"}
        if settings.gzip:
            import gzip

            body, headers["Content-Encoding"] = gzip.compress(body), "gzip"
        return body, headers

    def _attempt(self, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, float | None]:
        """Return status, what was said, and after how many seconds to come again; 0 is no answer."""
        connection = self._connection()
        try:
            parts = urlsplit(self._settings.url)
            where = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("POST", where, body, headers)
            answer = connection.getresponse()
            said = answer.read(_MOST_ANSWER)
        except (OSError, http.client.HTTPException, ValueError) as error:
            return 0, f"no answer: {str(error) or error.__class__.__name__}".encode(), None
        finally:
            connection.close()
        return answer.status, said, _seconds(answer.headers.get("Retry-After"))

    def _connection(self) -> http.client.HTTPConnection:
        parts = urlsplit(self._settings.url)
        left = max(0.1, min(self._settings.patience, self._deadline - time.monotonic()))
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=left)
        import ssl

        context = ssl.create_default_context(cafile=self._settings.certificate or None)
        if self._settings.client_certificate:
            context.load_cert_chain(self._settings.client_certificate, self._settings.client_key or None)
        return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=left, context=context)

    def _delivered(self, number: int, answer: bytes) -> None:
        rejected, why = otlp.rejected(answer, written_as_json=self._settings.protocol == "http/json")
        rejected = min(rejected, number)
        with self._changed:
            self.exported += number - rejected
        if rejected:
            self._drop(rejected, REFUSED, why)
        elif self._said:
            log.info("the collector of spans takes them again: %s", self._settings.url)
            self._said = ""

    def _drop(self, number: int, reason: str, why: str) -> None:
        with self._changed:
            self.dropped[reason] += number
        self._say(why)

    def _say(self, why: str) -> None:
        """Say once that spans are not taken, until they are again."""
        if not self._said:
            log.warning(
                "the collector of spans doesn't take them: %s: %s (what is dropped is counted in"
                " weir_spans_dropped_total; nothing else waits for it)",
                self._settings.url,
                why,
            )
        self._said = why


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else min(max(0.0, float(text)), 60.0)
    except ValueError:  # a date, which is as good as nothing
        return None
