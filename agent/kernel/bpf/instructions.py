"""The few BPF instructions that Weir's programs need, and how a list of them becomes what the kernel loads.

Sources: Documentation/bpf/standardization/instruction-set.rst, include/uapi/linux/bpf.h.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

_WIDE, _PSEUDO_MAP_FD, _ATOMIC_ADD = 0x18, 1, 0
_INSTRUCTION = struct.Struct("<BBhi")  # the halves of the second byte are the other way round on big endian


class Register(IntEnum):
    """R0 is a call's result, R1 to R5 are its arguments and lost by it, R6 to R9 stay; FRAME is the stack's end."""

    R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, FRAME = range(11)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One of struct bpf_insn. A jump names the label `to`, and `assembled` fills in how far it is."""

    code: int
    target: int = 0
    source: int = 0
    offset: int = 0
    value: int = 0
    to: str = ""


@dataclass(frozen=True, slots=True)
class Label:
    """A place to jump to: the instruction that follows."""

    name: str


def copied(target: Register, source: Register) -> Instruction:
    """Return target = source."""
    return Instruction(0xBF, target, source)


def number(target: Register, value: int) -> Instruction:
    """Return target = value, of 31 bits."""
    return Instruction(0xB7, target, value=value)


def plus(target: Register, value: int | Register) -> Instruction:
    """Return target += value."""
    return Instruction(0x0F, target, value) if isinstance(value, Register) else Instruction(0x07, target, value=value)


def minus(target: Register, source: Register) -> Instruction:
    """Return target -= source."""
    return Instruction(0x1F, target, source)


def shifted_left(target: Register, bits: int) -> Instruction:
    """Return target <<= bits."""
    return Instruction(0x67, target, value=bits)


def shifted_right(target: Register, bits: int) -> Instruction:
    """Return target >>= bits, filled up with nought."""
    return Instruction(0x77, target, value=bits)


def loaded(target: Register, base: Register, offset: int) -> Instruction:
    """Return target = the eight bytes at base + offset."""
    return Instruction(0x79, target, base, offset)


def stored(base: Register, offset: int, source: Register | int) -> Instruction:
    """Return the eight bytes at base + offset = source."""
    if isinstance(source, Register):
        return Instruction(0x7B, base, source, offset)
    return Instruction(0x7A, base, offset=offset, value=source)


def added(base: Register, offset: int, source: Register) -> Instruction:
    """Return the eight bytes at base + offset += source, whoever else does so at the same time."""
    return Instruction(0xDB, base, source, offset, _ATOMIC_ADD)


def map_of(target: Register, descriptor: int) -> Sequence[Instruction]:
    """Return target = the map of a descriptor: one instruction that takes two places."""
    return Instruction(_WIDE, target, _PSEUDO_MAP_FD, value=descriptor), Instruction(0)


def called(function: int) -> Instruction:
    """Return R0 = what a function of the kernel returns for R1 to R5 (BPF_FUNC_...)."""
    return Instruction(0x85, value=function)


def jump(to: str) -> Instruction:
    """Return a jump."""
    return Instruction(0x05, to=to)


def jump_if_equal(target: Register, value: int, to: str) -> Instruction:
    """Return a jump where target == value."""
    return Instruction(0x15, target, value=value, to=to)


def jump_if_not(target: Register, value: int, to: str) -> Instruction:
    """Return a jump where target != value."""
    return Instruction(0x55, target, value=value, to=to)


def jump_if_below(target: Register, value: int, to: str) -> Instruction:
    """Return a jump where target < value, neither below nought."""
    return Instruction(0xA5, target, value=value, to=to)


def end() -> Instruction:
    """Return the end of the program; R0 is its answer."""
    return Instruction(0x95)


def assembled(program: Sequence[Instruction | Label]) -> bytes:
    """Return a program as the kernel loads it, each jump with how far it goes. KeyError: a label that isn't there."""
    places: dict[str, int] = {}
    instructions: list[Instruction] = []
    for each in program:
        if isinstance(each, Label):
            places[each.name] = len(instructions)
        else:
            instructions.append(each)
    return b"".join(
        _INSTRUCTION.pack(
            each.code,
            each.source << 4 | each.target,
            places[each.to] - place - 1 if each.to else each.offset,
            each.value,
        )
        for place, each in enumerate(instructions)
    )
