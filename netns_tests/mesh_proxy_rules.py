"""What ztunnel makes of each packet: acknowledged, refused, the connection dropped, or the end of its process.

It has a decoder of its own, which can't agree with the agent's encoder on a mistake. Sources: Istio's zds.proto,
ztunnel's src/inpod, and what the real one was seen doing; where versions differ, the strictest.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = ["Answer", "Info", "Message", "Place", "Rules", "answer", "decode", "hello"]

Kind = Literal["add", "keep", "delete", "snapshot"]
Info = tuple[str, str, str]  # name, namespace, service account
BUFFER = 1024
_KINDS: dict[int, Kind] = {1: "add", 2: "delete", 3: "snapshot", 5: "keep"}


@dataclass(frozen=True, slots=True)
class Message:
    kind: Kind
    uid: str = ""
    info: Info | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """`drop`: refused with these words, and the connection is closed. `exit`: the process ends, with every stream."""

    how: Literal["ack", "nack", "drop", "exit"]
    words: str = ""
    message: Message | None = None


class Place(Protocol):
    @property
    def identity(self) -> Hashable: ...


class Rules:
    """The state of one ztunnel. `start` returns why a pod can't be served, or nothing."""

    def __init__(self, start: Callable[[str, Place], str], stop: Callable[[str], None]) -> None:
        self.serving: dict[str, Hashable] = {}
        self.pending: dict[str, Place] = {}
        self.has_snapshot = False
        self._names: set[str] = set()
        self._start = start
        self._stop = stop

    @property
    def ready(self) -> bool:
        return self.has_snapshot and not self.pending

    def connected(self) -> None:
        """Begin with a new connection: what is served stays, until a snapshot leaves it out."""
        self._names.clear()
        self.pending.clear()
        self.has_snapshot = False

    def hear(self, packet: bytes, places: Sequence[Place] = (), *, cut: bool = False) -> Answer:
        if len(places) > 1:
            return Answer("drop", f"expected 1 descriptor, got {len(places)}")
        if cut or len(packet) > BUFFER:
            return Answer("drop", "received truncated message")
        try:
            message = decode(packet)
        except (ValueError, IndexError) as error:
            return Answer("drop", f"failed to decode: {error}")
        if message.kind == "add" and not places:
            return Answer("drop", "no control message", message)
        if message.kind != "add" and places:
            return Answer("drop", "unexpected control message", message)
        how, words = self._obey(message, places)
        return Answer(how, words, message)

    def retry(self) -> None:
        """Try again what could not be started, as ztunnel does every 5 seconds."""
        for uid, place in list(self.pending.items()):
            self._add(uid, place)

    def _obey(self, message: Message, places: Sequence[Place]) -> tuple[Literal["ack", "nack", "drop", "exit"], str]:
        match message.kind:
            case "add":
                if message.info is None:
                    return "exit", "Add without workload_info"
                if not self.has_snapshot:
                    self._names.add(message.uid)
                error = self._add(message.uid, places[0])
                return ("nack", f"failure to start proxy : {error}") if error else ("ack", "")
            case "keep":
                if self.has_snapshot:
                    return "exit", "Keep after the snapshot"
                self._names.add(message.uid)
            case "delete":
                if not self.has_snapshot:
                    return "exit", "Delete before the snapshot"
                self.pending.pop(message.uid, None)
                self._end(message.uid)
            case "snapshot":
                if self.has_snapshot:
                    return "exit", "a second SnapshotSent"
                for uid in [each for each in self.serving if each not in self._names]:
                    self._end(uid)
                self.has_snapshot = True
        return "ack", ""

    def _add(self, uid: str, place: Place) -> str:
        if self.serving.get(uid) == place.identity:
            return ""
        self._end(uid)
        error = self._start(uid, place)
        if error:
            self.pending[uid] = place
        else:
            self.pending.pop(uid, None)
            self.serving[uid] = place.identity
        return error

    def _end(self, uid: str) -> None:
        if self.serving.pop(uid, None) is not None:
            self._stop(uid)


def decode(packet: bytes) -> Message:
    """Return the WorkloadRequest in a packet; raise ValueError or IndexError for anything else."""
    found = [(_KINDS[number], body) for number, body in _strings(packet).items() if number in _KINDS]
    if len(found) != 1:
        raise ValueError("no payload")
    ((kind, body),) = found
    fields = _strings(body)
    uid = fields.get(2 if kind == "delete" else 1, b"").decode()
    if kind != "add" or 2 not in fields:
        return Message(kind, uid)
    names = _strings(fields[2])
    return Message(kind, uid, (names.get(1, b"").decode(), names.get(2, b"").decode(), names.get(3, b"").decode()))


def answer(error: str = "") -> bytes:
    """Return a WorkloadResponse with an Ack."""
    text = error.encode()
    ack = b"\x0a" + _size(len(text)) + text if text else b""
    return b"\x0a" + _size(len(ack)) + ack


def hello(version: int = 1) -> bytes:
    return bytes((8, version))


def _strings(message: bytes) -> dict[int, bytes]:
    """Return the fields of a message that has nothing but strings and messages in it."""
    fields = {}
    while message:
        tag, rest = message[0], message[1:]
        if tag & 7 != 2 or not 8 <= tag < 0x80:
            raise ValueError(f"tag {tag}")
        size = rest[0]
        rest = rest[1:]
        if size >= 0x80:
            size, rest = (size & 0x7F) + rest[0] * 128, rest[1:]
        if size > len(rest):
            raise ValueError("a field that goes on behind the end")
        fields[tag >> 3], message = rest[:size], rest[size:]
    return fields


def _size(number: int) -> bytes:
    low, high = number % 128, number // 128
    return bytes((low,)) if not high else bytes((low | 0x80,)) + _size(high)
