"""The values of one header field, cut into atoms: values that no match of either ruleset tells apart."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rulesets.equivalence.limits import MOST_ATOMS, TooLarge, Work

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


class Masks(Mapping[Hashable, int]):
    """Masks by key, each made when it is asked for: as many masks as atoms would take the square of the memory."""

    def __init__(self, atoms: Mapping[Hashable, Sequence[int]]) -> None:
        """Take the numbers of the atoms of each key."""
        self._atoms = atoms

    def __getitem__(self, key: Hashable) -> int:
        return mask_of(self._atoms[key])

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._atoms)

    def __len__(self) -> int:
        return len(self._atoms)


Span = tuple[int, int]


def cut(
    spans: Mapping[Hashable, Iterable[Span]], whole: Sequence[Span], preferred: Sequence[int], work: Work
) -> Atoms[int]:
    """Cut whole numbers at the ends of spans, so that each key's spans are some of the atoms.

    `whole` is what values there are, rising. Pieces that lie in the same spans are one atom. The examples of an atom
    are those of `preferred` that lie in it, in their order, and then the ends of its pieces. Raises `TooLarge`.
    """
    turns: dict[int, list[int]] = {}
    keys = list(spans)
    for number, key in enumerate(keys):
        for first, last in spans[key]:
            turns.setdefault(first, []).append(number)
            turns.setdefault(last + 1, []).append(number)
    for first, last in whole:
        turns.setdefault(first, [])
        turns.setdefault(last + 1, [])
    pieces: dict[frozenset[int], list[Span]] = {}
    inside: set[int] = set()
    ends = sorted(turns)
    for at, following in zip(ends, [*ends[1:], ends[-1]], strict=True):
        for number in turns[at]:
            inside ^= {number}
        work.step(1 + len(inside))
        if any(first <= at <= last for first, last in whole):
            pieces.setdefault(frozenset(inside), []).append((at, following - 1))
    if len(pieces) > MOST_ATOMS:
        raise TooLarge(f"more than {MOST_ATOMS} addresses, networks or ports that are told apart")
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


def mask_of(numbers: Sequence[int]) -> int:
    """Return the mask of the bits of these numbers."""
    if len(numbers) < 8:
        return sum(1 << number for number in numbers)
    octets = bytearray(max(numbers) // 8 + 1)
    for number in numbers:
        octets[number >> 3] |= 1 << (number & 7)
    return int.from_bytes(octets, "little")


def _atoms(
    keys: Sequence[Hashable], pieces: Mapping[frozenset[int], list[Span]], preferred: Sequence[int]
) -> Atoms[int]:
    taken: dict[Hashable, list[int]] = {key: [] for key in keys}
    examples = []
    single = []
    for atom, (inside, own) in enumerate(pieces.items()):
        for number in inside:
            taken[keys[number]].append(atom)
        if len(own) == 1 and own[0][0] == own[0][1]:
            single.append(atom)
        liked = [value for value in preferred if any(first <= value <= last for first, last in own)]
        examples.append((*liked, *dict.fromkeys(value for first, last in own[:8] for value in _some(first, last))))
    return Atoms(examples=tuple(examples), single=mask_of(single), taken=Masks(taken))


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
