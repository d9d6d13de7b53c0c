"""The two programs of a bracket: one notes when a packet comes, the other how long it took to get there.

A packet is known by its address (of struct sk_buff) and the bracket's number. A note per processor would be wrong: a
sender can be interrupted between the two by packets that arrive and are answered there, can go on on another processor,
and a rule that rejects sends a packet of its own meanwhile. A packet that is dropped on the way leaves its note; the
next one at that address overwrites it before it is met by the second program.

A gate has all brackets begin and end at the same moment: while it is shut, nothing is noted, and what was is forgotten.

The times are counted in buckets, eight to each doubling: `least` and `bucket_of` are the same in Python.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from agent.kernel.bpf.instructions import (
    Instruction,
    Label,
    Register,
    added,
    assembled,
    called,
    copied,
    end,
    jump,
    jump_if_below,
    jump_if_equal,
    jump_if_not,
    loaded,
    map_of,
    minus,
    number,
    plus,
    shifted_left,
    shifted_right,
    stored,
)

BUCKETS = 240
"""Of times: 16 of one nanosecond each, then eight to each doubling, up to 2**32 ns."""

ENTERED, UNNOTED, PACKETS, NANOSECONDS, TIMES = 0, 8, 16, 24, 32
"""Where a bracket's figures stand among its value in the map, in bytes, each of eight; the last begins the buckets."""

VALUE = TIMES + 8 * BUCKETS
KEY, NOTE = 16, 8  # bytes: the packet and the bracket; when it came

R0, R1, R2, R3, R4, R6, R7, R8, R9, FRAME = (
    Register.R0,
    Register.R1,
    Register.R2,
    Register.R3,
    Register.R4,
    Register.R6,
    Register.R7,
    Register.R8,
    Register.R9,
    Register.FRAME,
)
_LOOKUP, _UPDATE, _DELETE, _KTIME_GET_NS = 1, 2, 3, 5  # BPF_FUNC_...
_SKB = 8  # struct bpf_nf_ctx
_ACCEPT = 1  # NF_ACCEPT
_KEY, _BRACKET, _NOTE, _INDEX = -16, -8, -24, -32  # on the stack; what is noted first is nought
_SUBBITS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Maps:
    """Descriptors: the `gate`, `notes` of packets on their way, and `figures` of each bracket by its number."""

    gate: int
    notes: int
    figures: int


def entering(bracket: int, maps: Maps) -> bytes:
    """Return the program that stands first. It notes the time last, so that its own work isn't counted."""
    return assembled(
        [
            *_packet(bracket),
            stored(FRAME, _NOTE, 0),  # the gate is the first and only element of its map
            *map_of(R1, maps.gate),
            *_pointer(R2, _NOTE),
            called(_LOOKUP),
            jump_if_equal(R0, 0, "accept"),
            loaded(R1, R0, 0),
            jump_if_equal(R1, 0, "shut"),
            *_figures(maps, "accept"),
            copied(R7, R0),
            number(R8, 1),
            added(R7, ENTERED, R8),
            *map_of(R1, maps.notes),
            *_pointer(R2, _KEY),
            *_pointer(R3, _NOTE),
            number(R4, 0),
            called(_UPDATE),
            jump_if_not(R0, 0, "unnoted"),
            *map_of(R1, maps.notes),
            *_pointer(R2, _KEY),
            called(_LOOKUP),
            jump_if_equal(R0, 0, "unnoted"),
            copied(R9, R0),
            called(_KTIME_GET_NS),
            stored(R9, 0, R0),
            Label("accept"),
            number(R0, _ACCEPT),
            end(),
            Label("unnoted"),  # so many packets have been dropped in between that there is no room
            added(R7, UNNOTED, R8),
            jump("accept"),
            Label("shut"),
            *map_of(R1, maps.notes),
            *_pointer(R2, _KEY),
            called(_DELETE),
            jump("accept"),
        ]
    )


def leaving(bracket: int, maps: Maps) -> bytes:
    """Return the program that stands last. It takes the time first."""
    return assembled(
        [
            copied(R9, R1),
            called(_KTIME_GET_NS),
            copied(R7, R0),
            copied(R1, R9),
            *_packet(bracket),
            *map_of(R1, maps.notes),
            *_pointer(R2, _KEY),
            called(_LOOKUP),
            jump_if_equal(R0, 0, "accept"),
            loaded(R8, R0, 0),
            minus(R7, R8),
            *map_of(R1, maps.notes),
            *_pointer(R2, _KEY),
            called(_DELETE),
            *_figures(maps, "accept"),
            number(R8, 1),
            added(R0, PACKETS, R8),
            added(R0, NANOSECONDS, R7),
            *_bucket(),
            added(R0, TIMES, R8),
            Label("accept"),
            number(R0, _ACCEPT),
            end(),
        ]
    )


def bucket_of(nanoseconds: int) -> int:
    """Return the bucket that a time is counted in."""
    shift = max(0, min(nanoseconds, 2**32 - 1).bit_length() - 1 - _SUBBITS)
    return (shift << _SUBBITS) + (min(nanoseconds, 2**32 - 1) >> shift)


def least(bucket: int) -> int:
    """Return the shortest time of a bucket, in nanoseconds; of the one after the last, where that ends."""
    shift = max(0, (bucket >> _SUBBITS) - 1)
    return bucket - (shift << _SUBBITS) << shift


def _packet(bracket: int) -> Sequence[Instruction]:
    """Note on the stack what the packet is known by; R1 is the context."""
    return (
        loaded(R6, R1, _SKB),
        stored(FRAME, _KEY, R6),
        stored(FRAME, _BRACKET, bracket),
        stored(FRAME, _INDEX, bracket),  # of little endian: its first four bytes are what an array wants
    )


def _pointer(target: Register, offset: int) -> Sequence[Instruction]:
    return copied(target, FRAME), plus(target, offset)


def _figures(maps: Maps, missing: str) -> Sequence[Instruction]:
    """Have R0 point to this processor's figures of the bracket."""
    return (
        *map_of(R1, maps.figures),
        *_pointer(R2, _INDEX),
        called(_LOOKUP),
        jump_if_equal(R0, 0, missing),
    )


def _bucket() -> Sequence[Instruction | Label]:
    """Have R0 point so far beyond the figures as the bucket of R7 stands behind the first one."""
    shifts = chain.from_iterable(_shift(bits) for bits in (16, 8, 4, 2, 1))
    return (
        copied(R1, R7),
        shifted_right(R1, 32),
        jump_if_equal(R1, 0, "fits"),
        number(R7, -1),
        shifted_right(R7, 32),
        Label("fits"),
        number(R2, 0),
        *shifts,
        shifted_left(R2, _SUBBITS),
        plus(R2, R7),
        jump_if_below(R2, BUCKETS, "counted"),
        jump("accept"),  # never: the verifier wants to see it
        Label("counted"),
        shifted_left(R2, 3),
        plus(R0, R2),
    )


def _shift(bits: int) -> Iterator[Instruction | Label]:
    """Take bits from R7, and count them in R2, as long as it keeps its first four."""
    yield jump_if_below(R7, 1 << (bits + _SUBBITS), f"small-{bits}")
    yield shifted_right(R7, bits)
    yield plus(R2, bits)
    yield Label(f"small-{bits}")
