"""Every kind of packet compared in turn, and what is said of it in the end."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from rulesets.equivalence.limits import TooLarge, Work, largest
from rulesets.equivalence.mentions import Mentions
from rulesets.equivalence.passage import Passages
from rulesets.equivalence.runs import merged, unmerged
from rulesets.equivalence.sameness import What
from rulesets.equivalence.space import Kind, Space, Way
from rulesets.equivalence.story import Followed, Parting, Story
from rulesets.equivalence.terms import RuleAt, Trip
from rulesets.equivalence.wanted import WANTED, Case, classify
from rulesets.equivalence.witness import Witness, find
from rulesets.model import Rule, Ruleset
from rulesets.packet import Packet, walk_together
from rulesets.vocabulary import ConnState, Family, InIpset, Protocol

_PROTOCOLS = {
    Family.IPV4: (Protocol.TCP, Protocol.UDP, Protocol.ICMP),
    Family.IPV6: (Protocol.TCP, Protocol.UDP, Protocol.ICMPV6),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """The rule that decided on one side: its table, chain and number there from 1; 0 is the chain's policy.

    `rule` is None for a policy, and for the end of the chains, where all names are empty.
    """

    table: str = ""
    chain: str = ""
    number: int = 0
    rule: Rule | None = None

    @property
    def place(self) -> tuple[str, str, int]:
        """Where it stands."""
        return self.table, self.chain, self.number

    def __str__(self) -> str:
        if not self.chain:
            return "no rule"
        if self.rule is None:
            return f"{self.chain}: policy"
        return f"{self.chain}: {self.rule.slug or f'rule {self.number}'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A way in which two sides differ: the plainest packet, the rule of each side that decided, and in what.

    `wanted` is the slug of the wanted difference that it is, empty where it is none.
    """

    witness: Witness
    what: What
    a_decided: Decided
    b_decided: Decided
    wanted: str = ""

    def __str__(self) -> str:
        return f"{self.witness}: {self.what} by {self.a_decided}, and by {self.b_decided}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Equal:
    """Every packet fares alike, but for the differences that were expected. `cells` is how many kinds there are."""

    cells: int
    expected: tuple[Difference, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Differs:
    """Some packets fare differently, in these ways, the plainest first; of `unknown` cells nobody can say."""

    cells: int
    differences: tuple[Difference, ...]
    expected: tuple[Difference, ...] = ()
    unknown: int = 0
    reasons: tuple[str, ...] = ()

    @property
    def witness(self) -> Witness:
        """The plainest packet that fares differently."""
        return self.differences[0].witness

    @property
    def what(self) -> What:
        """In what it does."""
        return self.differences[0].what

    @property
    def a_decided(self) -> Decided:
        """The rule that decides on the first side."""
        return self.differences[0].a_decided

    @property
    def b_decided(self) -> Decided:
        """The rule that decides on the second side."""
        return self.differences[0].b_decided


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """No packet is known to fare differently, but of `unknown` cells nobody can say, for these reasons."""

    cells: int
    unknown: int
    reasons: tuple[str, ...]
    expected: tuple[Difference, ...] = ()


Proof = Equal | Differs | Unknown
Side = Ruleset | Sequence[Ruleset]
"""One ruleset, or several that are in force at once."""


def prove(a: Side, b: Side, *, expected: Collection[str] = ()) -> Proof:
    """Tell whether two sides treat all packets alike. `expected` are slugs of wanted differences, `a` is Weir's then.

    Connections are followed from the first packet until nothing new can happen to one of theirs, translated at each
    hook as the kernel does it. What rules don't say can't be compared: routes, listeners, what an ipset holds. Where
    it would cost more than `limits` allows the answer is unknown, and names the limit.
    """
    for slug in expected:
        if slug not in WANTED:
            raise ValueError(f"no difference is called {slug!r}; there are {', '.join(WANTED)}")
    first, rulesets = side_of(a), (*side_of(a), *side_of(b))
    cells = unknown = 0
    work = Work()
    reasons: dict[str, None] = {}
    found: dict[object, Difference] = {}
    for kind, mentions in kinds(rulesets, work):
        try:
            work.step()
            followed, differences = _compared(kind, mentions, len(first))
        except (TooLarge, RecursionError) as error:
            if _the_same(first, rulesets[len(first) :]):
                cells += 1
                continue
            unknown += 1
            why = "chains lead to one another too deeply" if isinstance(error, RecursionError) else str(error)
            reasons[f"too much to compare: {why}; {largest(rulesets)}"] = None
            continue
        cells += followed.cells
        unknown += followed.unknown
        reasons |= followed.reasons
        for each in differences:
            key = (each.wanted, each.what, each.a_decided.place, each.b_decided.place)
            if key not in found or each.witness.oddity < found[key].witness.oddity:
                found[key] = each
    unread = [each.verbatim for ruleset in rulesets for each in ruleset.foreign]
    unknown += len(unread)
    reasons |= dict.fromkeys(f"a table holds what can't be read: {each}" for each in unread)
    ordered = sorted(found.values(), key=lambda each: each.witness.oddity)
    known = tuple(each for each in ordered if each.wanted in expected)
    others = tuple(each for each in ordered if each.wanted not in expected)
    if others:
        return Differs(cells=cells, differences=others, expected=known, unknown=unknown, reasons=tuple(reasons))
    if unknown:
        return Unknown(cells=cells, unknown=unknown, reasons=tuple(reasons), expected=known)
    return Equal(cells=cells, expected=known)


def _the_same(first: tuple[Ruleset, ...], second: tuple[Ruleset, ...]) -> bool:
    """Tell whether two sides are the same rules, of which nothing is left to chance: no packet can fare differently."""
    asked = (match for ruleset in first for rule in ruleset.rules() for match in rule.matches)
    return first == second and not any(isinstance(each, InIpset) for each in asked)


def _compared(kind: Kind, mentions: Mentions, of_first: int) -> tuple[Followed, list[Difference]]:
    space, followed = follow(kind, mentions, of_first, naming=False)
    if not followed.partings:
        return followed, []
    # Once more, remembering the rules that decide, which takes longer.
    space, named = follow(kind, mentions, of_first, naming=True)
    return followed, [each for parting in named.partings for each in explained(space, parting)]


def side_of(side: Side) -> tuple[Ruleset, ...]:
    """Return the rulesets of a side."""
    return (side,) if isinstance(side, Ruleset) else tuple(side)


def kinds(
    rulesets: tuple[Ruleset, ...], work: Work | None = None, *, merging: bool = True
) -> Iterator[tuple[Kind, Mentions]]:
    """Yield the kinds of packets there are, each with what the rulesets mention of it, runs merged or not."""
    known = tuple(merged(each) if merging else unmerged(each) for each in rulesets)
    for family, protocols in _PROTOCOLS.items():
        mentions = Mentions(merged=known, family=family, work=work or Work())
        for protocol in protocols:
            for way in Way:
                yield Kind(way=way, family=family, protocol=protocol), mentions
                if protocol is Protocol.TCP:
                    yield Kind(way=way, family=family, protocol=protocol, state=ConnState.INVALID), mentions


def follow(kind: Kind, mentions: Mentions, of_first: int, *, naming: bool) -> tuple[Space, Followed]:
    """Follow all packets of a kind through both sides' rules; `of_first` rulesets are the first side's."""
    space = Space(kind, mentions)
    a, b = mentions.rulesets[:of_first], mentions.rulesets[of_first:]
    sides = (Passages(space, a, 0, naming=naming), Passages(space, b, of_first, naming=naming))
    return space, Story(space, sides).follow()


def explained(space: Space, parting: Parting) -> Iterator[Difference]:
    """Yield the differences of one parting of ways, each packet with the first respect in which it shows."""
    before = space.diagrams.no
    for what, where in parting.what.items():
        here = space.diagrams.without(where, before)
        before = space.diagrams.either(before, where)
        if here is not space.diagrams.no:
            witness = find(space, parting.scene, here)
            one, other = (
                _decided(space, trip, what, numbers, packet)
                for trip, numbers, packet in zip(parting.trips, parting.sides, witness.passages[-1], strict=True)
            )
            slug = classify(Case(space=space, parting=parting, what=what, mine=one.rule, others=other.rule))
            yield Difference(witness=witness, what=what, a_decided=one, b_decided=other, wanted=slug)


def _decided(space: Space, trip: Trip, what: What, numbers: Sequence[int], packet: Packet) -> Decided:
    """Return the rule that decided about a packet on the side of these rulesets."""
    names = trip.names
    of_what: dict[What, RuleAt | None] = {
        What.FATE: names.fate or names.target,
        What.TARGET: names.target,
        What.MARK: names.mark,
        What.CONNECTION_MARK: names.connection_mark,
        What.ZONE: names.zone,
        What.ROUTE: names.mark,
    }
    at = of_what[what]
    if at is None:
        return Decided()
    merged = space.mentions.merged
    original = merged[at.ruleset].original
    if at.number < 0:
        return Decided(table=original.table, chain=at.chain)
    chain = original.chain(at.chain) or original.regular_chain(at.chain)
    rules, run = chain.rules if chain else (), merged[at.ruleset].places[at.chain][at.number]
    number = run.start
    if len(run) > 1:
        verdict = walk_together(tuple(merged[each].original for each in numbers), packet)
        met = (each.number - 1 for each in verdict.rules if each.chain == at.chain and each.number - 1 in run)
        number = next(met, number)
    return Decided(table=original.table, chain=at.chain, number=number + 1, rule=rules[number])
