"""The nodes of decision diagrams, and the digits that they ask for."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

MOST_AT_ONCE: Final = 64  # atoms that are asked for at one go
DIGIT: Final = 4  # bits of an atom's number otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What a node asks: the digit of the number of a variable's atom that begins `shift` bits up.

    `low` is the mask of a digit, `all` that of the digits that there are, `number` the place in the order.
    """

    number: int
    variable: int
    shift: int
    low: int
    all: int


def width_of(count: int) -> int:
    """Return how many bits the digits of an atom's number have together, where there are so many atoms."""
    bits = max(count - 1, 1).bit_length()
    return bits if count <= MOST_AT_ONCE else -(-bits // DIGIT) * DIGIT


LEAF: Final = Level(number=1 << 30, variable=1 << 30, shift=0, low=0, all=0)  # behind every variable


class Node:
    """A function: a leaf with its value, or a digit of a variable with a function for each group of its values."""

    __slots__ = ("edges", "level", "number", "value")

    def __init__(self, level: Level, edges: tuple[tuple[int, "Node"], ...], value: Hashable) -> None:
        """Only `Diagrams` makes nodes: it knows those that are there."""
        self.level = level
        self.number = level.number
        self.edges = edges
        self.value = value

    @property
    def variable(self) -> int:
        """The variable that is asked for."""
        return self.level.variable
