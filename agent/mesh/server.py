"""The server of ZDS: what is wanted of every pod of the node goes in, who has acknowledged it comes out.

New pods go to the newest proxy that has its snapshot; when it goes, the one before it is told of all that it missed.
A proxy without its snapshot hears of every pod there is, and of those that come while it does. Deletes go to all.
"""

import logging
import socket
from collections.abc import Callable, Collection, Iterable

from agent.errors import WeirError
from agent.mesh.connection import Connection, Patience
from agent.mesh.door import Door
from agent.mesh.journal import Journal
from agent.mesh.listener import Listener
from agent.mesh.reasons import why_not_released, why_not_served
from agent.mesh.roster import Descriptor, Roster
from agent.mesh.session import Kept, Phase, Served
from agent.mesh.status import (
    Acknowledged,
    Counters,
    MeshState,
    Proxy,
    Refused,
    Released,
    Standing,
    Unanswered,
)
from agent.mesh.waiting import Waiting
from agent.mesh.wire import Add, Delete, Keep, Request, SnapshotSent, Workload, uid_of

log = logging.getLogger("weir")

SECONDS = 10.0  # to wait for an answer: enough for a proxy that is late to be let go of, and for another to answer
ROOT = frozenset({0})  # ztunnel runs as root
_MOST_CONNECTIONS = 32


