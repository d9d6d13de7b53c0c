"""What one connected proxy has been told, and what it is to be told next. Touches nothing: requests out, answers in.

ztunnel ends, and with it every stream, after a Keep or another SnapshotSent once it had its snapshot. The requests of
the two phases are made by two functions, and their types say which requests each can make.
"""

from collections.abc import Collection, Hashable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, assert_never

from agent.mesh.wire import Add, Delete, Keep, Netns, Request, SnapshotSent, Workload, uid_of


class Violation(Exception):
    """The proxy does what the protocol has no place for, so nothing that it says can be matched to a request."""


class Phase(StrEnum):
    """How far a connection has come."""

    GREETING = "greeting"  # it has said nothing yet
    SNAPSHOT = "snapshot"  # it hears of all pods, and ends none
    LIVE = "live"  # it hears of changes


@dataclass(frozen=True, slots=True)
class Served:
    """A pod that is to be served in its namespace."""

    workload: Workload
    netns: Netns


@dataclass(frozen=True, slots=True)
class Kept:
    """A pod that is to go on being served if it is, while its namespace can't be found."""

    uid: str


Wish = Served | Kept


class Wishes(Protocol):
    """Every pod that is wanted: `roster.Roster`."""

    @property
    def complete(self) -> bool:
        """Whether there are no others."""

    def wish(self, uid: str) -> Wish | None:
        """Return what is wanted for a pod; None: nothing."""

    def uids(self) -> Collection[str]:
        """Return every pod that is wanted."""


class Session:
    """One connection's side of the protocol: a request, its answer, the next request.

    `next` gives a request, `sent` takes note that it is under way, `answered` of the answer.
    """

    __slots__ = ("_gone", "_queue", "_told", "_urgent", "_wishes", "has_snapshot", "in_flight", "phase", "refused")

    def __init__(self, wishes: Wishes) -> None:
        """Take the pods, whose changes `look_at` tells of."""
        self.phase = Phase.GREETING
        self.has_snapshot = False  # and has acknowledged it
        self.in_flight: Request | None = None
        self.refused: dict[str, str] = {}  # by uid, in the proxy's words
        self._wishes = wishes
        # The namespace in which it has acknowledged to serve a pod; None: it knows the pod, by a Keep or an Add that it
        # refused.
        self._told: dict[str, Hashable | None] = {}
        # Pods that something may have to be said of, in order: those that somebody waits for, and the others.
        self._urgent: dict[str, None] = {}
        self._queue: dict[str, None] = {}
        self._gone: set[str] = set()  # pods to delete, known to this proxy or not

    @property
    def queued(self) -> int:
        """How many pods it is still to be told of, at most."""
        return len(self._urgent) + len(self._queue)

    @property
    def told(self) -> Collection[str]:
        """The pods that it has been told of, with or without success."""
        return self._told.keys()

    def serves(self, uid: str, identity: Hashable) -> bool:
        """Tell whether it has acknowledged that it serves a pod in a namespace."""
        return self._told.get(uid) == identity

    def lets_go_of(self, uid: str) -> bool:
        """Tell whether it certainly serves a pod no more. Before it has its snapshot it may serve anything."""
        under_way = self.in_flight is not None and uid_of(self.in_flight) == uid
        return self.has_snapshot and not (under_way or uid in self._told or uid in self._gone)

    def greeted(self) -> None:
        """Begin with the snapshot: the proxy has said hello."""
        self.phase = Phase.SNAPSHOT
        self.look_at_all()

    def look_at(self, uid: str, *, first: bool = False) -> None:
        """See whether anything has to be said of a pod; before all others where somebody waits for it."""
        if self.phase is Phase.GREETING:
            return
        if self.phase is Phase.LIVE and self._wishes.wish(uid) is None:
            self._gone.add(uid)
        if first:
            self.refused.pop(uid, None)  # what it said before is no answer to this
        (self._urgent if first else self._queue)[uid] = None

    def look_at_all(self) -> None:
        """See whether anything has to be said of any pod that is wanted."""
        self._queue.update(dict.fromkeys(self._wishes.uids()))

    def next(self, *, newest: bool) -> Request | None:
        """Return what to send; None while an answer is missing, or when all is said.

        `newest`: whether it is the proxy that new pods go to.
        """
        if self.phase is Phase.GREETING or self.in_flight is not None:
            return None
        while self.queued:
            uid = next(iter(self._urgent or self._queue))
            wish = self._wishes.wish(uid)
            request = self._in_snapshot(uid, wish) if self.phase is Phase.SNAPSHOT else self._live(uid, wish, newest)
            if request is not None:
                return request
            self._said(uid)
        return SnapshotSent() if self.phase is Phase.SNAPSHOT and self._wishes.complete else None

    def sent(self, request: Request) -> None:
        """Take note that a request is under way."""
        self.in_flight = request
        self._said(uid_of(request))
        if isinstance(request, SnapshotSent):
            self.phase = Phase.LIVE
            for each in self._told:
                if self._wishes.wish(each) is None:  # deleted after it was told, and a snapshot has no Delete
                    self.look_at(each)

    def answered(self, error: str) -> Request:
        """Take the answer, empty for an acknowledgement; return what it answers. Raises `Violation`."""
        request, self.in_flight = self.in_flight, None
        match request:
            case None:
                raise Violation("it answered, and was asked nothing")
            case Add(workload=workload, netns=netns):
                self._told[workload.uid] = None if error else netns.identity
                self._note(workload.uid, error)
            case Keep(uid=uid):
                self._told.setdefault(uid, None)
                self._note(uid, error)
            case Delete(uid=uid):
                self._note(uid, error)
                if not error:
                    self._told.pop(uid, None)
                    self._gone.discard(uid)
            case SnapshotSent():
                if error:
                    raise Violation(f"it refused the snapshot: {error}")
                self.has_snapshot = True
            case _:
                assert_never(request)
        return request

    def retry(self) -> None:
        """See again to what was refused."""
        for uid in self.refused:
            self.look_at(uid)

    def _said(self, uid: str) -> None:
        self._urgent.pop(uid, None)
        self._queue.pop(uid, None)

    def _note(self, uid: str, error: str) -> None:
        if error and uid not in self._urgent and uid not in self._queue:
            self.refused[uid] = error
        else:  # what is wanted has changed since it was asked, and it will be asked again
            self.refused.pop(uid, None)

    def _in_snapshot(self, uid: str, wish: Wish | None) -> Add | Keep | None:
        match wish:
            case Served(workload=workload, netns=netns) if not self.serves(uid, netns.identity):
                return Add(workload, netns)
            case Kept() if uid not in self._told:
                return Keep(uid)
            case _:
                return None

    def _live(self, uid: str, wish: Wish | None, newest: bool) -> Add | Delete | None:
        known = self._told.get(uid)
        match wish:
            case None if uid in self._told or uid in self._gone:
                return Delete(uid)
            case Served(workload=workload, netns=netns) if newest and not self.serves(uid, netns.identity):
                return Add(workload, netns)
            case Served(netns=netns) if not newest and known is not None and known != netns.identity:
                return Delete(uid)  # it would hold the namespace of a sandbox that is gone
            case _:
                return None
