"""Connections followed through both sides' rules at once, from the first packet on, and where the two part."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from rulesets.equivalence.answers import cells
from rulesets.equivalence.nodes import Node
from rulesets.equivalence.packets import Connection, another, answer, looped, reset
from rulesets.equivalence.passage import Passages
from rulesets.equivalence.possible import possible_first, possible_later
from rulesets.equivalence.sameness import What, differences, mixed
from rulesets.equivalence.space import Role, Space
from rulesets.equivalence.terms import Free, Header, Term, Trip
from rulesets.packet import Fate
from rulesets.vocabulary import ConnState, Hook, RejectWith


class Moment(StrEnum):
    """Which packet of a connection it is."""

    FIRST = "first packet"
    ANSWER = "answer"
    ANOTHER = "later packet"
    RESET = "reset"


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A packet on both sides, where it can be there, and what came before.

    `before` is the scene that it follows from, and where that one had to be; `renamed` are the variables of that one
    that stand here for what it left on the connection.
    """

    moment: Moment
    headers: tuple[Header, Header]
    where: Node
    loops: bool = False
    connections: tuple[Connection, Connection] | None = None
    before: "tuple[Scene, Node] | None" = None
    renamed: Mapping[int, int] = field(default_factory=dict)

    @property
    def same_packet(self) -> bool:
        """Whether it is about the packet of the scene before, or about what the kernel makes of that."""
        return self.loops or self.moment is Moment.RESET


@dataclass(frozen=True, kw_only=True, eq=False)
class Parting:
    """Where two sides treat a packet differently: how, and in what at which values.

    `sides` are the numbers of each side's rulesets.
    """

    scene: Scene
    sides: tuple[tuple[int, ...], tuple[int, ...]]
    trips: tuple[Trip, Trip]
    what: Mapping[What, Node]


@dataclass(kw_only=True)
class Followed:
    """What came of following: how many cells, how many of them unknown and why, and where the sides part."""

    cells: int = 0
    unknown: int = 0
    reasons: dict[str, None] = field(default_factory=dict)
    partings: list[Parting] = field(default_factory=list)


