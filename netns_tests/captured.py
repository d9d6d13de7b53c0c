"""What a proxy writes down about each connection, and how it learns where the client wanted to go."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Address", "Captured", "Direction", "Log", "original_destination", "plain"]

Direction = Literal["outbound", "inbound", "hbone", "dns", "stray"]
Address = tuple[str, int]

SO_ORIGINAL_DST = 80  # the same number at the IPv4 and at the IPv6 level


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """A connection (or DNS query) that reached the proxy. `time` is monotonic, comparable between processes.

    `stray` came to a port of the proxy without having been redirected: it has no original destination.
    """

    time: float
    direction: Direction
    client: Address
    original: Address
    name: str = ""


class Log:
    """What a proxy captured, in order; read it from any thread."""

    def __init__(self) -> None:
        self._entries: list[Captured] = []
        self._changed = threading.Condition()

    def add(self, entry: Captured) -> None:
        """Append an entry."""
        with self._changed:
            self._entries.append(entry)
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Captured]:
        with self._changed:
            return iter(list(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def find(
        self, direction: Direction | None = None, client: Address | None = None, original: Address | None = None
    ) -> list[Captured]:
        """Return the entries that fit."""
        return [
            entry
            for entry in self
            if direction in (None, entry.direction)
            and client in (None, entry.client)
            and original in (None, entry.original)
        ]

    def wait(self, fits: Callable[[Captured], bool], seconds: float = 5.0) -> Captured:
        """Return the first entry that fits, as soon as there is one."""
        with self._changed:
            if self._changed.wait_for(lambda: any(map(fits, self._entries)), seconds):
                return next(filter(fits, self._entries))
            raise AssertionError(f"not captured within {seconds:g} s; captured were: {self._entries}")

    def clear(self) -> None:
        """Forget everything so far."""
        with self._changed:
            self._entries.clear()


def original_destination(connection: socket.socket) -> Address | None:
    """Return where the client of a redirected connection wanted to go; nothing when it was not redirected."""
    local = plain(connection.getsockname())
    try:
        if ":" in local[0]:
            data = connection.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
            found = (socket.inet_ntop(socket.AF_INET6, data[8:24]), struct.unpack_from("!H", data, 2)[0])
        else:
            data = connection.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, 16)
            found = (socket.inet_ntop(socket.AF_INET, data[4:8]), struct.unpack_from("!H", data, 2)[0])
    except OSError:  # conntrack does not know the connection
        return None
    return None if found == local else found


def plain(address: Any) -> Address:
    """Return a socket address as address and port; IPv4 in an IPv6 socket becomes IPv4."""
    host: str = address[0]
    return host.removeprefix("::ffff:") if "." in host else host.partition("%")[0], address[1]
