"""What of an interface's traffic a tap is to hear, decided in the kernel (classic BPF, packet(7)).

Under load a tap that hears every segment takes the processor from whoever it listens to, and then misses some.
"""

import ctypes
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["beginnings"]

SO_ATTACH_FILTER = 26
# Instructions and their addressing, linux/bpf_common.h.
LOAD_BYTE, LOAD_BYTE_X, LOAD_HALF_X = 0x30, 0x50, 0x48
HEADER_LENGTH, LOAD_X = 0xB1, 0x01
AND, JUMP_IF_EQUAL, JUMP, ANSWER = 0x54, 0x15, 0x05, 0x06
EVERYTHING, NOTHING = 0x40000, 0
TCP, SYN, ACK = 6, 0x02, 0x10
LONGEST_JUMP = 255


@dataclass(frozen=True, slots=True)
class Instruction:
    """One of struct sock_filter; the jumps count the instructions to be left out."""

    code: int
    value: int = 0
    then: int = 0
    otherwise: int = 0


def beginnings(tap: socket.socket, ports: Sequence[int] = ()) -> None:
    """Have a packet socket without link headers hear only first TCP segments, and all that come from these ports."""
    program = _program(ports)
    packed = b"".join(struct.pack("HBBI", each.code, each.then, each.otherwise, each.value) for each in program)
    held = ctypes.create_string_buffer(packed, len(packed))
    tap.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(held)))


def _program(ports: Sequence[int]) -> list[Instruction]:
    """X becomes where the TCP header begins; each port adds a comparison."""
    if len(ports) + 9 > LONGEST_JUMP:
        raise ValueError(f"{len(ports)} ports are too many for one filter")
    by_port = [
        Instruction(JUMP_IF_EQUAL, port, then=len(ports) - number)  # to EVERYTHING, behind the others and NOTHING
        for number, port in enumerate(ports)
    ]
    tail = [
        Instruction(LOAD_BYTE_X, 13),
        Instruction(AND, SYN | ACK),
        Instruction(JUMP_IF_EQUAL, SYN, then=len(ports) + 2),
        Instruction(LOAD_HALF_X, 0),
        *by_port,
        Instruction(ANSWER, NOTHING),
        Instruction(ANSWER, EVERYTHING),
    ]
    nothing = len(tail) - 2
    v6 = [
        Instruction(LOAD_BYTE, 6),
        Instruction(JUMP_IF_EQUAL, TCP, otherwise=1 + nothing),
        Instruction(LOAD_X, 40),
    ]
    v4 = [
        Instruction(LOAD_BYTE, 9),
        Instruction(JUMP_IF_EQUAL, TCP, otherwise=2 + len(v6) + nothing),
        Instruction(HEADER_LENGTH, 0),
        Instruction(JUMP, len(v6)),
    ]
    head = [
        Instruction(LOAD_BYTE, 0),
        Instruction(AND, 0xF0),
        Instruction(JUMP_IF_EQUAL, 0x60, then=len(v4)),
    ]
    return [*head, *v4, *v6, *tail]