class Story:
    """The connections of one kind, on both sides."""

    def __init__(self, space: Space, sides: tuple[Passages, Passages]) -> None:
        """Take both sides' rules."""
        self._space = space
        self._sides = sides
        self._waiting: deque[Scene] = deque()
        self._seen: dict[object, Node] = {}
        self._found = Followed()

    def follow(self) -> Followed:
        """Follow every connection until its packets meet nothing new."""
        first = self._space.first()
        self._waiting.append(Scene(moment=Moment.FIRST, headers=(first, first), where=possible_first(self._space)))
        while self._waiting:
            self._act(self._waiting.popleft())
        return self._found

    def _act(self, scene: Scene) -> None:
        diagrams = self._space.diagrams
        key = (scene.moment, scene.headers, scene.connections)
        seen = self._seen.get(key, diagrams.no)
        where = diagrams.without(scene.where, seen)
        if where is diagrams.no:
            return
        self._seen[key] = diagrams.either(seen, where)
        scene = replace(scene, where=where)
        trips = tuple(side.through(header) for side, header in zip(self._sides, scene.headers, strict=True))

        def together(possible: bool, one: object, other: object) -> Node:
            return diagrams.leaf((one, other)) if possible else diagrams.no

        both = diagrams.joined((where, *trips), together)
        self._found.cells += cells(both, lambda value: value is not False)
        for leaf, there in diagrams.regions(both).items():
            if isinstance(leaf.value, tuple):
                self._compare(scene, there, *leaf.value)

    def _compare(self, scene: Scene, there: Node, one: Trip, other: Trip) -> None:
        diagrams = self._space.diagrams
        reason = one.unknown or other.unknown or mixed(one) or mixed(other)
        if reason:
            self._found.unknown += cells(there, bool)
            self._found.reasons[reason] = None
            return
        began = scene.before[0].headers if scene.loops and scene.before else scene.headers
        what = {
            what: diagrams.both(there, differ)
            for what, differ in differences(self._space, scene.headers, one, other, began=began).items()
        }
        if What.CONNECTION_MARK in what:
            # What goes on by lo gets its mark on either side of it; it is compared when it has arrived.
            what[What.CONNECTION_MARK] = diagrams.without(what[What.CONNECTION_MARK], self._by_lo(one, other))
        what = {each: differ for each, differ in what.items() if differ is not diagrams.no}
        if what:
            scene = replace(scene, where=there)
            numbers = (self._sides[0].numbers, self._sides[1].numbers)
            self._found.partings.append(Parting(scene=scene, sides=numbers, trips=(one, other), what=what))
        self._waiting.extend(
            each for each in self._following(scene, there, one, other) if each.where is not diagrams.no
        )

    def _following(self, scene: Scene, there: Node, one: Trip, other: Trip) -> Iterator[Scene]:
        """Yield what comes next where both sides have let a packet pass to the same place, or refused it alike."""
        diagrams, space = self._space.diagrams, self._space
        if one.fate is not other.fate:
            return
        if (
            one.fate is Fate.REFUSED
            and one.reply == other.reply == RejectWith.TCP_RESET
            and scene.moment is Moment.FIRST
        ):
            if space.kind.state is ConnState.NEW:
                flags = space.free(Role.LATER, "tcp_flags").variable
                resets = diagrams.both(there, diagrams.among(flags, space.flags.taken["resets"]))
                headers = (reset(space, one.header), reset(space, other.header))
                lo = diagrams.among(space.free(Role.LATER, "out_interface").variable, 1 << space.loopback.atom)
                resets = diagrams.without(resets, lo)
                yield Scene(moment=Moment.RESET, headers=headers, where=resets, before=(scene, there))
            return
        if one.fate is not Fate.ACCEPTED or scene.moment is Moment.RESET:
            return
        if one.header.hook is Hook.OUTPUT:
            out = [self._leaves_by_lo(each) for each in (one, other)]
            by_lo = self._by_lo(one, other)
            headers = (looped(space, one.header), looped(space, other.header))
            where = diagrams.both(there, by_lo)
            yield replace(scene, headers=headers, where=where, loops=True, before=(scene, where), renamed={})
            there = diagrams.without(there, diagrams.either(*out))
        if space.kind.state is ConnState.NEW and {one.header.state, other.header.state} <= _TRACKED:
            yield from self._next_packet(scene, there, one, other)

    def _leaves_by_lo(self, trip: Trip) -> Node:
        sent = trip.fate is Fate.ACCEPTED and trip.header.hook is Hook.OUTPUT
        out = trip.header.out_interface if sent else None
        return self._space.is_among(out, 1 << self._space.loopback.atom)

    def _by_lo(self, one: Trip, other: Trip) -> Node:
        return self._space.diagrams.both(self._leaves_by_lo(one), self._leaves_by_lo(other))

    def _next_packet(self, scene: Scene, there: Node, one: Trip, other: Trip) -> Iterator[Scene]:
        connections = self._connections(scene, one, other)
        if connections[0].answered_here is not connections[1].answered_here or there is self._space.diagrams.no:
            return
        carried = self._carried(there, connections)
        if carried is None:
            return
        where, connections, renamed = carried
        answering = scene.moment is not Moment.ANSWER
        made = answer if answering else another
        headers = (made(self._space, connections[0]), made(self._space, connections[1]))
        yield Scene(
            moment=Moment.ANSWER if answering else Moment.ANOTHER,
            headers=headers,
            where=self._space.diagrams.both(where, possible_later(self._space, headers[0])),
            connections=connections,
            before=(scene, there),
            renamed=renamed,
        )

    def _connections(self, scene: Scene, one: Trip, other: Trip) -> tuple[Connection, Connection]:
        if scene.connections is not None:
            first, second = scene.connections
            return (
                replace(first, mark=one.header.connection_mark),
                replace(second, mark=other.header.connection_mark),
            )
        begun = scene.before[0] if scene.loops and scene.before else scene
        made = [
            Connection(first=first, last=trip.header, looped=scene.loops, mark=trip.header.connection_mark)
            for first, trip in zip(begun.headers, (one, other), strict=True)
        ]
        return made[0], made[1]

    def _carried(
        self, there: Node, connections: tuple[Connection, Connection]
    ) -> tuple[Node, tuple[Connection, Connection], dict[int, int]] | None:
        """Return the next packet's possible values: of this one's only what it left on the connection stays.

        None is where the two sides left there what two different packets bore.
        """
        names: dict[int, int] = {}
        gone = {at for at, each in enumerate(self._space.variables) if each.role is not Role.FIRST}
        for number in range(len(self._space.marks.masks)):
            left = self._space.free(Role.LEFT, "mark", number).variable
            later = self._space.free(Role.LATER, "mark", number).variable
            meant = {term.variable for each in connections if isinstance(term := each.mark[number], Free)}
            if {left, later} <= meant:
                return None
            gone -= {left, later} & meant
            if later in meant:
                names[later] = left
        where = self._space.diagrams.renamed(self._space.diagrams.forget(there, gone), names)
        made = [replace(each, mark=tuple(_renamed(term, names) for term in each.mark)) for each in connections]
        return where, (made[0], made[1]), names


_TRACKED = {ConnState.NEW, ConnState.ESTABLISHED}


def _renamed(term: Term, names: Mapping[int, int]) -> Term:
    if isinstance(term, Free) and term.variable in names:
        return Free(names[term.variable], term.flip)
    return term
