"""The values of one header field, cut into atoms: values that no match of either ruleset tells apart."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

V = TypeVar("V")


@dataclass(frozen=True, kw_only=True)
class Atoms(Generic[V]):
    """The atoms of a field: some values of each, the best example first, and which atoms each match takes.

    `single` has those atoms that are one value: two packets in such an atom are alike, in another they needn't be.
    """

    examples: tuple[tuple[V, ...], ...]
    single: int
    taken: Mapping[Hashable, int]

    @property
    def count(self) -> int:
        """How many atoms there are."""
        return len(self.examples)

    @property
    def all(self) -> int:
        """The mask of all atoms."""
        return (1 << len(self.examples)) - 1

    def atom_of(self, value: Hashable) -> int:
        """Return the atom of a value that stands alone, by the key it was cut with."""
        return self.taken[value].bit_length() - 1


Span = tuple[int, int]


def cut(spans: Mapping[Hashable, Iterable[Span]], whole: Sequence[Span], preferred: Sequence[int]) -> Atoms[int]:
    """Cut whole numbers at the ends of spans, so that each key's spans are some of the atoms.

    `whole` is what values there are, rising. Pieces that lie in the same spans are one atom. The examples of an atom
    are those of `preferred` that lie in it, in their order, and then the ends of its pieces.
    """
    turns: dict[int, int] = {}
    keys = list(spans)
    for number, key in enumerate(keys):
        for first, last in spans[key]:
            turns[first] = turns.get(first, 0) ^ 1 << number
            turns[last + 1] = turns.get(last + 1, 0) ^ 1 << number
    for first, last in whole:
        turns.setdefault(first, 0)
        turns.setdefault(last + 1, 0)
    pieces: dict[int, list[Span]] = {}
    inside, ends = 0, sorted(turns)
    for at, following in zip(ends, [*ends[1:], ends[-1]], strict=True):
        inside ^= turns[at]
        if any(first <= at <= last for first, last in whole):
            pieces.setdefault(inside, []).append((at, following - 1))
    return _atoms(keys, pieces, preferred)


def bits(mask: int) -> Iterator[int]:
    """Yield the numbers of the bits that are set, the lowest first."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def joined(spans: Iterable[Span]) -> Iterator[Span]:
    """Yield rising spans that don't overlap and cover the same."""
    at: Span | None = None
    for first, last in sorted(spans):
        if at is not None and first <= at[1] + 1:
            at = (at[0], max(at[1], last))
            continue
        if at is not None:
            yield at
        at = (first, last)
    if at is not None:
        yield at


def _atoms(keys: Sequence[Hashable], pieces: Mapping[int, list[Span]], preferred: Sequence[int]) -> Atoms[int]:
    taken = dict.fromkeys(keys, 0)
    examples = []
    single = 0
    for atom, (inside, own) in enumerate(pieces.items()):
        for number in bits(inside):
            taken[keys[number]] |= 1 << atom
        if len(own) == 1 and own[0][0] == own[0][1]:
            single |= 1 << atom
        liked = [value for value in preferred if any(first <= value <= last for first, last in own)]
        examples.append((*liked, *dict.fromkeys(value for first, last in own[:8] for value in _some(first, last))))
    return Atoms(examples=tuple(examples), single=single, taken=taken)


def _some(first: int, last: int) -> Iterable[int]:
    """Return a few values of a span; its first may be a network's own address, so that the next comes before it."""
    return dict.fromkeys(value for value in (first + 1, first + 2, first, first + 3, last) if first <= value <= last)


def sort_out(values: Iterable[V], tests: Mapping[Hashable, Iterable[V]], open_ended: Iterable[V] = ()) -> Atoms[V]:
    """Put values that the same tests hold for into one atom. Those that are `open_ended` stand for more than one."""
    held = {key: set(some) for key, some in tests.items()}
    groups: dict[tuple[bool, ...], list[V]] = {}
    for value in values:
        groups.setdefault(tuple(value in some for some in held.values()), []).append(value)
    several = set(open_ended)
    taken = {
        key: sum(1 << atom for atom, holds in enumerate(groups) if holds[number]) for number, key in enumerate(held)
    }
    single = sum(
        1 << atom for atom, own in enumerate(groups.values()) if len(own) == 1 and not several.intersection(own)
    )
    return Atoms(examples=tuple(map(tuple, groups.values())), single=single, taken=taken)
