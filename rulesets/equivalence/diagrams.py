"""Decision diagrams: a function of several variables, every function being one node alone.

A node asks for one variable and has an edge for each group of its atoms that go the same way; groups are bit masks.
Variables are asked for by rising number, and equal nodes are one node, so that two functions are equal when they are
the same object (Bryant, Graph-based algorithms for Boolean function manipulation, 1986, with many-valued variables).

A variable of many atoms is asked for digit by digit of the atom's number, the highest first: a test of one atom among
thousands is then a few small nodes, and what many rules make of an address takes memory by their number, not by its
square. Numbers above the last atom's go the way of that one, so that equal functions stay one node.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from rulesets.equivalence.limits import MOST_NODES, TooLarge, Work
from rulesets.equivalence.nodes import DIGIT, LEAF, MOST_AT_ONCE, Level, Node, width_of

_MOST_REMEMBERED: Final = 400_000  # results that are kept to be found again: about 100 MB
_MOST_TESTS: Final = 10_000  # likewise; one of many atoms may have a large mask


class Diagrams:
    """The nodes that are there, and what can be made of them. `atoms` is how many values each variable has."""

    def __init__(self, atoms: Sequence[int], most_nodes: int = MOST_NODES, work: Work | None = None) -> None:
        """Start empty; more than `most_nodes` raise `TooLarge`, as more steps than `work` may have do."""
        self._counts = tuple(atoms)
        self._levels: list[Level] = []
        self._of: list[tuple[Level, ...]] = [self._asked(variable, count) for variable, count in enumerate(atoms)]
        self._most = most_nodes
        self._work = work or Work()
        self._nodes: dict[Hashable, Node] = {}
        self._chosen: dict[tuple[Node, Node, Node], Node] = {}
        self._tests: dict[tuple[int, int], Node] = {}
        self._kept_beside = 0
        self.yes, self.no = self.leaf(True), self.leaf(False)

    def _asked(self, variable: int, count: int) -> tuple[Level, ...]:
        """Add the levels of a variable, and return them."""
        highest, width = max(count - 1, 0), width_of(count)
        digit = width if count <= MOST_AT_ONCE else DIGIT
        shifts, low = range(width - digit, -1, -digit), (1 << digit) - 1
        made: list[Level] = []
        for shift in shifts:
            most = highest >> shift if shift == shifts[0] else low
            made.append(
                Level(
                    number=len(self._levels) + len(made),
                    variable=variable,
                    shift=shift,
                    low=low,
                    all=(1 << most + 1) - 1,
                )
            )
        self._levels += made
        return tuple(made)

    @property
    def size(self) -> int:
        """How many nodes there are."""
        return len(self._nodes)

    def keep(self, count: int) -> None:
        """Count what somebody keeps beside the nodes, each about as large as one. Raises `TooLarge`."""
        self._kept_beside += count
        self._refuse_more()

    def step(self, count: int = 1) -> None:
        """Count some steps. Raises `TooLarge`."""
        self._work.step(count)

    def _refuse_more(self) -> None:
        if len(self._nodes) + self._kept_beside >= self._most:
            raise TooLarge(f"more than {self._most} nodes in memory")

    def leaf(self, value: Hashable) -> Node:
        """Return the function that is this value everywhere. Values of different types are different."""
        return self._kept((type(value), value), LEAF, (), value)

    def _kept(self, key: Hashable, level: Level, edges: tuple[tuple[int, Node], ...], value: Hashable) -> Node:
        found = self._nodes.get(key)
        if found is None:
            self._refuse_more()
            self._work.step()
            found = self._nodes[key] = Node(level, edges, value)
        return found

    def _node(self, number: int, parts: Iterable[tuple[int, Node]]) -> Node:
        """Return the function that goes on as one of `parts`; their masks cover all digits and don't overlap."""
        merged: dict[Node, int] = {}
        for mask, child in parts:
            if mask:
                merged[child] = merged.get(child, 0) | mask
        if len(merged) == 1:
            return next(iter(merged))
        edges = tuple(sorted([(mask, child) for child, mask in merged.items()]))  # the masks are all different
        return self._kept((number, edges), self._levels[number], edges, None)

    def among(self, variable: int, mask: int) -> Node:
        """Return whether a variable's value is one of some atoms."""
        found = self._tests.get((variable, mask))
        if found is None:
            count, levels = self._counts[variable], self._of[variable]
            wanted = mask & (1 << count) - 1
            if len(levels) > 1 and wanted >> count - 1 & 1:
                numbers = (levels[0].all.bit_length()) << levels[0].shift
                wanted |= (1 << numbers) - (1 << count)
            found = self._masked(levels, 0, wanted)
            if len(self._tests) >= _MOST_TESTS:
                self._tests.clear()
            self._tests[variable, mask] = found
        return found

    def _masked(self, levels: tuple[Level, ...], depth: int, mask: int) -> Node:
        level = levels[depth]
        if level.shift == 0:
            return self._node(level.number, ((mask & level.all, self.yes), (level.all & ~mask, self.no)))
        size = 1 << level.shift
        whole = (1 << size) - 1
        parts = []
        for digit in range(level.all.bit_length()):
            part = mask >> digit * size & whole
            child = self.yes if part == whole else self._masked(levels, depth + 1, part) if part else self.no
            parts.append((1 << digit, child))
        return self._node(level.number, parts)

    def at_points(self, variable: int, functions: Mapping[int, Node]) -> Node:
        """Return the function that goes on as these for some atoms of a variable, and doesn't hold for the others.

        The functions are of variables that are asked for later.
        """
        count, levels = self._counts[variable], self._of[variable]

        def below(depth: int, base: int, atoms: Sequence[int]) -> Node:
            if base >= count:
                return functions.get(count - 1, self.no)
            if depth == len(levels):
                return functions[base] if atoms else self.no
            last = base + (1 << levels[depth].shift) * levels[depth].all.bit_length() > count
            if not atoms and not last:
                return self.no
            by_digit: dict[int, list[int]] = {}
            for atom in atoms:
                by_digit.setdefault(atom - base >> levels[depth].shift, []).append(atom)
            parts = [
                (1 << digit, below(depth + 1, base + (digit << levels[depth].shift), by_digit.get(digit, [])))
                for digit in range(levels[depth].all.bit_length())
            ]
            return self._node(levels[depth].number, parts)

        return below(0, 0, sorted(functions))

    def choose(self, condition: Node, then: Node, otherwise: Node) -> Node:
        """Return one function where the condition holds and another where it doesn't."""
        if condition is self.yes or then is otherwise:
            return then
        if condition is self.no:
            return otherwise
        key = (condition, then, otherwise)
        found = self._chosen.get(key)
        if found is None:
            self._work.step()
            number = min(condition.number, then.number, otherwise.number)
            parts = [
                (mask, self.choose(*children)) for mask, children in self._split(number, (condition, then, otherwise))
            ]
            if len(self._chosen) >= _MOST_REMEMBERED:
                self._chosen.clear()
            found = self._chosen[key] = self._node(number, parts)
        return found

    def _split(self, number: int, functions: Sequence[Node]) -> list[tuple[int, tuple[Node, ...]]]:
        """Return, for each group of digits that all functions treat alike, how each goes on."""
        parts: list[tuple[int, tuple[Node, ...]]] = [(self._levels[number].all, ())]
        for each in functions:
            if each.number != number:
                parts = [(mask, (*children, each)) for mask, children in parts]
            else:
                parts = [
                    (mask & group, (*children, child))
                    for mask, children in parts
                    for group, child in each.edges
                    if mask & group
                ]
        return parts

    def both(self, first: Node, second: Node) -> Node:
        """Return where both conditions hold."""
        return self.choose(first, second, self.no)

    def either(self, first: Node, second: Node) -> Node:
        """Return where at least one of two conditions holds."""
        return self.choose(first, self.yes, second)

    def without(self, first: Node, second: Node) -> Node:
        """Return where the first condition holds and the second doesn't."""
        return self.choose(second, self.no, first)

    def negation(self, condition: Node) -> Node:
        """Return where a condition doesn't hold."""
        return self.choose(condition, self.no, self.yes)

    def joined(self, functions: Sequence[Node], leaf: Callable[..., Node]) -> Node:
        """Return the function of what several functions are together; `leaf` makes it of one value of each."""
        done: dict[tuple[Node, ...], Node] = {}

        def join(nodes: tuple[Node, ...]) -> Node:
            found = done.get(nodes)
            if found is None:
                self._work.step()
                number = min(each.number for each in nodes)
                if number == LEAF.number:
                    found = leaf(*(each.value for each in nodes))
                else:
                    found = self._node(number, [(mask, join(parts)) for mask, parts in self._split(number, nodes)])
                if len(done) >= self._most:
                    raise TooLarge(f"more than {self._most} nodes in memory")
                done[nodes] = found
            return found

        return join(tuple(functions))

    def regions(self, function: Node) -> dict[Node, Node]:
        """Return where a function takes each of its values, by the leaf of the value."""
        done: dict[Node, dict[Node, Node]] = {}

        def walk(node: Node) -> dict[Node, Node]:
            if not node.edges:
                return {node: self.yes}
            found = done.get(node)
            if found is None:
                parts: dict[Node, list[tuple[int, Node]]] = {}
                for mask, child in node.edges:
                    for leaf, where in walk(child).items():
                        parts.setdefault(leaf, []).append((mask, where))
                self.step(len(parts))
                found = done[node] = {
                    leaf: self._node(node.number, self._whole(node.level, some)) for leaf, some in parts.items()
                }
            return found

        return walk(function)

    def _whole(self, level: Level, parts: Sequence[tuple[int, Node]]) -> Iterator[tuple[int, Node]]:
        """Yield parts, and where none is: nothing holds there."""
        yield from parts
        yield level.all & ~sum(mask for mask, _ in parts), self.no

    def forget(self, condition: Node, variables: Collection[int]) -> Node:
        """Return where a condition holds for at least one value of some variables."""
        done: dict[Node, Node] = {}

        def walk(node: Node) -> Node:
            if not node.edges:
                return node
            found = done.get(node)
            if found is None:
                self._work.step()
                parts = [(mask, walk(child)) for mask, child in node.edges]
                if node.variable in variables:
                    found = self.no
                    for _, child in parts:
                        found = self.either(found, child)
                else:
                    found = self._node(node.number, parts)
                done[node] = found
            return found

        return walk(condition)

    def renamed(self, function: Node, names: Mapping[int, int]) -> Node:
        """Return the function of other variables. They keep their order, and have the same atoms."""
        done: dict[Node, Node] = {}

        def walk(node: Node) -> Node:
            if not node.edges:
                return node
            if node not in done:
                self._work.step()
                number = self._renumbered(node.level, names)
                done[node] = self._node(number, [(mask, walk(child)) for mask, child in node.edges])
            return done[node]

        return walk(function)

    def _renumbered(self, level: Level, names: Mapping[int, int]) -> int:
        if level.variable not in names:
            return level.number
        levels = self._of[level.variable]
        return self._of[names[level.variable]][level.number - levels[0].number].number
