"""What a decision diagram says: its values, the boxes that it cuts the variables into, the cheapest example."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

from rulesets.equivalence.atoms import bits
from rulesets.equivalence.nodes import Node, width_of

Segment = tuple[int, int, Node]
"""Atoms of a variable from one number to another, and how a function goes on for them."""


def value_at(function: Node, atoms: Mapping[int, int]) -> Hashable:
    """Return the value of a function where its variables are these atoms."""
    while function.edges:
        digit = atoms[function.variable] >> function.level.shift & function.level.low
        function = next(child for mask, child in function.edges if mask >> digit & 1)
    return function.value


def leaves(function: Node) -> list[Hashable]:
    """Return the values that a function takes, each once."""
    seen: set[Node] = set()
    found: list[Hashable] = []
    waiting = [function]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            if not node.edges:
                found.append(node.value)
            waiting += [child for _, child in reversed(node.edges)]
    return found


def cells(function: Node, counts: Callable[[Hashable], bool]) -> int:
    """Return into how many boxes a function cuts the values of its variables; those whose value counts."""
    done: dict[Node, int] = {}

    def walk(node: Node) -> int:
        if node not in done:
            done[node] = sum(map(walk, _behind(node))) if node.edges else int(counts(node.value))
        return done[node]

    return walk(function)


def cheapest(condition: Node, costs: Sequence[Sequence[int]]) -> dict[int, int]:
    """Return the atom of each variable asked for where a condition holds at the least cost; it holds somewhere.

    `costs` has, for each variable, what each of its atoms costs; the cheapest of a variable should cost nothing.
    """
    ways: dict[Node, tuple[int, int, Node] | None] = {}  # what the cheapest way costs, and its first step

    def cost(node: Node) -> int | None:
        if not node.edges:
            return 0 if node.value is True else None
        if node not in ways:
            own = costs[node.variable]
            cheap: dict[Node, tuple[int, int]] = {}
            for first, last, child in segments(node, len(own)):
                here = min((own[atom], atom) for atom in range(first, last + 1))
                cheap[child] = min(cheap.get(child, here), here)
            found = [
                (price + further, atom, child)
                for child, (price, atom) in cheap.items()
                if (further := cost(child)) is not None
            ]
            ways[node] = min(found, key=lambda way: way[:2], default=None)
        way = ways[node]
        return None if way is None else way[0]

    chosen: dict[int, int] = {}
    cost(condition)
    while (way := ways.get(condition)) is not None:
        _, chosen[condition.variable], condition = way
    return chosen


def segments(node: Node, count: int) -> Iterator[Segment]:
    """Yield how a function goes on for each atom of the variable that it asks for first, of which there are `count`."""
    variable = node.variable

    def walk(at: Node, bits_left: int, base: int) -> Iterator[Segment]:
        """Yield what a digit leads to; `bits_left` are those of the atom's number that are still open."""
        if base >= count:
            return
        if at.variable != variable:
            yield base, min(base + (1 << bits_left), count) - 1, at
            return
        width = at.level.low.bit_length()
        for above in range(1 << bits_left - at.level.shift - width):  # digits that are not asked for
            here = base + (above << at.level.shift + width)
            for mask, child in at.edges:
                for digit in bits(mask):
                    yield from walk(child, at.level.shift, here + (digit << at.level.shift))

    yield from walk(node, width_of(count), 0)


def _behind(node: Node) -> dict[Node, None]:
    """Return the functions of other variables that a node's variable leads to, each once."""
    found: dict[Node, None] = dict.fromkeys(child for _, child in node.edges)
    if all(child.level.variable != node.level.variable for child in found):
        return found
    found = {}
    seen = {node}
    waiting = [node]
    while waiting:
        for _, child in waiting.pop().edges:
            if child.variable != node.variable:
                found[child] = None
            elif child not in seen:
                seen.add(child)
                waiting.append(child)
    return found
