"""A proxy that speaks ZDS as ztunnel does, and really serves the pods that it is told of: `proxy.py` in each.

It connects, says hello, keeps what it serves when the agent goes, comes back, tries every 5 seconds what it could not
start, and ends where ztunnel ends. Events go to stdout, commands come from stdin, both a line of JSON each:

    {"do": "refuse", "uid": UID, "words": TEXT}   fail to start a pod with these words; none: as it should
    {"do": "silent", "kinds": ["add", ...]}       give no answer to these; kinds: add keep delete snapshot hello
    {"do": "late", "seconds": S}                  give each answer so much later
    {"do": "send", "hex": TEXT}                   send a packet as it is
    {"do": "reconnect"}                           close the connection, and connect anew
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from netns_tests.captured import Captured, Log
from netns_tests.mesh_proxy_rules import BUFFER, Answer, Place, Rules, answer, hello
from netns_tests.proxy import Proxy

FIRST_WAIT, LONGEST_WAIT = 0.02, 15.0  # seconds between two tries to connect: doubled each time
RETRY = 5.0


_speaking = threading.Lock()


def say(event: str, **fields: object) -> None:
    """Write an event as a whole line, whichever thread it is of."""
    with _speaking:
        print(json.dumps({"event": event, **fields}), flush=True)


class Told(Log):
    """A log that tells every entry as an event."""

    def __init__(self, uid: str) -> None:
        super().__init__()
        self._uid = uid

    def add(self, entry: Captured) -> None:
        say("captured", uid=self._uid, direction=entry.direction, original=entry.original)


@dataclass(frozen=True, slots=True)
class Received:
    """A namespace's descriptor that came with a packet, and is this process's from then on."""

    number: int

    @property
    def identity(self) -> Hashable:
        found = os.fstat(self.number)
        return found.st_dev, found.st_ino

    @property
    def path(self) -> Path:
        return Path(f"/proc/self/fd/{self.number}")


class Served:
    """The pods that are served, each by a proxy in its namespace."""

    def __init__(self, *, listens: bool) -> None:
        self.refusing: dict[str, str] = {}  # by uid, in these words
        self._listens = listens
        self._pods: dict[str, tuple[Received, Proxy | None]] = {}

    def start(self, uid: str, place: Place) -> str:
        """Serve a pod; return why not."""
        assert isinstance(place, Received)
        if self.refusing.get(uid):
            return self.refusing[uid]
        proxy = Proxy(place, log=Told(uid)) if self._listens else None
        try:
            if proxy is not None:
                proxy.start()
        except OSError as error:
            return str(error)
        self._pods[uid] = (place, proxy)
        return ""

    def places(self) -> list[Received]:
        return [place for place, _ in self._pods.values()]

    def stop(self, uid: str) -> None:
        place, proxy = self._pods.pop(uid)
        if proxy is not None:
            proxy.stop()
        os.close(place.number)

    def stop_all(self, drain: float) -> None:
        """End as after SIGTERM: no listener at once, streams a while later."""
        proxies = [proxy for _, proxy in self._pods.values() if proxy is not None]
        for each in proxies:
            each.close_listeners()
        say("terminated")
        deadline = time.monotonic() + drain
        while any(each.streams for each in proxies) and time.monotonic() < deadline:
            time.sleep(0.002)  # polling with a deadline
        for each in proxies:
            each.stop()


class Ztunnel:
    """The process."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._path: str = options.socket
        self._drain: float = options.drain
        self._longest_wait: float = options.longest_wait
        self._ready: Path | None = options.ready
        self._served = Served(listens=not options.no_listeners)
        self._served.refusing.update(options.refuse)
        self._rules = Rules(self._served.start, self._served.stop)
        self._silent = frozenset[str](options.silent)
        self._late = 0.0
        self._ending = False
        self._socket: socket.socket | None = None

    def run(self) -> None:
        """Serve until SIGTERM."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # before any thread starts, so that sigwait gets it
        for job in (self._obey, self._end):
            threading.Thread(target=job, daemon=True).start()
        while not self._ending:
            with self._connected() as connection:
                self._socket = connection
                self._rules.connected()
                say("connected")
                why = self._talk(connection)
                self._socket = None
            say("disconnected", why=why)
        threading.Event().wait()

    def _connected(self) -> socket.socket:
        wait = FIRST_WAIT
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                connection.connect(self._path)
            except OSError:
                connection.close()
                time.sleep(wait)
                wait = min(self._longest_wait, wait * 2)
            else:
                return connection

    def _talk(self, connection: socket.socket) -> str:
        """Answer until the connection ends; return why."""
        retry = time.monotonic() + RETRY
        try:
            if "hello" not in self._silent:
                connection.send(hello())
            while True:
                connection.settimeout(max(0.01, retry - time.monotonic()))
                try:
                    packet, places, cut = receive(connection)
                except TimeoutError:
                    self._rules.retry()
                    retry = time.monotonic() + RETRY
                    continue
                if not packet and not places:
                    return "the agent closed it"
                said = self._heard(packet, places, cut=cut)
                time.sleep(self._late)
                if said.message is None or said.message.kind not in self._silent:
                    connection.send(answer(said.words))
                if said.how == "drop":
                    return said.words
                if said.how == "exit":
                    say("exit", why=said.words)
                    os._exit(1)
        except OSError as error:
            return str(error)

    def _heard(self, packet: bytes, places: Sequence[Received], *, cut: bool) -> Answer:
        said = self._rules.hear(packet, places, cut=cut)
        message = said.message
        uid = message.uid if message else ""
        identity = places[0].identity if places else None
        kept = [*self._rules.pending.values(), *self._served.places()]
        for each in places:
            if each not in kept:
                os.close(each.number)
        say(
            message.kind if message else "garbled",
            uid=uid,
            info=message.info if message else None,
            descriptors=len(places),
            netns=identity,
            how=said.how,
            words=said.words,
            ready=self._rules.ready,
            serving=len(self._rules.serving),
        )
        if self._ready and self._rules.ready:
            self._ready.touch()
        return said

    def _obey(self) -> None:
        """Carry out commands until the test is gone."""
        for line in sys.stdin:
            command = json.loads(line)
            match command:
                case {"do": "refuse", "uid": uid, "words": words}:
                    self._served.refusing[uid] = words
                case {"do": "silent", "kinds": kinds}:
                    self._silent = frozenset(kinds)
                case {"do": "late", "seconds": seconds}:
                    self._late = seconds
                case {"do": "send", "hex": text} if connection := self._socket:
                    connection.send(bytes.fromhex(text))
                case {"do": "reconnect"} if connection := self._socket:
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)
            say("obeyed", command=command)
        os._exit(0)

    def _end(self) -> None:
        """Wait for SIGTERM, and end as ztunnel does."""
        signal.sigwait({signal.SIGTERM})
        self._ending = True
        if connection := self._socket:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._served.stop_all(self._drain)
        os._exit(0)


def receive(connection: socket.socket) -> tuple[bytes, list[Received], bool]:
    """Return a packet as ztunnel reads it, its descriptors, and whether any of it was cut off."""
    packet, descriptors, flags, _ = socket.recv_fds(connection, BUFFER, 8)
    return packet, [Received(each) for each in descriptors], bool(flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC))


def main(arguments: list[str]) -> None:
    """Run until the test goes or says so."""
    parser = argparse.ArgumentParser(prog="python -m netns_tests.mesh_proxy")
    parser.add_argument("--socket", required=True)
    parser.add_argument("--user", type=int, help="become this user first")
    parser.add_argument("--no-listeners", action="store_true", help="acknowledge pods without serving them")
    parser.add_argument("--silent", action="append", default=[], metavar="KIND", help="as the command")
    parser.add_argument(
        "--refuse", action="append", default=[], nargs=2, metavar=("UID", "WORDS"), help="as the command"
    )
    parser.add_argument("--drain", type=float, default=0.0, help="seconds for streams to end after SIGTERM")
    parser.add_argument("--longest-wait", type=float, default=LONGEST_WAIT, help="between two tries to connect")
    parser.add_argument("--ready", type=Path, metavar="FILE", help="make this file when every pod is known")
    options = parser.parse_args(arguments)
    if options.user is not None:
        os.setuid(options.user)
    Ztunnel(options).run()


if __name__ == "__main__":
    main(sys.argv[1:])
