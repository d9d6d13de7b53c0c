"""A connection and a packet that are made to see what becomes of them; neither bears a byte for an application.

Act in the calling thread's namespace. Sources: packet(7), RFC 9293, RFC 791, RFC 8200; setfsuid(2).
"""

import ctypes
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address

from agent.errors import KernelError, PermissionMissing
from agent.kernel.closing import Closing
from rulesets.vocabulary import Address

_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD
_SYN, _RST = 0x02, 0x04
_WINDOW = 65535
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A connection attempt that is still open: its own end, and why it didn't come to be; empty where it did."""

    local: Address
    local_port: int
    said: str


@contextmanager
def connecting(destination: Address, port: int, *, seconds: float, user: int | None = None) -> Iterator[Attempt]:
    """Connect over TCP, and close at once when the block ends; nothing is ever written.

    `user` is whose socket it is to be, where that isn't the caller's. Raises `KernelError` for what isn't even tried.
    """
    family = socket.AF_INET if destination.version == 4 else socket.AF_INET6
    with _as_user(user):
        probe = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    with probe:
        # A reset instead of an orderly end: nothing lingers in TIME_WAIT, here or at the other end.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        code = probe.connect_ex((str(destination), port))
        if code not in (0, errno.EINPROGRESS, errno.ECONNREFUSED):
            raise KernelError(statement=f"connect to {destination} port {port}", said=os.strerror(code))
        local, local_port = probe.getsockname()[:2]
        if code == errno.EINPROGRESS:
            poll = select.poll()  # select(2) ends at descriptor 1024
            poll.register(probe, select.POLLOUT)
            ready = poll.poll(seconds * 1000)
            code = probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if ready else errno.ETIMEDOUT
            # A SYN that is refused is ECONNREFUSED (tcp_reset): whoever resets has answered before.
            code = 0 if code in (errno.ECONNRESET, errno.EPIPE) else code
        said = "" if not code else f"no answer within {seconds:g} s" if code == errno.ETIMEDOUT else os.strerror(code)
        yield Attempt(local=ip_address(local.partition("%")[0]), local_port=local_port, said=said)


@contextmanager
def _as_user(user: int | None) -> Iterator[None]:
    """Make files and sockets as another user, with the calling thread alone; privileges in the network stay."""
    if user is None:
        yield
        return
    before = _libc.setfsuid(user)
    try:
        if _libc.setfsuid(-1) != user:  # it tells of no failure otherwise
            hint = "it needs CAP_SETUID: run it on the node, as root"
            raise PermissionMissing(statement=f"setfsuid({user})", said=f"a socket of another user's; {hint}")
        yield
    finally:
        _libc.setfsuid(before)


class Injector(Closing):
    """One end of a veth pair, by which TCP segments reach whoever has the other end. Use it in a `with` block."""

    def __init__(self, interface: str, to: bytes) -> None:
        """Take the interface's name here, and the hardware address of the other end. Raises `KernelError`."""
        self._to = to
        self._socket = _packet_socket(interface)
        self._own = self._socket.getsockname()[4]

    def close(self) -> None:
        """Close the socket; twice is once."""
        self._socket.close()

    def send(self, source: Address, source_port: int, destination: Address, port: int, *, reset: bool = False) -> None:
        """Send the SYN that begins a connection, or the reset that ends it before it has begun."""
        sequence = 1 if reset else 0
        segment = _segment(source, source_port, destination, port, _RST if reset else _SYN, sequence)
        kind = _ETH_P_IP if source.version == 4 else _ETH_P_IPV6
        packet = (_ipv4 if source.version == 4 else _ipv6)(source, destination, segment)
        self._socket.send(self._to + self._own + struct.pack("!H", kind) + packet)


def hardware_address(interface: str) -> bytes:
    """Return the hardware address of an interface. Raises `KernelError`."""
    with _packet_socket(interface) as opened:
        return bytes(opened.getsockname()[4])


def _packet_socket(interface: str) -> socket.socket:
    """Return a packet socket that hears nothing, bound to an interface. Raises `PermissionMissing`, `KernelError`."""
    statement = f"a packet socket on {interface}"
    try:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    except PermissionError as error:
        hint = "it needs CAP_NET_RAW, which the agent itself goes without: run it on the node, as root"
        raise PermissionMissing(statement=statement, said=f"{error.strerror}; {hint}") from None
    except OSError as error:
        raise KernelError(statement=statement, said=os.strerror(error.errno or 0)) from None
    try:
        opened.bind((interface, 0))
    except OSError as error:
        opened.close()
        raise KernelError(statement=statement, said=os.strerror(error.errno or 0)) from None
    return opened


def patiently(seconds: float) -> Iterator[None]:
    """Yield again and again, until so many seconds are over; the last time is after them."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.005)
    yield


def _segment(source: Address, source_port: int, destination: Address, port: int, flags: int, sequence: int) -> bytes:
    head = struct.pack("!HHIIBBHHH", source_port, port, sequence, 0, 5 << 4, flags, _WINDOW, 0, 0)
    pseudo = source.packed + destination.packed + struct.pack("!IHBB", len(head), 0, 0, socket.IPPROTO_TCP)
    return head[:16] + struct.pack("!H", _checksum(pseudo + head)) + head[18:]


def _ipv4(source: Address, destination: Address, segment: bytes) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0x4000, 64, socket.IPPROTO_TCP, 0)
    head += source.packed + destination.packed
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + segment


def _ipv6(source: Address, destination: Address, segment: bytes) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(segment), socket.IPPROTO_TCP, 64)
    return head + source.packed + destination.packed + segment


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
