"""The process that hears of connections: ``python -m agent.flows.listening DESCRIPTOR``, started by `listener`.

It is told by its socket, a message each, what to listen to, and asked for what it has counted. It has no threads, opens
nothing, and ends with the agent: by the kernel's signal, and when the socket is closed.
"""

import json
import select
import signal
import socket
import sys
from dataclasses import dataclass
from typing import Any

from agent.flows.decoding import Counting, Ways, count
from agent.kernel.conntrack.events import ROOM, Receiver, die_with_parent, lost

_BATCHES = 16  # of one target, before others have their turn
MESSAGE = 65536
"""Bytes of a message between the agent and this process, at most."""


@dataclass(slots=True)
class _Heard:
    """One target: the socket with its events, what is counted, and what was lost with sockets before this one."""

    events: socket.socket
    counting: Counting
    lost: int = 0


class Listening:
    """All targets, by name."""

    def __init__(self, agent: socket.socket) -> None:
        """`agent` is the socket to the agent."""
        self._agent = agent
        self._epoll = select.epoll()
        self._heard: dict[str, _Heard] = {}
        self._by_descriptor: dict[int, _Heard] = {}
        self._receiver = Receiver()

    def run(self) -> None:
        """Listen until the agent has gone."""
        self._epoll.register(self._agent, select.EPOLLIN)
        while True:
            for descriptor, _ in self._epoll.poll():
                if descriptor == self._agent.fileno():
                    if not self._answer():
                        return
                elif descriptor in self._by_descriptor:
                    self._hear(descriptor)

    def _hear(self, descriptor: int) -> None:
        counting, data = self._by_descriptor[descriptor].counting, self._receiver.data
        for _ in range(_BATCHES):
            try:
                sizes = self._receiver.receive(descriptor)
            except OSError:  # ENOBUFS: what was lost is counted by the kernel
                continue
            for place, size in enumerate(sizes):
                if size:
                    count(counting, data, place * ROOM, place * ROOM + min(size, ROOM))
            if not sizes:
                return

    def _answer(self) -> bool:
        """Do what the agent asks; tell whether it is still there."""
        said, descriptors, _, _ = socket.recv_fds(self._agent, MESSAGE, 1)
        if not said:
            return False
        asked = json.loads(said)
        match asked["ask"]:
            case "hear":
                self._forget_socket(asked["target"])
                self._add(asked["target"], socket.socket(fileno=descriptors[0]), asked)
            case "forget":
                self._forget_socket(asked["target"])
                self._heard.pop(asked["target"], None)
            case _:
                self._tell()
        return True

    def _add(self, name: str, events: socket.socket, asked: dict[str, Any]) -> None:
        heard = self._heard.get(name)
        if heard is None:
            heard = self._heard[name] = _Heard(events, Counting(Ways(**asked["ways"])))
        heard.events, counting = events, heard.counting
        counting.ways, counting.timed = Ways(**asked["ways"]), asked["timed"]
        counting.kept = {int(state): seconds for state, seconds in asked["kept"].items()}
        self._by_descriptor[events.fileno()] = heard
        self._epoll.register(events, select.EPOLLIN)

    def _forget_socket(self, name: str) -> None:
        heard = self._heard.get(name)
        if heard is not None:
            self._hear(heard.events.fileno())  # what came before is counted
            heard.lost += lost(heard.events)
            self._by_descriptor.pop(heard.events.fileno(), None)
            self._epoll.unregister(heard.events)
            heard.events.close()

    def _tell(self) -> None:
        """Send each target's totals, and an empty object at the end."""
        for name, heard in self._heard.items():
            heard.counting.totals.lost = heard.lost + lost(heard.events)
            self._agent.send(json.dumps({"target": name, "totals": heard.counting.totals.document()}).encode())
        self._agent.send(b"{}")


def main(arguments: list[str]) -> None:
    """Listen, with the agent at the other end of the descriptor that is named."""
    die_with_parent()
    # A terminal's interrupt is the agent's to answer; it ends this process by closing the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=int(arguments[0])) as agent:
        try:
            Listening(agent).run()
        except (BrokenPipeError, ConnectionResetError):
            pass


if __name__ == "__main__":
    main(sys.argv[1:])
