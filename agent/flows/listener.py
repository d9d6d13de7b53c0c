"""The agent's side of the process that hears of connections: started once, when the first target asks for events.

Decoding takes a core when a node opens 50,000 connections a second; in the agent it would stall everything else. The
process is given sockets that were made in the targets' namespaces (SCM_RIGHTS), so that it enters none. It ends with
the agent, and is started again when it dies; what it had counted until it was last asked goes on.
"""

import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.errors import WeirError
from agent.flows.accounted import Accounted
from agent.flows.decoding import Ways
from agent.flows.scraping import Subject
from agent.flows.totals import Totals
from agent.kernel.conntrack import accounting
from agent.kernel.conntrack.events import event_socket
from agent.kernel.handle import Handle
from rulesets.capture import Capture

log = logging.getLogger("weir")
_MODULE = "agent.flows.listening"
_MESSAGE = 65536
_PATIENCE = 5.0  # seconds for an answer; a process that has none is ended
_REST, _LONGEST_REST = 1.0, 60.0  # seconds until a process that died is started again, doubled each time
_Document = Mapping[str, Any]


class Listener:
    """Who is listened to, and what came of it. To be used by one thread at a time; its calls wait for the kernel."""

    def __init__(self, directory: Path) -> None:
        """`directory` is the run directory. Nothing is started before `follow` is given somebody to listen to."""
        self.starts = 0
        self._accounted = Accounted(directory)
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._heard: dict[str, tuple[Handle, Capture | None]] = {}
        self._newest: dict[str, _Document] = {}  # of the process that runs
        self._before: dict[str, Totals] = {}  # of those that died
        self._said: dict[str, tuple[str, ...]] = {}
        self._born = self._due = 0.0
        self._rest = _REST / 2

    @property
    def pid(self) -> int | None:
        """The process that listens; None where none runs."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def follow(self, subjects: Iterable[Subject]) -> None:
        """Listen to these targets and no others. What a target's settings were is put back when it is let go."""
        wanted = {each.name: each for each in subjects}
        if self._process is not None and self._process.poll() is not None:
            self._bury()
        for name in set(self._heard) - set(wanted):
            self._forget(name)
        self._accounted.put_back(each.handle.netns.identity for each in wanted.values())
        if not wanted:
            self.close()
            return
        if self._process is None and not self._start():
            return
        for name, each in wanted.items():
            if self._heard.get(name) != (each.handle, each.capture):
                try:
                    self._hear(each)
                except WeirError as error:
                    self._say(name, (str(error),))

    def totals(self) -> dict[str, Totals]:
        """Return what each target's connections came to until now, or until the process died."""
        try:
            self._ask()
        except (OSError, ValueError):
            self._bury()
        found = {}
        for name in self._heard.keys() | self._before.keys():
            found[name] = Totals()
            if name in self._before:
                found[name].add(self._before[name].document())
            if name in self._newest:
                found[name].add(self._newest[name])
        return found

    def close(self) -> None:
        """End the process. The targets' settings stay: a daemon that starts again goes on with them."""
        process, self._process = self._process, None
        opened, self._socket = self._socket, None
        self._heard, self._newest, self._before = {}, {}, {}
        if opened is not None:
            opened.close()
        if process is not None:
            _end(process)

    def _start(self) -> bool:
        """Start the process, unless it has died a moment ago; tell whether it runs."""
        if time.monotonic() < self._due:
            return False
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mine.settimeout(_PATIENCE)
        with theirs:
            # -P: nothing is imported from where the agent happens to run. A process of its own rather than a fork: the
            # agent has threads.
            argv = [sys.executable, "-P", "-m", _MODULE, str(theirs.fileno())]
            try:
                self._process = subprocess.Popen(argv, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)
            except OSError as error:
                mine.close()
                self._postpone(f"can't be started: {error}")
                return False
        self._socket, self._born = mine, time.monotonic()
        self.starts += 1
        return True

    def _bury(self) -> None:
        """Take leave of a process that has died or doesn't answer; its targets are heard by the next one."""
        process, self._process = self._process, None
        opened, self._socket = self._socket, None
        for name, each in self._newest.items():
            self._before.setdefault(name, Totals()).add(each)
        self._newest, self._heard = {}, {}
        if opened is not None:
            opened.close()
        if process is not None:
            _end(process)
            self._postpone(f"has ended (exit {process.returncode}), which it never should")

    def _postpone(self, said: str) -> None:
        now = time.monotonic()
        self._rest = _REST if now - self._born > _LONGEST_REST else min(_LONGEST_REST, 2 * self._rest)
        self._due = now + self._rest
        log.warning("the process that hears of connections %s; another one begins in %.0f s", said, self._rest)

    def _hear(self, subject: Subject) -> None:
        unable = self._accounted.turn_on(subject.handle)
        self._say(subject.name, unable)
        with subject.handle.inside():
            timed = bool(accounting.settings().get("nf_conntrack_timestamp"))
            kept = accounting.tcp_timeouts()
            events = event_socket()
        with events:
            known = {"ways": asdict(ways(subject.capture)), "timed": timed, "kept": kept}
            asked = {"ask": "hear", "target": subject.name, **known}
            self._send(asked, events)
        self._heard[subject.name] = subject.handle, subject.capture

    def _forget(self, name: str) -> None:
        for known in (self._heard, self._newest, self._before, self._said):
            known.pop(name, None)
        self._send({"ask": "forget", "target": name})

    def _send(self, asked: Mapping[str, object], *sockets: socket.socket) -> None:
        if self._socket is not None:
            with suppress(OSError):  # it has died: `follow` sees that the next time
                data = json.dumps(asked).encode()
                socket.send_fds(self._socket, [data], [each.fileno() for each in sockets])

    def _ask(self) -> None:
        if self._socket is None:
            return
        self._socket.send(b'{"ask": "totals"}')
        while True:
            said = self._socket.recv(_MESSAGE)
            if not said:
                raise ConnectionResetError
            told = json.loads(said)
            if not told:
                return
            self._newest[told["target"]] = told["totals"]

    def _say(self, name: str, said: tuple[str, ...]) -> None:
        """Log what is wrong with a target's events, once."""
        if self._said.get(name, ()) != said:
            self._said[name] = said
            for each in said:
                log.warning("target %s: observe = ['connections']: %s", name, each)


def ways(capture: Capture | None) -> Ways:
    """Return how a target's connections are told apart."""
    if capture is None:
        return Ways()
    ports = capture.proxy_ports
    return Ways(
        mark=capture.connection_mark.value,
        mask=capture.connection_mark.mask,
        outbound_port=ports.get("outbound_port", 0),
        inbound_port=ports.get("inbound_port", 0),
        hbone_port=capture.hbone_port,
    )


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Wait for a process whose socket is closed; end it where it goes on."""
    try:
        process.wait(1.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
