"""Events on pods: told in the background, so that nothing waits for them, and so few that nobody is flooded.

The same of one pod is one Event, whose series counts how often it was. Of one pod a burst of different ones is told,
and then one each minute; what is beyond that is counted, and stands in `weir status` all the same.
"""

import asyncio
import logging
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from agent.errors import ApiError
from agent.sources.kubernetes.facts import Pod
from agent.state import now

if TYPE_CHECKING:
    from agent.sources.kubernetes.calls import Calls

COMPONENT = "weir"
_BURST, _REFILL = 10, 60.0  # different Events of one pod at once, and the seconds until there may be one more
_GAP = 0.1  # seconds between two requests, whatever they are about
_SERIES_GAP = 30.0  # seconds between two that say how often something was
_FORGOTTEN = 1800.0  # seconds after which the same is told as something that has not been before; the API keeps an hour
_MOST = 1000  # Events that are remembered
_OLDEST = 300.0  # seconds after which one that the API doesn't take is given up
_RETRY = 5.0
_MOST_NOTE = 1000  # bytes; the API takes 1024

log = logging.getLogger("weir.kubernetes")

_Key = tuple[str, str, str, bool]


@dataclass(slots=True)
class _Told:
    """One Event. `sent` is how often the API knows it to have been, `due` when it is to hear more."""

    pod: Pod
    name: str
    first: str
    last: str
    since: float
    touched: float
    count: int = 1
    sent: int = 0
    due: float = 0.0


class Events:
    """Tells of pods. To be used in one loop."""

    def __init__(self, calls: "Calls", *, node: str) -> None:
        self._calls, self._node = calls, node
        self._told: OrderedDict[_Key, _Told] = OrderedDict()
        self._allowance: dict[str, tuple[float, float]] = {}
        self._more = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None
        self._sending = asyncio.Lock()
        self._complained = ""
        self.dropped = 0

    def tell(self, pod: Pod, reason: str, note: str, *, warning: bool) -> None:
        """Have something told of a pod, soon. Never raises."""
        if not pod.uid:
            self.dropped += 1
            return
        key, moment = (pod.uid, reason, note, warning), now()
        told = self._told.get(key)
        if told is not None and moment - told.touched < _FORGOTTEN:
            told.count, told.last, told.touched = told.count + 1, _time(), moment
        elif self._may(pod.uid, moment):
            stamp = _time()
            name = f"{pod.name[:230]}.{secrets.token_hex(8)}"
            self._told[key] = _Told(pod=pod, name=name, first=stamp, last=stamp, since=moment, touched=moment)
        else:
            self.dropped += 1
            return
        self._told.move_to_end(key)
        self._trim()
        self._more.set()
        if self._sender is None or self._sender.done():
            self._sender = asyncio.get_running_loop().create_task(self._send_forever())

    async def close(self, seconds: float) -> None:
        """Send what waits, for so long, and end. What is being sent is not sent twice."""
        if self._sender is None:
            return
        try:
            async with asyncio.timeout(seconds):
                async with self._sending:
                    self._sender.cancel()
                for key, told in list(self._told.items()):
                    if told.sent < told.count:
                        await self._send(key, told)
        except TimeoutError:
            pass
        self._sender.cancel()
        await asyncio.gather(self._sender, return_exceptions=True)
        self.dropped += sum(told.sent == 0 for told in self._told.values())
        self._told.clear()

    def _may(self, uid: str, moment: float) -> bool:
        """Take one of a pod's allowance."""
        left, since = self._allowance.pop(uid, (float(_BURST), moment))
        left = min(float(_BURST), left + (moment - since) / _REFILL)
        allowed = left >= 1.0
        self._allowance[uid] = (left - allowed, moment)
        while len(self._allowance) > _MOST:
            self._allowance.pop(next(iter(self._allowance)))
        return allowed

    def _trim(self) -> None:
        while len(self._told) > _MOST:
            _, oldest = self._told.popitem(last=False)
            self.dropped += oldest.sent == 0

    async def _send_forever(self) -> None:
        while True:
            waiting = [(told.due, key) for key, told in self._told.items() if told.sent < told.count]
            if not waiting:
                self._more.clear()
                await self._more.wait()
                continue
            due, key = min(waiting, key=lambda each: each[0])
            if (seconds := due - now()) > 0:
                self._more.clear()
                try:
                    await asyncio.wait_for(self._more.wait(), seconds)
                except TimeoutError:
                    pass
                continue
            async with self._sending:
                await self._send(key, self._told[key])
            await asyncio.sleep(_GAP)

    async def _send(self, key: _Key, told: _Told) -> None:
        """Send an Event, or how often it was since. What the API refuses is given up."""
        count, path = told.count, f"/apis/events.k8s.io/v1/namespaces/{told.pod.namespace}/events"
        try:
            if told.sent:
                series = {"series": {"count": count, "lastObservedTime": told.last}}
                await self._calls.patch(f"{path}/{told.name}", series, resource="events")
            else:
                await self._calls.create(path, self._document(key, told), resource="events")
        except ApiError as error:
            if told.sent and error.status == 404:  # the API keeps them for an hour: told as if it were new
                told.sent, told.name = 0, f"{told.pod.name[:230]}.{secrets.token_hex(8)}"
            elif not told.sent and error.status == 409:  # it came, and the answer to it was lost
                told.sent = 1
            elif (error.status == 0 or error.status == 429 or error.status >= 500) and now() - told.since < _OLDEST:
                told.due = now() + _RETRY
            else:
                self._give_up(key, error)
            return
        except Exception:  # whatever is wrong with one Event, others are told
            log.exception("event %s of %s can't be told", key[1], told.pod)
            self._told.pop(key, None)
            self.dropped += 1
            return
        told.sent, told.due = count, now() + _SERIES_GAP

    def _give_up(self, key: _Key, error: ApiError) -> None:
        told = self._told.pop(key, None)
        self.dropped += told is not None and told.sent == 0
        again = str(error.status) == self._complained
        self._complained = str(error.status)
        # A namespace that is being deleted takes none: that is as it should be.
        level = logging.DEBUG if again or error.status == 404 or "being terminated" in str(error) else logging.WARNING
        log.log(level, "event %s of %s is not told: %s", key[1], told.pod if told else key[0], error)

    def _document(self, key: _Key, told: _Told) -> dict[str, object]:
        _, reason, note, warning = key
        series = {} if told.count == 1 else {"series": {"count": told.count, "lastObservedTime": told.last}}
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": told.name, "namespace": told.pod.namespace},
            "eventTime": told.first,
            "reportingController": COMPONENT,
            "reportingInstance": self._node[:128] or COMPONENT,
            "action": "Capture",
            "reason": reason[:128],
            "regarding": {
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": told.pod.namespace,
                "name": told.pod.name,
                "uid": told.pod.uid,
            },
            "note": _shortened(note),
            "type": "Warning" if warning else "Normal",
            **series,
        }


def _time() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _shortened(note: str) -> str:
    data = note.encode(errors="replace")
    if len(data) <= _MOST_NOTE:
        return data.decode()
    return f"{data[: _MOST_NOTE - 3].decode(errors='ignore')}..."
