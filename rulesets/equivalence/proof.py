"""Every kind of packet compared in turn, and what is said of it in the end."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from rulesets.equivalence.diagrams import TooLarge
from rulesets.equivalence.mentions import Mentions
from rulesets.equivalence.passage import Passages
from rulesets.equivalence.sameness import What
from rulesets.equivalence.space import Kind, Space, Way
from rulesets.equivalence.story import Followed, Parting, Story
from rulesets.equivalence.terms import RuleAt, Trip
from rulesets.equivalence.wanted import WANTED, Case, classify
from rulesets.equivalence.witness import Witness, find
from rulesets.model import Chain, RegularChain, Rule, Ruleset
from rulesets.vocabulary import ConnState, Family, Protocol

MOST_NODES = 2_000_000
"""How large the diagrams of one kind of packets may grow: about 1 GB."""

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

    Connections are followed from the first packet until nothing new can happen to one of theirs. What a table of nft
    doesn't say can't be compared: routes, listeners, and the translation of packets that come after the first.
    """
    for slug in expected:
        if slug not in WANTED:
            raise ValueError(f"no difference is called {slug!r}; there are {', '.join(WANTED)}")
    first, rulesets = side_of(a), (*side_of(a), *side_of(b))
    cells = unknown = 0
    reasons: dict[str, None] = {}
    found: dict[object, Difference] = {}
    for kind, mentions in kinds(rulesets):
        try:
            followed, differences = _compared(kind, mentions, len(first))
        except (TooLarge, RecursionError):
            unknown += 1
            reasons[f"{kind.family} {kind.protocol} {kind.way}: the rules are too many or too deep to compare"] = None
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


def kinds(rulesets: tuple[Ruleset, ...]) -> Iterator[tuple[Kind, Mentions]]:
    """Yield the kinds of packets there are, each with what the rulesets mention of it."""
    for family, protocols in _PROTOCOLS.items():
        for protocol in protocols:
            mentions = Mentions(rulesets=rulesets, family=family, protocol=protocol)
            for way in Way:
                yield Kind(way=way, family=family, protocol=protocol), mentions
                if protocol is Protocol.TCP:
                    yield Kind(way=way, family=family, protocol=protocol, state=ConnState.INVALID), mentions


def follow(kind: Kind, mentions: Mentions, of_first: int, *, naming: bool) -> tuple[Space, Followed]:
    """Follow all packets of a kind through both sides' rules; `of_first` rulesets are the first side's."""
    space = Space(kind, mentions, MOST_NODES)
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
            one, other = (_decided(trip, what, space.mentions.rulesets) for trip in parting.trips)
            slug = classify(Case(space=space, parting=parting, what=what, mine=one.rule, others=other.rule))
            yield Difference(witness=witness, what=what, a_decided=one, b_decided=other, wanted=slug)


def _decided(trip: Trip, what: What, rulesets: Sequence[Ruleset]) -> Decided:
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
    ruleset = rulesets[at.ruleset]
    chains: tuple[Chain | RegularChain, ...] = (*ruleset.chains, *ruleset.regular)
    rules = next(each.rules for each in chains if each.name == at.chain)
    rule = rules[at.number] if at.number >= 0 else None
    return Decided(table=ruleset.table, chain=at.chain, number=at.number + 1, rule=rule)