class Mesh:
    """Every pod that is to be served, and the proxies that are told of them. To be used in the loop's thread.

    Pods may be wanted before `listen`. Snapshots end only after `complete`; a pod that is wanted earlier is served
    earlier all the same.
    """

    def __init__(
        self,
        *,
        users: frozenset[int] = ROOT,
        patience: Patience | None = None,
        changed: Callable[[str], None] = lambda _uid: None,
        measured: Callable[[str, float], None] = lambda _request, _seconds: None,
    ) -> None:
        """Say which users proxies may have.

        `changed` is called with a pod's uid whenever its `standing` may be another one, `measured` with the kind of
        each request that was answered and the seconds that it took. Neither may raise, or wait.
        """
        self.counters = Counters()
        self._users = users
        self._patience = patience or Patience()
        self._changed = changed
        self._measured = measured
        self._roster = Roster()
        self._door: Door | None = None
        self._connections: list[Connection] = []  # oldest first
        self._newest: Connection | None = None
        self._sending: Waiting[bool] = Waiting()  # a snapshot to whichever proxy
        self._adding: Waiting[Standing] = Waiting()
        self._deleting: Waiting[Released | Refused | Unanswered] = Waiting()
        self._released: dict[str, list[Proxy]] = {}  # who has acknowledged what somebody waits for
        self._journal = Journal()
        self._said: dict[str, str] = {}  # a proxy's words on a pod that are in the log

    def listen(self, listener: Listener) -> None:
        """Let proxies in; the listener is closed by `close`."""
        self._door = Door(
            listener,
            users=self._users,
            patience=self._patience,
            admitted=self._admit,
            refused=self._turn_away,
            wrong=self._journal.report,
        )

    def complete(self, pods: Iterable[tuple[Workload, Descriptor | None]]) -> tuple[tuple[Workload, WeirError], ...]:
        """Take every captured pod of the node, so that snapshots can end. Once, after a start.

        A pod whose namespace isn't found has no descriptor: a proxy that serves it goes on. What was wanted or deleted
        meanwhile is newer and stays. Returns the pods whose descriptors can't be used, which are kept like those.
        """
        if self._roster.complete:
            raise ValueError("the pods of the node are known already: use add, keep and delete")
        unusable = self._roster.fill(pods)
        for connection in tuple(self._connections):
            if connection.session.phase is not Phase.GREETING:
                connection.session.look_at_all()
            connection.pump()
        return unusable

    def want(self, workload: Workload, descriptor: Descriptor) -> None:
        """Have a pod served in the namespace of a descriptor, which stays the caller's; don't wait.

        Raises `TargetError` (`NotANamespace`, `NodeNamespace`) or `KernelError`, and then nothing has changed.
        """
        self._roster.serve(workload, descriptor)
        self._deleting.answer(workload.uid, Unanswered(words=f"{workload} is wanted again"))
        self._look_at(workload.uid)

    def keep(self, uid: str) -> None:
        """Have a pod go on being served if it is, though its namespace isn't found. Nothing where it is wanted."""
        self._roster.keep(uid)
        self._look_at(uid)

    async def add(self, workload: Workload, descriptor: Descriptor, seconds: float = SECONDS) -> Standing:
        """Have a pod served, as `want`, and wait for a proxy's word; keep the descriptor open so long.

        The pod stays wanted whatever the answer, and if the caller is cancelled: to give it up is to `delete` it.
        """
        self.want(workload, descriptor)
        found = self.standing(workload.uid)
        if isinstance(found, Acknowledged):
            return found
        return await self._adding.wait(workload.uid, seconds) or Unanswered(words=self._why_unanswered(workload.uid))

    async def delete(self, uid: str, seconds: float = SECONDS) -> Released | Refused | Unanswered:
        """Have a pod served no more, and wait until no proxy does. Its namespace is let go of at once.

        Whatever the answer, each proxy is told as soon as that can be. Raises `TargetError` for what is no uid.
        """
        self._roster.delete(uid)
        self._said.pop(uid, None)
        self._adding.answer(uid, Unanswered(words="the pod was deleted meanwhile"))
        self._released.setdefault(uid, [])
        self._look_at(uid)
        try:
            return (
                self._is_released(uid)
                or await self._deleting.wait(uid, seconds)
                or Unanswered(words=why_not_released(uid, self._connections, complete=self._roster.complete))
            )
        finally:
            if uid not in self._deleting:
                self._released.pop(uid, None)

    def standing(self, uid: str) -> Standing | None:
        """Return how a pod stands with the proxies; None where it isn't wanted."""
        wish = self._roster.wish(uid)
        if wish is None:
            return None
        # The newest's word counts: an older proxy that serves it may be about to end.
        asked = [self._newest] if self._newest else self._connections[::-1]
        for each in asked:
            if isinstance(wish, Served) and each.session.serves(uid, wish.netns.identity):
                return Acknowledged(proxy=each.proxy)
        for each in asked:
            if uid in each.session.refused:
                return Refused(proxy=each.proxy, words=each.session.refused[uid])
        return Unanswered(words=self._why_unanswered(uid))

    async def until_snapshot(self, seconds: float) -> None:
        """Wait until a proxy has its snapshot, at most so long."""
        if self._newest is None:
            await self._sending.wait("", seconds)

    @property
    def connected(self) -> int:
        """How many proxies are connected and have said hello."""
        return sum(each.session.phase is not Phase.GREETING for each in self._connections)

    def state(self) -> MeshState:
        """Return how the server stands."""
        uids = self._roster.uids()
        return MeshState(
            path=str(self._door.listener.path) if self._door else "",
            socket=self._door.trouble if self._door else "it does not listen yet",
            complete=self._roster.complete,
            wanted=len(uids),
            acknowledged=sum(isinstance(self.standing(uid), Acknowledged) for uid in uids),
            proxies=tuple(each.state() for each in self._connections),
            problems=self._journal.problems(),
        )

    def close(self) -> None:
        """Stop: proxies go on serving what they serve. Every descriptor is closed."""
        self._changed = lambda _uid: None
        if self._door is not None:
            self._door.close()
        for connection in tuple(self._connections):
            connection.end("the agent stops")
        stops = Unanswered(words="the agent stops")
        for uid in self._adding.uids():
            self._adding.answer(uid, stops)
        for uid in self._deleting.uids():
            self._deleting.answer(uid, stops)
        self._roster.close()

    # What happens on connections.

    def greeted(self, connection: Connection) -> None:
        """Log it: a proxy has said hello."""
        log.info("%s has connected", connection.proxy)

    def answered(self, connection: Connection, request: Request, error: str, seconds: float) -> None:
        """Tell whoever waits for it."""
        kind, uid = type(request).__name__, uid_of(request)
        self.counters.seconds += seconds
        self._measured(kind, seconds)
        if error:
            self.counters.refused += 1
            if self._said.get(uid) != error:
                self._said[uid] = error
                self._journal.report(f"{connection.proxy} refuses {request}: {error}")
        else:
            self.counters.acknowledged[kind] += 1
            self._said.pop(uid, None)
        match request:
            case SnapshotSent():
                self.counters.snapshots += 1
                self._sending.answer("", True)
                state = connection.state()
                log.info("%s has its snapshot: %d pods, %.3f s", connection.proxy, state.told, state.seconds)
                self._elect()
            case Delete() if error:
                self._deleting.answer(uid, Refused(proxy=connection.proxy, words=error))
            case Delete():
                if uid in self._released:
                    self._released[uid].append(connection.proxy)
                self._settle_deletions(uid)
            case Add() | Keep():
                found = self.standing(uid)
                if isinstance(found, Acknowledged | Refused):
                    self._adding.answer(uid, found)
        if uid:
            self._changed(uid)

    def ended(self, connection: Connection, why: str, *, fault: bool) -> None:
        """Go on without it: the proxy goes on with what it serves, comes back, and is told of every pod anew."""
        self._connections.remove(connection)
        if fault:
            self.counters.broken_connections += 1
            self._journal.report(f"{connection.proxy}: {why}; the connection is closed")
        else:
            log.info("%s is disconnected: %s", connection.proxy, why)
        if fault and self._door is not None:
            self._door.hold(connection.socket)
        else:
            connection.socket.close()
        self._elect(lost=connection.session.told)

    def _admit(self, opened: socket.socket, proxy: Proxy) -> None:
        if len(self._connections) >= _MOST_CONNECTIONS:
            self._connections[0].end(f"there are {_MOST_CONNECTIONS} newer connections", fault=True)
        self.counters.connections += 1
        self._connections.append(Connection(opened, proxy, self._roster, self, self._patience))

    def _turn_away(self, proxy: Proxy) -> None:
        self.counters.refused_connections += 1
        users = " or ".join(map(str, sorted(self._users)))
        text = f"process {proxy.pid or 'unknown'} of user {proxy.user} is refused: a proxy is of user {users}"
        self._journal.report(text, topic=f"user {proxy.user}")  # who could fill the log with it

    def _elect(self, lost: Collection[str] = ()) -> None:
        """See which proxy is the newest that has its snapshot, and tell it of what it has missed.

        `lost`: the pods that a connection knew of, which is over.
        """
        having = [each for each in self._connections if each.session.has_snapshot]
        newest = having[-1] if having else None
        if newest is not self._newest:
            self._newest = newest
            for each in self._connections:
                each.newest = each is newest
            if newest is not None:
                newest.session.look_at_all()
                newest.pump()
            lost = {*lost, *self._roster.uids()}  # another one's word counts
        self._settle_deletions(*self._deleting.uids())
        for uid in tuple(lost):
            self._changed(uid)

    def _look_at(self, uid: str) -> None:
        for connection in tuple(self._connections):
            connection.session.look_at(uid, first=True)
            connection.pump()

    def _settle_deletions(self, *uids: str) -> None:
        for uid in uids:
            if found := self._is_released(uid):
                self._deleting.answer(uid, found)

    def _is_released(self, uid: str) -> Released | None:
        if all(each.session.lets_go_of(uid) for each in self._connections):
            return Released(proxies=tuple(self._released.get(uid, ())))
        return None

    def _why_unanswered(self, uid: str) -> str:
        where = str(self._door.listener.path) if self._door else "a socket, since none is open yet"
        asked = self._newest or (self._connections[-1] if self._connections else None)
        return why_not_served(asked, where, kept=isinstance(self._roster.wish(uid), Kept))
