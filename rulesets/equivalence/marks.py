"""The bits of packet and connection marks, in groups that no rule takes apart.

Every mask that a rule tests, sets, turns, saves or restores is made of whole groups, so that each group is a field of
its own: a test of a mark is one of some groups, and what is set or copied is whole groups.
"""

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass

from rulesets.equivalence.atoms import Atoms
from rulesets.vocabulary import (
    ConnMark,
    FlipMark,
    Mark,
    PacketMark,
    RestoreMark,
    SaveMark,
    SetConnMark,
    SetMark,
    Tproxy,
)


@dataclass(frozen=True, kw_only=True)
class MarkGroups:
    """The groups' masks, the lowest first, and the atoms of each. Bits that no rule mentions are in none."""

    masks: tuple[int, ...]
    atoms: tuple[Atoms[int], ...]

    def parts(self, mark: Mark) -> Iterator[tuple[int, int]]:
        """Yield the number of each group that a mark has bits of, and the atom that these bits are."""
        for number, (mask, atoms) in enumerate(zip(self.masks, self.atoms, strict=True)):
            if mark.mask & mask:
                yield number, atoms.atom_of(mark.value & mask)


def group(matches: Iterable[object], actions: Iterable[object]) -> MarkGroups:
    """Put bits that all masks treat alike into one group, and cut each at the values that rules name."""
    marks, masks, turned = _mentioned((*matches, *actions))
    masks |= {mark.mask for mark in marks} | turned
    groups: dict[tuple[bool, ...], int] = {}
    for bit in range(32):
        inside = tuple(bool(mask >> bit & 1) for mask in sorted(masks))
        if any(inside):
            groups[inside] = groups.get(inside, 0) | 1 << bit
    found = tuple(sorted(groups.values(), key=lambda mask: mask & -mask))
    return MarkGroups(masks=found, atoms=tuple(_atoms(mask, marks, turned) for mask in found))


def _mentioned(parts: Iterable[object]) -> tuple[set[Mark], set[int], set[int]]:
    """Return the marks that are named, the masks without a value, and the bits that are turned over."""
    marks: set[Mark] = set()
    masks: set[int] = set()
    turned: set[int] = set()
    for part in parts:
        match part:
            case PacketMark(mark=mark) | ConnMark(mark=mark) | SetMark(mark=mark) | SetConnMark(mark=mark):
                marks.add(mark)
            case Tproxy(mark=Mark() as mark):
                marks.add(mark)
            case FlipMark(value=value, mask=mask):
                masks.add(mask)
                turned.add(value)
            case (
                SaveMark(packet_mask=ours, connection_mask=theirs)
                | RestoreMark(packet_mask=ours, connection_mask=theirs)
            ):
                masks |= {ours, theirs}
            case _:
                pass
    return marks, masks, turned


def _atoms(mask: int, marks: Iterable[Mark], turned: Iterable[int]) -> Atoms[int]:
    values = {0, *(mark.value & mask for mark in marks if mark.mask & mask)}
    if any(bits & mask for bits in turned):
        values |= {value ^ mask for value in values}
    rest = list(_others(mask, values, 5))
    if len(rest) == 1:
        values.add(rest.pop())
    ordered = sorted(values)
    examples = [(value,) for value in ordered] + ([tuple(rest)] if rest else [])
    taken: dict[Hashable, int] = {value: 1 << atom for atom, value in enumerate(ordered)}
    return Atoms(examples=tuple(examples), single=(1 << len(ordered)) - 1, taken=taken)


def _others(mask: int, values: set[int], most: int) -> Iterator[int]:
    """Yield values of some bits that are none of these, the lowest first."""
    value = 0
    while most:
        if value not in values:
            yield value
            most -= 1
        value = (value - mask) & mask  # the next higher number that has bits of the mask alone
        if value == 0:
            return
