"""`NodeProbes`: what the node probes of its pods, in the kernel before a pod is captured and until it is no more."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import ParamSpec, Protocol, TypeVar

from agent.drift import MOST_DRIFTS, Drift, Kind
from agent.errors import TargetError, WeirError
from agent.kernel.subscription import received
from agent.pods.node_table import NodeTable, Place
from agent.sources.kubernetes.facts import Pod
from agent.targets import HOST
from agent.words import printable
from rulesets.capture import PROBE_SOURCES
from rulesets.host import HOST_TABLE, ProbeTarget, elements_of, sets_of
from rulesets.model import Element
from rulesets.vocabulary import Address, ModelError

log = logging.getLogger("weir")
_P = ParamSpec("_P")
_T = TypeVar("_T")
# Seconds: from the last of several writes until libnftables reads them back, which takes 25 ms for a thousand elements
# and should meet no pod that starts, and from the first one at most; between two looks in a row; without a cause; after
# an error.
READ_BACK, READ_BACK_LATEST, REST, RESYNC, RETRY = 2.0, 30.0, 0.1, 60.0, 1.0
_MOST_LINES = 12  # of a difference, in the log
_MOST_CHANGES = 64  # read at once: whoever changes rules without end must not keep the loop


class Threads(Protocol):
    """Threads beside the loop: `work` waits for nobody, `follow_up` is for what nobody waits for."""

    async def work(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call something in a worker; return what it returns."""

    async def follow_up(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call something that takes its time."""

    def waited_for(self) -> contextlib.AbstractContextManager[None]:
        """Have follow-ups let go first whatever is done until the block ends."""


def targets_of(pod: Pod, addresses: Iterable[Address] = ()) -> tuple[ProbeTarget, ...]:
    """Return what the node probes of a pod, at the addresses given or else those that the API knows.

    A pod whose probes and hooks all name ports is probed there alone. One that is asked nothing by network isn't probed
    at all: nobody on the node then has a reason to pass by the proxy, and what passes is in plain. Only where the ports
    can't be told, all of them count.
    """
    if pod.probe_ports is not None and not pod.probe_ports:
        return ()
    ports = pod.probe_ports or ()
    return tuple(ProbeTarget(address=each, owner=pod.uid, ports=ports) for each in tuple(addresses) or pod.addresses)


class NodeProbes:
    """The node's table as the pods want it. To be used in the loop's thread; it writes in a worker.

    Where several pods name an element it is the newest's, and an older one's again when that leaves: an address may
    come to another pod before word comes that the first is gone. Wishes that come while a transaction is under way
    are carried out together by the next.
    """

    def __init__(
        self,
        threads: Threads,
        *,
        flags: tuple[str, ...] | None,
        sources: tuple[Address, ...] = PROBE_SOURCES,
        resync: float = RESYNC,
        netns: str = HOST,
    ) -> None:
        """`flags` are those of the table (`Handle`), `sources` what probes leave with, `resync` is in seconds.

        Nothing happens before the first `put` or `fill`.
        """
        self._threads = threads
        self._table = NodeTable(flags=flags, sources=sources, netns=netns)
        self._resync = resync
        self._wanted: dict[str, tuple[Place, ...]] = {}  # by pod
        self._claims: dict[Place, dict[str, None]] = {}  # the pods that want an element; the last one is its owner
        self._unwritten: set[Place] = set()
        self._whole = False  # whether all is to be written, rather than what differs
        self._removed = False
        self._asked = self._answered = 0
        self._writing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening = False
        self._touched = False  # by others
        self._look_at = 0.0  # without a cause, or after an error
        self._unread: tuple[float, float] | None = None  # when the first and the last write were that nobody has read
        self._sooner = asyncio.Event()
        self.mended = 0
        self.drifts: tuple[Drift, ...] = ()
        self.drifted: Callable[[Drift], None] | None = None  # who is told, once there is somebody
        self.error = ""

    def document(self) -> dict[str, object]:
        """Return how the table stands, as JSON has it."""
        drifts = [each.document() for each in self.drifts]
        return {"elements": self.elements, "mended": self.mended, "error": self.error, "drifts": drifts}

    @property
    def elements(self) -> int:
        """How many elements are wanted."""
        return len(self._claims)

    async def fill(self, targets: Mapping[str, tuple[ProbeTarget, ...]]) -> None:
        """Have these probed, by their pods' uids, and what was put since the start; all else goes from the table.

        One transaction: an element that an earlier agent left and that is still wanted is there throughout. Raises as
        `put` does.
        """
        for uid, each in targets.items():
            self._want(uid, each)
        self._whole = True
        await self._written()

    async def put(self, uid: str, targets: tuple[ProbeTarget, ...]) -> None:
        """Have these of a pod probed, and nothing else of it; return when the kernel has acknowledged it.

        What an earlier agent left of other pods stays, until `fill`. Raises `WeirError`: nothing has changed then, and
        the wish stands: the next write of any pod, and every look of `keep`, tries it again.
        """
        self._want(uid, targets)
        await self._written()

    async def drop(self, uid: str) -> None:
        """Have nothing of a pod probed; what has become another pod's stays. Raises as `put` does."""
        self._want(uid, ())
        await self._written()

    async def keep(self) -> None:
        """Look after the table, until cancelled: at once where others have changed it, and some time after each write.

        A table that is owned nobody else can change, so nothing is listened to: nodes change their rules all the time.
        """
        loop = asyncio.get_running_loop()
        self._look_at = loop.time() + self._resync
        while True:
            self._sooner.clear()
            pause = self._due() - loop.time()
            if pause > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._sooner.wait()
                continue
            self._touched, self._unread = False, None
            self._look_at = loop.time() + self._resync
            await self._mend()
            await asyncio.sleep(REST)

    def _due(self) -> float:
        """Return when the table is to be looked at next."""
        if self._touched:
            return 0.0
        if self._unread is None:
            return self._look_at
        first, last = self._unread
        return min(self._look_at, last + READ_BACK, first + READ_BACK_LATEST)

    async def remove(self) -> None:
        """Delete the table: probes of pods that are still captured then go to their proxy. Raises `WeirError`.

        Nothing is written afterwards, whoever asks for it.
        """
        self._removed = True
        async with self._writing:
            await self._threads.work(self._table.remove)

    async def close(self) -> None:
        """Let go of the table once what is under way is done; it stays as it is."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listening and self._table.changes is not None:
            asyncio.get_running_loop().remove_reader(self._table.changes)
        self._listening = False
        await self._threads.follow_up(self._table.close)

    def _want(self, uid: str, targets: tuple[ProbeTarget, ...]) -> None:
        elements = [(name, each.value) for target in targets for name, each in elements_of(target)]
        try:
            sets_of((name, Element(value=value, comment=uid)) for name, value in elements)
        except ModelError as error:
            raise TargetError(f"the probes of pod {uid!r}: {error}") from None
        for place in self._wanted.pop(uid, ()):
            del self._claims[place][uid]
            if not self._claims[place]:
                del self._claims[place]
            self._unwritten.add(place)
        if elements:
            self._wanted[uid] = tuple(dict.fromkeys(elements))
        for place in self._wanted.get(uid, ()):
            self._claims.setdefault(place, {})[uid] = None
            self._unwritten.add(place)

    def _owner(self, place: Place) -> str | None:
        return next(reversed(self._claims.get(place, {})), None)

    async def _written(self) -> None:
        """Return when all that is wanted by now is written."""
        if not self._unwritten and not self._whole and not self._writing.locked():
            return
        self._asked += 1
        # Whoever waits may give up half-way; the transaction doesn't.
        task = asyncio.get_running_loop().create_task(self._write_up_to(self._asked))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        await asyncio.shield(task)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has it, unless nobody does any more

    async def _write_up_to(self, asked: int) -> None:
        async with self._writing:
            if self._removed or self._answered >= asked:
                return
            now, whole, places = self._asked, self._whole, self._unwritten
            self._whole, self._unwritten = False, set()
            try:
                if whole:
                    owners = ((place, self._owner(place)) for place in self._claims)
                    wanted = {place: uid for place, uid in owners if uid is not None}
                    await self._threads.work(self._table.fill, wanted)
                else:
                    await self._threads.work(self._table.change, {place: self._owner(place) for place in places})
            except BaseException:
                self._whole, self._unwritten = self._whole or whole, self._unwritten | places
                raise
            self._answered = now
            self._listen()
            self._note_write()

    async def _mend(self) -> None:
        try:
            async with self._writing:
                amiss = await self._threads.work(self._table.mend)
            if self._unwritten or self._whole:
                await self._written()
        except WeirError as error:
            if str(error) != self.error:
                log.error("the node's probes: %s%s", error, f" ({error.hint})" if error.hint else "")
            self.error = str(error)
            self._look_at = asyncio.get_running_loop().time() + RETRY
            return
        self.error = ""
        if amiss:
            self.mended += 1
            lines = amiss.splitlines()
            more = [f"  ... and {len(lines) - _MOST_LINES} lines more"] if len(lines) > _MOST_LINES else []
            said = "\n".join(lines[:_MOST_LINES] + more)
            log.warning("the node's table of probes was changed by somebody else, and is mended:\n%s", said)
            self._tell(lines)

    def _tell(self, lines: list[str]) -> None:
        culprit, self._table.culprit = self._table.culprit, None
        more = f" (and {len(lines) - 1} lines more)" if len(lines) > 1 else ""
        words = f"table inet {HOST_TABLE} was changed: {printable(lines[0].strip())}{more}"
        drift = Drift(kind=Kind.NODE_ELEMENT, said=words, culprit=culprit, at=time.time())
        self.drifts = (*self.drifts, drift)[-MOST_DRIFTS:]
        if self.drifted is not None:
            self.drifted(drift)

    def _note_write(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._unread is None:
            self._sooner.set()
        self._unread = (now if self._unread is None else self._unread[0], now)

    def _listen(self) -> None:
        changes = self._table.changes
        if changes is not None and not self._listening:
            self._listening = True
            asyncio.get_running_loop().add_reader(changes, self._hear)

    def _hear(self) -> None:
        """Read what others have changed; after many messages, go on in a moment."""
        changes, loop = self._table.changes, asyncio.get_running_loop()
        if changes is None:
            return
        for _ in range(_MOST_CHANGES):
            try:
                touched = self._table.touched_by_others(received(changes))
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: something was lost
                touched = True
            if touched:
                self._touched = True
                self._sooner.set()
        loop.remove_reader(changes)
        self._listening = False
        loop.call_later(REST, self._listen)
