"""As much of the DNS format as one question with one address needs."""

import socket
import struct

__all__ = ["AAAA", "A", "answer", "answered", "query", "question"]

A, AAAA = 1, 28
FAMILY = {A: socket.AF_INET, AAAA: socket.AF_INET6}


def query(number: int, name: str, kind: int = A) -> bytes:
    """Return the packet that asks for a name's addresses."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    return struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kind, 1)


def question(packet: bytes) -> tuple[int, str, int]:
    """Return the number, the name and the kind that a packet asks for."""
    name, end = _name(packet, 12)
    return struct.unpack_from("!H", packet)[0], name, struct.unpack_from("!H", packet, end)[0]


def answer(packet: bytes, addresses: dict[int, str]) -> bytes:
    """Return the answer to a query: the address of the asked kind, or none."""
    _, end = _name(packet, 12)
    address = addresses.get(struct.unpack_from("!H", packet, end)[0])
    header = packet[:2] + struct.pack("!5H", 0x8180, 1, int(address is not None), 0, 0)
    asked = packet[12 : end + 4]
    if address is None:
        return header + asked
    data = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    return header + asked + b"\xc0\x0c" + packet[end : end + 4] + struct.pack("!IH", 5, len(data)) + data


def answered(packet: bytes) -> list[str]:
    """Return the addresses in an answer."""
    count = struct.unpack_from("!H", packet, 6)[0]
    at = _name(packet, 12)[1] + 4
    found = []
    for _ in range(count):
        at = _name(packet, at)[1]
        kind, _, _, length = struct.unpack_from("!2HIH", packet, at)
        if kind in FAMILY:
            found.append(socket.inet_ntop(FAMILY[kind], packet[at + 10 : at + 10 + length]))
        at += 10 + length
    return found


def _name(packet: bytes, at: int) -> tuple[str, int]:
    """Return a name and where it ends. A pointer ends it: the names it points to are of no interest here."""
    labels: list[str] = []
    while length := packet[at]:
        if length & 0xC0:
            return ".".join(labels), at + 2
        labels.append(packet[at + 1 : at + 1 + length].decode("ascii", "replace"))
        at += 1 + length
    return ".".join(labels), at + 1
