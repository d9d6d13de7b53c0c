"""Decision diagrams: a function of several variables with few values each, every function being one node alone.

A node asks for one variable and has an edge for each group of its atoms that go the same way; groups are bit masks.
Variables are asked for by rising number, and equal nodes are one node, so that two functions are equal when they are
the same object (Bryant, Graph-based algorithms for Boolean function manipulation, 1986, with many-valued variables).
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Final

from rulesets.equivalence.atoms import bits

_LAST: Final = 1 << 30  # behind every variable: where leaves stand


class Node:
    """A function: a leaf with its value, or a variable with a function for each group of its atoms."""

    __slots__ = ("edges", "value", "variable")

    def __init__(self, variable: int, edges: tuple[tuple[int, "Node"], ...], value: Hashable) -> None:
        """Only `Diagrams` makes nodes: it knows those that are there."""
        self.variable = variable
        self.edges = edges
        self.value = value


class TooLarge(Exception):
    """More nodes were needed than the caller allows."""


class Diagrams:
    """The nodes that are there, and what can be made of them. `atoms` is how many values each variable has."""

    def __init__(self, atoms: Sequence[int], most_nodes: int) -> None:
        """Start empty; more than `most_nodes` raise `TooLarge`."""
        self._all = [(1 << count) - 1 for count in atoms]
        self._most = most_nodes
        self._nodes: dict[Hashable, Node] = {}
        self._chosen: dict[tuple[Node, Node, Node], Node] = {}
        self.yes, self.no = self.leaf(True), self.leaf(False)

    @property
    def size(self) -> int:
        """How many nodes there are."""
        return len(self._nodes)

    def all_of(self, variable: int) -> int:
        """Return the mask of all atoms of a variable."""
        return self._all[variable]

    def leaf(self, value: Hashable) -> Node:
        """Return the function that is this value everywhere. Values of different types are different."""
        return self._kept((type(value), value), _LAST, (), value)

    def _kept(self, key: Hashable, variable: int, edges: tuple[tuple[int, Node], ...], value: Hashable) -> Node:
        found = self._nodes.get(key)
        if found is None:
            if len(self._nodes) >= self._most:
                raise TooLarge
            found = self._nodes[key] = Node(variable, edges, value)
        return found

    def node(self, variable: int, parts: Iterable[tuple[int, Node]]) -> Node:
        """Return the function that goes on as one of `parts`; their masks cover all atoms and don't overlap."""
        merged: dict[Node, int] = {}
        for mask, child in parts:
            if mask:
                merged[child] = merged.get(child, 0) | mask
        if len(merged) == 1:
            return next(iter(merged))
        edges = tuple(sorted(((mask, child) for child, mask in merged.items()), key=lambda edge: edge[0]))
        return self._kept((variable, edges), variable, edges, None)

    def among(self, variable: int, mask: int) -> Node:
        """Return whether a variable's value is one of some atoms."""
        full = self._all[variable]
        return self.node(variable, ((mask & full, self.yes), (full & ~mask, self.no)))

    def choose(self, condition: Node, then: Node, otherwise: Node) -> Node:
        """Return one function where the condition holds and another where it doesn't."""
        if condition is self.yes or then is otherwise:
            return then
        if condition is self.no:
            return otherwise
        key = (condition, then, otherwise)
        found = self._chosen.get(key)
        if found is None:
            variable = min(condition.variable, then.variable, otherwise.variable)
            parts = [
                (mask, self.choose(*children)) for mask, children in self._split(variable, (condition, then, otherwise))
            ]
            found = self._chosen[key] = self.node(variable, parts)
        return found

    def _split(self, variable: int, functions: Sequence[Node]) -> list[tuple[int, tuple[Node, ...]]]:
        """Return, for each group of atoms that all functions treat alike, how each goes on."""
        parts: list[tuple[int, tuple[Node, ...]]] = [(self._all[variable], ())]
        for each in functions:
            if each.variable != variable:
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
                variable = min(each.variable for each in nodes)
                if variable == _LAST:
                    found = leaf(*(each.value for each in nodes))
                else:
                    found = self.node(variable, [(mask, join(parts)) for mask, parts in self._split(variable, nodes)])
                done[nodes] = found
            return found

        return join(tuple(functions))

    def forget(self, condition: Node, variables: Collection[int]) -> Node:
        """Return where a condition holds for at least one value of some variables."""
        done: dict[Node, Node] = {}

        def walk(node: Node) -> Node:
            if not node.edges:
                return node
            found = done.get(node)
            if found is None:
                parts = [(mask, walk(child)) for mask, child in node.edges]
                if node.variable in variables:
                    found = self.no
                    for _, child in parts:
                        found = self.either(found, child)
                else:
                    found = self.node(node.variable, parts)
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
                variable = names.get(node.variable, node.variable)
                done[node] = self.node(variable, [(mask, walk(child)) for mask, child in node.edges])
            return done[node]

        return walk(function)


def value_at(function: Node, atoms: Mapping[int, int]) -> Hashable:
    """Return the value of a function where its variables are these atoms."""
    while function.edges:
        atom = atoms[function.variable]
        function = next(child for mask, child in function.edges if mask >> atom & 1)
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
            done[node] = sum(walk(child) for _, child in node.edges) if node.edges else int(counts(node.value))
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
            found = []
            for mask, child in node.edges:
                further = cost(child)
                if further is not None:
                    own, atom = min((costs[node.variable][atom], atom) for atom in bits(mask))
                    found.append((own + further, atom, child))
            ways[node] = min(found, key=lambda way: way[:2], default=None)
        way = ways[node]
        return None if way is None else way[0]

    chosen: dict[int, int] = {}
    cost(condition)
    while (way := ways.get(condition)) is not None:
        _, chosen[condition.variable], condition = way
    return chosen
