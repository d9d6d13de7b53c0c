"""ZDS as bytes: one protobuf message a packet, no length before it (Istio's zds.proto, package istio.workload.zds).

Written by hand: four requests out and two messages of one field in are less code than loading the protobuf package is
memory. What can't be sent can't be made: a request with a descriptor is an `Add` and has just one, a workload that
would not fit into ztunnel's buffer is refused when it is made, and an Add always carries its workload.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Protocol, assert_never

from agent.errors import TargetError

LONGEST_PACKET = 1024  # bytes; ztunnel reads no more of one, and ends the connection
LONGEST_UID = 253  # bytes; a pod's uid has 36, a static pod's 32
VERSION = 1

_LONGEST_VARINT = 10  # bytes


class Garbled(ValueError):
    """A packet that is no message of the protocol; the text says why."""


class Netns(Protocol):
    """An open network namespace: `identity` is equal for equal namespaces, whatever the descriptor."""

    @property
    def identity(self) -> Hashable:
        """Which namespace it is."""

    def fileno(self) -> int:
        """Return its descriptor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A pod as its proxy is to know it: the pod's uid, and who it is. `service_account` may be empty (static pods).

    Raises `TargetError` for what ztunnel would not take.
    """

    uid: str
    namespace: str
    name: str
    service_account: str

    def __post_init__(self) -> None:
        checked_uid(self.uid)
        for setting, value in (
            ("name", self.name),
            ("namespace", self.namespace),
            ("service account", self.service_account),
        ):
            if not value.isprintable() or not (value or setting == "service account"):
                raise TargetError(f"pod {self.uid}: {setting} = {value!r}: is empty or has unprintable characters")
        size = len(_add(self))
        if size > LONGEST_PACKET:
            raise TargetError(f"{self}: its names take {size} bytes, and a proxy reads {LONGEST_PACKET} at most")

    def __str__(self) -> str:
        return f"pod/{self.namespace}/{self.name}"


def checked_uid(uid: str) -> str:
    """Return a pod's uid; raise `TargetError` for what can't be one."""
    if not uid or not uid.isprintable() or len(uid.encode()) > LONGEST_UID:
        raise TargetError(f"uid = {uid[:LONGEST_UID]!r}: is empty, too long or has unprintable characters")
    return uid


@dataclass(frozen=True, slots=True)
class Add:
    """Serve this pod in this namespace."""

    workload: Workload
    netns: Netns

    def __str__(self) -> str:
        return f"Add of {self.workload} ({self.workload.uid})"


@dataclass(frozen=True, slots=True)
class Keep:
    """Go on with this pod, if it is served: its namespace isn't known at the moment."""

    uid: str

    def __str__(self) -> str:
        return f"Keep of {self.uid}"


@dataclass(frozen=True, slots=True)
class Delete:
    """Serve this pod no more."""

    uid: str

    def __str__(self) -> str:
        return f"Delete of {self.uid}"


@dataclass(frozen=True, slots=True)
class SnapshotSent:
    """These were all: end what was not named on this connection."""

    def __str__(self) -> str:
        return "SnapshotSent"


Request = Add | Keep | Delete | SnapshotSent


def uid_of(request: Request) -> str:
    """Return the pod that a request is about; empty for `SnapshotSent`."""
    match request:
        case Add(workload=workload):
            return workload.uid
        case Keep(uid=uid) | Delete(uid=uid):
            return uid
        case SnapshotSent():
            return ""
        case _:
            assert_never(request)


def encode(request: Request) -> bytes:
    """Return a WorkloadRequest; the descriptor of an `Add` goes in the same packet, beside it."""
    match request:
        case Add(workload=workload):
            return _add(workload)
        case Delete(uid=uid):
            return _field(2, _field(2, uid.encode()))  # DelWorkload's uid is its field 2
        case SnapshotSent():
            return _field(3, b"")
        case Keep(uid=uid):
            return _field(5, _field(1, uid.encode()))
        case _:
            assert_never(request)


def decode_hello(packet: bytes) -> int:
    """Return the version that a ZdsHello names. Raises `Garbled`."""
    version: int | None = None
    for number, value in _fields(packet):
        if number == 1 and isinstance(value, int):
            version = value
    if not version:
        raise Garbled("its first packet names no version of the protocol")
    return version


def decode_answer(packet: bytes) -> str:
    """Return what a WorkloadResponse says: nothing for an acknowledgement, or why not. Raises `Garbled`."""
    said: str | None = None
    for number, value in _fields(packet):
        if number == 1 and isinstance(value, bytes):
            said = _error(value)
    if said is None:
        raise Garbled("the packet is no acknowledgement")
    return said


def _error(ack: bytes) -> str:
    said = ""
    for number, value in _fields(ack):
        if number == 1 and isinstance(value, bytes):
            said = value.decode(errors="replace")
    return said


def _add(workload: Workload) -> bytes:
    names = (workload.name, workload.namespace, workload.service_account)
    info = b"".join(_field(number, text.encode()) for number, text in enumerate(names, 1) if text)
    return _field(1, _field(1, workload.uid.encode()) + _field(2, info))


def _field(number: int, content: bytes) -> bytes:
    return bytes((number << 3 | 2, *_varint(len(content)))) + content


def _varint(number: int) -> Iterator[int]:
    while number > 0x7F:
        yield number & 0x7F | 0x80
        number >>= 7
    yield number


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Give each field's number and value; of the fixed ones, which ZDS doesn't have, the bytes."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        value: int | bytes
        match tag & 7:  # protobuf's wire types
            case 0:
                value, at = _read_varint(message, at)
            case 1:
                value, at = _read(message, at, 8)
            case 2:
                size, at = _read_varint(message, at)
                value, at = _read(message, at, size)
            case 5:
                value, at = _read(message, at, 4)
            case kind:
                raise Garbled(f"wire type {kind} before byte {at} of {len(message)}")
        if not tag >> 3:
            raise Garbled(f"a field without a number before byte {at} of {len(message)}")
        yield tag >> 3, value


def _read(message: bytes, at: int, size: int) -> tuple[bytes, int]:
    if size > len(message) - at:
        raise Garbled(f"a field of {size} bytes at byte {at} of {len(message)}")
    return message[at : at + size], at + size


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    number = 0
    for count, byte in enumerate(message[at : at + _LONGEST_VARINT]):
        number |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return number & 0xFFFF_FFFF_FFFF_FFFF, at + count + 1
    raise Garbled(f"a number without an end at byte {at} of {len(message)}")
