"""Clients for the test world: each acts inside a namespace, as a user or with a mark if wanted."""

import json
import os
import socket
import struct
from dataclasses import dataclass

from netns_tests import dns
from netns_tests.captured import Address, plain
from netns_tests.namespace import Namespace
from netns_tests.patience import slow
from netns_tests.syscalls import set_fsuid

__all__ = ["Exchange", "connect", "dns_ask", "exchange", "http_get", "open_socket", "udp_ask"]

SECONDS_TO_ANSWER = slow(5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What an echo server told about a connection."""

    local: Address
    seen: Address
    echoed: bytes

    @property
    def direct(self) -> bool:
        """Say if the server saw the client's own socket, rather than one that a proxy opened for it."""
        return self.local == self.seen


def open_socket(
    namespace: Namespace,
    family: int,
    kind: int = socket.SOCK_STREAM,
    *,
    mark: int | None = None,
    user: int | None = None,
    timeout: float | None = SECONDS_TO_ANSWER,
) -> socket.socket:
    """Return a socket of a namespace, made as a user (what `meta skuid` sees), with a mark."""

    def make() -> socket.socket:
        if user is not None:
            set_fsuid(user)  # the thread ends with this function
        return socket.socket(family, kind)

    sock = namespace.run(make)
    try:
        if mark is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        sock.settimeout(timeout)
    except BaseException:
        sock.close()
        raise
    return sock


def connect(
    namespace: Namespace,
    target: Address,
    *,
    source: Address | None = None,
    mark: int | None = None,
    user: int | None = None,
    timeout: float | None = SECONDS_TO_ANSWER,
) -> socket.socket:
    """Return a TCP connection from a namespace to a target. It raises what connect raises."""
    sock = open_socket(namespace, family_of(target), mark=mark, user=user, timeout=timeout)
    try:
        if source is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(source)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect(target)
    except BaseException:
        sock.close()
        raise
    return sock


def exchange(
    namespace: Namespace,
    target: Address,
    data: bytes = b"ping",
    *,
    source: Address | None = None,
    mark: int | None = None,
    user: int | None = None,
    timeout: float = SECONDS_TO_ANSWER,
) -> Exchange:
    """Talk to an `EchoServer` once: who did it see, and did it send the data back."""
    with connect(namespace, target, source=source, mark=mark, user=user, timeout=timeout) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: sock.recv(65536), b""))
        greeting, newline, echoed = received.partition(b"\n")
        if not newline:
            raise ConnectionError(f"{target} ended after {received!r}: no greeting of an echo server")
        address, port = greeting.decode().split(" ")
        return Exchange(local=plain(sock.getsockname()), seen=(address, int(port)), echoed=echoed)


def http_get(
    namespace: Namespace,
    target: Address,
    path: str = "/",
    *,
    mark: int | None = None,
    user: int | None = None,
    timeout: float = SECONDS_TO_ANSWER,
) -> dict[str, str]:
    """Ask an `HttpServer`; return `peer`, `path` and `server`, and `local`, the client's own address."""
    with connect(namespace, target, mark=mark, user=user, timeout=timeout) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {target[0]}\r\n\r\n".encode())
        local = plain(sock.getsockname())
        with sock.makefile("rb") as answer:
            status = answer.readline()
            headers = {}
            while (line := answer.readline().strip()) != b"":
                name, _, value = line.partition(b":")
                headers[name.lower()] = value
            body = answer.read(int(headers.get(b"content-length", b"0")))
    if b" 200 " not in status:
        raise ConnectionError(f"http://{target} answered {status!r} {body!r}")
    answered: dict[str, str] = json.loads(body)
    return answered | {"local": f"{local[0]} {local[1]}"}


def udp_ask(
    namespace: Namespace,
    target: Address,
    data: bytes,
    *,
    source_port: int = 0,
    mark: int | None = None,
    user: int | None = None,
    timeout: float = SECONDS_TO_ANSWER,
) -> bytes:
    """Send a datagram, from a fixed source port if given, and return the answer to it; TimeoutError without one."""
    with open_socket(namespace, family_of(target), socket.SOCK_DGRAM, mark=mark, user=user, timeout=timeout) as sock:
        sock.bind(("", source_port))
        sock.connect(target)  # so that an answer from elsewhere is not taken for one, and ICMP errors are heard
        sock.send(data)
        return sock.recv(65535)


def dns_ask(
    namespace: Namespace,
    server: Address,
    name: str = "weir.test",
    kind: int = dns.A,
    *,
    tcp: bool = False,
    source_port: int = 0,
    mark: int | None = None,
    user: int | None = None,
    timeout: float = SECONDS_TO_ANSWER,
) -> list[str]:
    """Ask a DNS server over UDP or TCP and return the addresses."""
    number = int.from_bytes(os.urandom(2), "big")
    packet = dns.query(number, name, kind)
    if tcp:
        source = None if source_port == 0 else ("", source_port)
        with connect(namespace, server, source=source, mark=mark, user=user, timeout=timeout) as sock:
            sock.sendall(struct.pack("!H", len(packet)) + packet)
            with sock.makefile("rb") as stream:
                answer = stream.read(struct.unpack("!H", stream.read(2))[0])
    else:
        answer = udp_ask(namespace, server, packet, source_port=source_port, mark=mark, user=user, timeout=timeout)
    if dns.question(answer)[0] != number:
        raise ConnectionError(f"{server} answered another question: {answer!r}")
    return dns.answered(answer)


def family_of(target: Address) -> int:
    """Return the address family of a target."""
    return socket.AF_INET6 if ":" in target[0] else socket.AF_INET
