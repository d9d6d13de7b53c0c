"""A small transparent proxy that behaves in a pod as ztunnel does, without its encryption.

Outbound (15001) dials where the client wanted to go. Inbound (15006) dials the application from the client's own
address over `lo`. 15008 answers one line. 15053 answers DNS. All its sockets bear the proxy mark, or belong to a user.
"""

import argparse
import contextlib
import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from netns_tests import dns
from netns_tests.captured import Address, Captured, Direction, Log, original_destination, plain
from netns_tests.loop import IN, Loop, Place, listener
from netns_tests.namespace import NETNS_DIRECTORY
from netns_tests.relay import Relay, reset
from netns_tests.resolver import Resolver

__all__ = ["Captured", "Log", "Proxy"]

OUTBOUND, INBOUND, HBONE, DNS = 15001, 15006, 15008, 15053
MARK = 0x539
HBONE_ANSWER = b"test proxy, port 15008\n"
DNS_ANSWER = {dns.A: "240.0.0.53", dns.AAAA: "fd53::53"}
SECONDS_TO_ANSWER = 5.0

IP_TRANSPARENT, IPV6_TRANSPARENT, IP_BIND_ADDRESS_NO_PORT = 19, 75, 24


class Proxy:
    """The proxy as a thread. Use it in a `with` block; inside it, all its ports listen."""

    def __init__(
        self,
        place: Place,
        *,
        mark: int | None = MARK,
        user: int | None = None,
        keep_source: bool = True,
        forward_dns: Address | None = None,
        log: Log | None = None,
    ) -> None:
        """Take the namespace to serve.

        `mark=None, user=UID`: a proxy that is known by its user. `keep_source=False`: dial the application at
        127.0.0.1 or ::1. `forward_dns`: ask this server instead of giving the fixed answer.
        """
        self.captured = Log() if log is None else log
        self._place = place
        self._mark = mark
        self._user = user
        self._keep_source = keep_source
        self._loop = Loop()
        self._resolver = Resolver(self._loop, DNS_ANSWER, self._asked, forward_dns, mark)
        self._listeners: list[socket.socket] = []
        self._relays: set[Relay] = set()

    @property
    def streams(self) -> int:
        """Return how many connections it carries now."""
        return len(self._relays)

    def start(self) -> Self:
        """Listen, and return when all ports do."""
        self._loop.start(self._place, self._listen, self._user)
        return self

    def stop(self, drain: float = 0.0) -> None:
        """Stop listening, give open connections some seconds to end, then cut them: with a FIN, as ztunnel does."""
        if drain:
            self._loop.call(self._close_listeners)
            deadline = time.monotonic() + drain
            while self._relays and time.monotonic() < deadline:
                time.sleep(0.002)  # polling with a deadline
        self._loop.stop()

    def close_listeners(self) -> None:
        """Stop listening and go on with the connections there are; return when it is so."""
        done = threading.Event()
        self._loop.call(self._close_listeners)
        self._loop.call(done.set)
        if not done.wait(SECONDS_TO_ANSWER):
            raise TimeoutError("the proxy's thread does not answer")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _listen(self) -> None:
        for port, accepted in ((OUTBOUND, self._outbound), (INBOUND, self._inbound), (HBONE, self._hbone)):
            self._accept("::", port, accepted)
        # As ztunnel: on 127.0.0.1, and on ::1 where the namespace has it.
        disabled = Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6").read_text().strip() == "1"
        for address in ("127.0.0.1",) if disabled else ("127.0.0.1", "::1"):
            self._accept(address, DNS, self._resolver.accept)
            sock = listener(address, DNS, self._mark, socket.SOCK_DGRAM)
            self._listeners.append(sock)
            self._resolver.serve(sock)

    def _accept(self, address: str, port: int, accepted: Callable[[socket.socket], None]) -> None:
        sock = listener(address, port, self._mark)
        self._listeners.append(sock)
        self._loop.accept(sock, accepted)

    def _close_listeners(self) -> None:
        for sock in self._listeners:
            self._loop.close(sock)
        self._listeners.clear()

    def _outbound(self, client: socket.socket) -> None:
        found = self._arrived(client, "outbound")
        if found is not None:
            self._dial(client, found.original, None)

    def _inbound(self, client: socket.socket) -> None:
        found = self._arrived(client, "inbound")
        if found is None:
            return
        if self._keep_source:
            self._dial(client, found.original, found.client[0])
        else:
            self._dial(client, ("::1" if ":" in found.original[0] else "127.0.0.1", found.original[1]), None)

    def _hbone(self, client: socket.socket) -> None:
        """Answer a line and close when the client does."""

        def ready(events: int) -> None:
            with contextlib.suppress(OSError):
                if client.recv(4096):
                    return
            self._loop.close(client)

        try:
            peer, local = plain(client.getpeername()), plain(client.getsockname())
            self.captured.add(Captured(time=time.monotonic(), direction="hbone", client=peer, original=local))
            client.send(HBONE_ANSWER)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            self._loop.close(client)
            return
        self._loop.watch(client, IN, ready)

    def _asked(self, client: Address, name: str) -> None:
        entry = Captured(time=time.monotonic(), direction="dns", client=client, original=("", 0), name=name)
        self.captured.add(entry)

    def _arrived(self, client: socket.socket, direction: Direction) -> Captured | None:
        """Write a connection down; nothing is returned, and it is reset, when it was not redirected."""
        try:
            peer = plain(client.getpeername())
        except OSError:  # gone already
            self._loop.close(client)
            return None
        original = original_destination(client)
        entry = Captured(
            time=time.monotonic(),
            direction=direction if original else "stray",
            client=peer,
            original=original or ("", 0),
        )
        self.captured.add(entry)
        if original:
            return entry
        reset(client)
        self._loop.close(client)
        return None

    def _dial(self, client: socket.socket, target: Address, source: str | None) -> None:
        sock = socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._mark is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._mark)
            if source is not None:
                if sock.family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
                else:
                    sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
                # The port is chosen at connect, when the destination is known: more connections fit.
                sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                sock.bind((source, 0))
            with contextlib.suppress(BlockingIOError):
                sock.connect(target)
        except OSError:
            sock.close()
            reset(client)
            self._loop.close(client)
            return
        Relay(self._loop, client, sock, self._relays)


