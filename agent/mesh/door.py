"""Who comes in: connections are accepted, users looked at, and the socket's path kept."""

import asyncio
import socket
from collections import deque
from collections.abc import Callable

from agent.errors import ConfigError
from agent.mesh.connection import Patience, peer
from agent.mesh.listener import Listener, Place
from agent.mesh.status import Proxy

_LOOK = 1.0  # seconds between two looks at the path
_LOOK_AT_OTHERS = 60.0  # and where somebody else listens, who takes each look for a proxy
_MOST_HELD = 16  # connections that are turned away with a pause
_MOST_AT_ONCE = 10  # connections accepted in one pause: a proxy that can't stay comes back within 2 ms


class Door:
    """Accepts at a listener and hands on whoever may come in. Everything happens in the loop's thread."""

    def __init__(
        self,
        listener: Listener,
        *,
        users: frozenset[int],
        patience: Patience,
        admitted: Callable[[socket.socket, Proxy], None],
        refused: Callable[[Proxy], None],
        wrong: Callable[[str], None],
    ) -> None:
        """Begin at once. `wrong` is told what is the matter with the socket; `refused` of each user who may not."""
        self.trouble = ""  # what is the matter with the socket's path now
        self._listener = listener
        self._users = users
        self._patience = patience
        self._admitted = admitted
        self._refused = refused
        self._wrong = wrong
        self._number = 0
        self._recent: deque[float] = deque(maxlen=_MOST_AT_ONCE)
        self._held: dict[socket.socket, asyncio.TimerHandle] = {}
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._loop.add_reader(listener.socket, self._accept)
        self._check = self._loop.call_later(_LOOK, self._look)

    @property
    def listener(self) -> Listener:
        """The listener, which is another one after its path was taken away."""
        return self._listener

    def hold(self, opened: socket.socket) -> None:
        """Close a connection after a pause: at once, and the peer would be back at once."""
        if len(self._held) >= _MOST_HELD:
            self._let_go(next(iter(self._held)))
        self._held[opened] = self._loop.call_later(self._patience.pause, self._let_go, opened)

    def close(self) -> None:
        """Accept nobody any more."""
        self._check.cancel()
        if self._pause is not None:
            self._pause.cancel()
        for each in tuple(self._held):
            self._let_go(each)
        self._loop.remove_reader(self._listener.socket)
        self._listener.close()

    def _let_go(self, opened: socket.socket) -> None:
        self._held.pop(opened).cancel()
        opened.close()

    def _accept(self) -> None:
        try:
            opened, _ = self._listener.socket.accept()
        except (BlockingIOError, ConnectionError, InterruptedError):
            return
        except OSError as error:  # no descriptor is left, and the loop would call again at once
            self._report(f"no proxy can be let in: {error.strerror or error}")
            self._rest()
            return
        opened.setblocking(False)
        self._number += 1
        proxy = peer(opened, self._number)
        if proxy.user not in self._users:
            self._refused(proxy)
            self.hold(opened)
            return
        self._recent.append(self._loop.time())
        if len(self._recent) == _MOST_AT_ONCE and self._recent[-1] - self._recent[0] < self._patience.pause:
            self._rest()
        self._admitted(opened, proxy)

    def _rest(self) -> None:
        """Accept nobody for a moment; they wait in the backlog."""
        self._loop.remove_reader(self._listener.socket)
        self._recent.clear()
        self._pause = self._loop.call_later(self._patience.pause, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener.socket, self._accept)

    def _look(self) -> None:
        place, said = Place.TAKEN, ""
        try:
            place = self._listener.place()
            if place in (Place.MISSING, Place.STALE):
                self._listen_again()
                place = Place.OURS
            elif place is Place.TAKEN:
                said = f"{self._listener.path}: another agent has taken the path, so a proxy that starts gets to it"
        except ConfigError as error:
            said = str(error)
        if said:
            self._report(said)
        self.trouble = said
        self._check = self._loop.call_later(_LOOK_AT_OTHERS if place is Place.TAKEN else _LOOK, self._look)

    def _listen_again(self) -> None:
        path = self._listener.path
        listener = Listener.at(path, self._users)
        self._accept()  # who waits at the old one, if anybody
        self._loop.remove_reader(self._listener.socket)
        self._listener.socket.close()
        self._listener = listener
        if self._pause is None:
            self._loop.add_reader(listener.socket, self._accept)
        self._wrong(f"{path}: somebody took the socket away; it was made again")

    def _report(self, text: str) -> None:
        if text != self.trouble:
            self._wrong(text)
            self.trouble = text