class _Printed(Log):
    """A log that keeps nothing and prints every entry as a line of JSON."""

    def add(self, entry: Captured) -> None:
        """Print an entry."""
        print(json.dumps({name: getattr(entry, name) for name in entry.__slots__}), flush=True)


@dataclass(frozen=True, slots=True)
class _Path:
    path: Path


def main(arguments: list[str]) -> int:
    """Run the proxy in a namespace until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m netns_tests.proxy", description=__doc__)
    parser.add_argument("--netns", required=True, help="name under /run/netns, or a path")
    parser.add_argument("--mark", default=hex(MARK), help="the mark of its sockets, or none (default: %(default)s)")
    parser.add_argument("--user", type=int, help="uid that its sockets belong to")
    parser.add_argument("--no-keep-source", action="store_true", help="dial applications at 127.0.0.1 or ::1")
    parser.add_argument("--forward-dns", nargs=2, metavar=("ADDRESS", "PORT"), help="ask this server")
    parser.add_argument("--drain", type=float, default=0.0, help="seconds for connections to end after SIGTERM")
    options = parser.parse_args(arguments)
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # before any thread starts, so that sigwait gets them
    proxy = Proxy(
        _Path(NETNS_DIRECTORY / options.netns),  # an absolute path stays what it is
        mark=None if options.mark == "none" else int(options.mark, 0),
        user=options.user,
        keep_source=not options.no_keep_source,
        forward_dns=(options.forward_dns[0], int(options.forward_dns[1])) if options.forward_dns else None,
        log=_Printed(),
    )
    try:
        proxy.start()
    except OSError as error:
        print(f"the proxy can't start: {error}", file=sys.stderr)
        return 2
    print("ready", flush=True)
    signal.sigwait(signals)
    proxy.stop(options.drain)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
