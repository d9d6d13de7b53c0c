"""Whether somebody else's chains take packets from Weir's: what is met before these can decide instead of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from rulesets.equivalence.answers import leaves
from rulesets.equivalence.limits import MOST_NODES, TooLarge
from rulesets.equivalence.mentions import Mentions
from rulesets.equivalence.nodes import Node
from rulesets.equivalence.packets import looped
from rulesets.equivalence.passage import Passages
from rulesets.equivalence.possible import possible_first
from rulesets.equivalence.proof import Decided, Side, kinds, side_of
from rulesets.equivalence.sameness import What, differences
from rulesets.equivalence.space import Kind, Space
from rulesets.equivalence.story import Moment, Scene
from rulesets.equivalence.terms import Fixed, Names, RuleAt, Trip
from rulesets.equivalence.witness import Witness, find
from rulesets.model import Chain, RegularChain, Rule, Ruleset
from rulesets.packet import Fate
from rulesets.vocabulary import (
    ChainType,
    ConnMark,
    ConnState,
    Dnat,
    DnatTo,
    Goto,
    Hook,
    InIpset,
    Jump,
    PacketMark,
    Policy,
    Protocol,
    Redirect,
    Snat,
    Tproxy,
)

MOST_NAMED = 10
"""So many rules are named at most that take packets of one kind: of a family, a protocol and a way."""

# The kernel has one place for destination NAT at a hook, NF_IP_PRI_NAT_DST, and asks all nat chains there, in the order
# of their own priorities (net/netfilter/nf_nat_core.c, nf_nat_register_fn, and nf_nat_proto.c, nf_nat_ipv4_ops).
_NAT_IS_ASKED_AT = -100
_CAPTURES = Redirect | Dnat


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A packet that our rules alone capture, or leave alone, and that fares otherwise beside somebody else's.

    `decided` is the rule that decides then, which may be ours, and `by` theirs to which that is due, of the ruleset
    with the number `of` among those given. `unknown` is what nobody can read and would decide: then it may be taken.
    """

    witness: Witness
    what: What
    decided: Decided
    by: Decided
    of: int
    unknown: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Takings:
    """The plainest packet for each rule that takes any, and in words what couldn't be worked out. False for nothing."""

    taken: tuple[Taken, ...] = ()
    unread: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.taken) or bool(self.unread)


def taken(foreign: Side, ours: Ruleset, *, most_nodes: int = MOST_NODES) -> Takings:
    """Return what somebody else's chains take of that which `ours` alone would capture, by the first packets alone.

    What `ours` captures because of theirs, and alone would not, is among it: the proxy's own connections come back to
    it without end where somebody takes its mark away.
    It shows that something is taken if anything is; of many rules that take some, `MOST_NAMED` of each kind of packets.
    Of the foreign chains those count that a packet meets before ours that capture, and with them: of two chains at one
    priority it depends on who was loaded first.
    """
    captures = {
        chain.hook: chain.priority
        for chain in ours.chains
        if chain.type is ChainType.NAT and any(isinstance(rule.action, _CAPTURES) for rule in chain.rules)
    }
    earlier = tuple(_reduced(each, tuple(_earlier(each, captures))) for each in side_of(foreign))
    if not any(each.chains for each in earlier):
        return Takings()
    found: dict[object, Taken] = {}
    unread = {
        f"table {each.table} holds what can't be read: {part.verbatim}": None
        for each in earlier
        if each.chains
        for part in each.foreign
    }
    for kind, mentions in kinds((ours, *earlier, ours), merging=False):
        if kind.state is not ConnState.NEW or kind.protocol not in (Protocol.TCP, Protocol.UDP):
            continue
        try:
            some = tuple(_of_kind(kind, mentions, most_nodes))
        except (TooLarge, RecursionError):
            unread[f"{kind.family} {kind.protocol} {kind.way}: the rules are too many or too deep to compare"] = None
            continue
        for each in some:
            key = (each.of, each.by.place, bool(each.unknown))
            if key not in found or each.witness.oddity < found[key].witness.oddity:
                found[key] = each
    ordered = sorted(found.values(), key=lambda each: (bool(each.unknown), each.witness.oddity))
    return Takings(taken=tuple(ordered), unread=tuple(unread))


def _earlier(foreign: Ruleset, captures: dict[Hook, int]) -> Iterator[Chain]:
    """Yield the chains that are met first, each where it is met."""
    for chain in foreign.chains:
        ours = captures.get(chain.hook)
        if ours is None or not (chain.rules or chain.policy is Policy.DROP):
            continue
        if chain.priority <= ours:
            yield chain
        elif chain.type is not ChainType.NAT and chain.priority <= _NAT_IS_ASKED_AT:
            yield replace(chain, priority=ours)


def _reduced(foreign: Ruleset, chains: tuple[Chain, ...]) -> Ruleset:
    """Return a ruleset of these base chains alone, with what they lead to."""
    left = {each.name: each for each in foreign.regular}
    kept, waiting = [], [rule for each in chains for rule in each.rules]
    while waiting:
        action = waiting.pop().action
        if isinstance(action, Jump | Goto) and (chain := left.pop(action.chain, None)) is not None:
            kept.append(chain)
            waiting += chain.rules
    return replace(foreign, chains=chains, regular=tuple(kept))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """How packets of a scene fare that ours would capture: with ours alone, and beside the others."""

    scene: Scene
    alone: Trip
    beside: Trip
    where: Node


def _of_kind(kind: Kind, mentions: Mentions, most_nodes: int) -> Iterator[Taken]:
    if not any(_is_taken(space, pair) for space, pair in _pairs(kind, mentions, most_nodes, naming=False)):
        return
    # Once more, remembering the rules that decide, which takes longer.
    named = 0
    for space, pair in _pairs(kind, mentions, most_nodes, naming=True):
        differing = _is_taken(space, pair)
        if named == MOST_NAMED:
            return
        if differing is not None:
            named += 1
            what, where = differing
            scene = replace(pair.scene, where=pair.where)
            witness = find(space, scene, where)
            at, by = _due_to(pair.beside, mentions.rulesets)
            yield Taken(
                witness=witness,
                what=what,
                decided=_decided(at, mentions.rulesets),
                by=_decided(by, mentions.rulesets),
                of=by.ruleset - 1 if by is not None else -1,
                unknown=pair.beside.unknown,
            )


def _pairs(kind: Kind, mentions: Mentions, most_nodes: int, *, naming: bool) -> Iterator[tuple[Space, _Pair]]:
    """Yield how the first packets of new connections fare; those that go on by lo once more, as they come in there."""
    space = Space(kind, mentions, most_nodes)
    rulesets = mentions.rulesets
    sides = (Passages(space, rulesets[:1], 0, naming=naming), Passages(space, rulesets[1:], 1, naming=naming))
    first = space.first()
    begun = Scene(moment=Moment.FIRST, headers=(first, first), where=possible_first(space))
    to_proxy = {Fixed(space.ports.atom_of(port)) for port in _ports(rulesets[0])}

    def captured(trip: Trip) -> bool:
        port = trip.header.destination_port
        return trip.fate is Fate.ACCEPTED and port in to_proxy and port != first.destination_port

    for pair in _passed(space, sides, begun, lambda *trips: any(map(captured, trips))):
        yield space, pair
        if not captured(pair.alone):
            continue
        if pair.beside.fate is Fate.ACCEPTED and first.hook is Hook.OUTPUT and _is_taken(space, pair) is None:
            headers = (looped(space, pair.alone.header), looped(space, pair.beside.header))
            before = (begun, pair.where)
            again = Scene(moment=Moment.FIRST, headers=headers, where=pair.where, loops=True, before=before)
            yield from ((space, each) for each in _passed(space, sides, again, lambda *_: True))


def _passed(
    space: Space, sides: tuple[Passages, Passages], scene: Scene, counts: Callable[[Trip, Trip], bool]
) -> Iterator[_Pair]:
    diagrams = space.diagrams

    def together(possible: bool, one: object, other: object) -> Node:
        return diagrams.leaf((one, other)) if possible else diagrams.no

    trips = tuple(side.through(header) for side, header in zip(sides, scene.headers, strict=True))
    both = diagrams.joined((scene.where, *trips), together)
    for value in leaves(both):
        if isinstance(value, tuple) and counts(*value):
            there = diagrams.joined((both,), lambda each, value=value: diagrams.yes if each is value else diagrams.no)
            yield _Pair(scene=scene, alone=value[0], beside=value[1], where=there)


def _ports(ours: Ruleset) -> set[int]:
    return {rule.action.port for rule in ours.rules() if isinstance(rule.action, _CAPTURES)}


def _is_taken(space: Space, pair: _Pair) -> tuple[What, Node] | None:
    """Return in what, and where, packets fare otherwise than they do alone; None where they go the same way."""
    if pair.beside.unknown:
        return What.FATE, pair.where
    headers = pair.scene.headers
    told = differences(space, headers, pair.alone, pair.beside, began=headers)
    for what in (What.FATE, What.TARGET):
        where = space.diagrams.both(pair.where, told.get(what, space.diagrams.no))
        if where is not space.diagrams.no:
            return what, where
    return None


def _due_to(trip: Trip, rulesets: tuple[Ruleset, ...]) -> tuple[RuleAt | None, RuleAt | None]:
    """Return the rule that decides, and the foreign one that it is due to: itself, or what it asks for is of that."""
    names = trip.names
    if trip.unknown:
        at = _first(rulesets, lambda rule: _holds(rule, trip.unknown)) or names.fate
        return at, at
    if trip.tproxy is not None:
        at = _first(rulesets, lambda rule: isinstance(rule.action, Tproxy) and rule.action.port == trip.tproxy)
        return at, at
    at = names.target if trip.fate is Fate.ACCEPTED else names.fate or names.target
    of = [each for each in _candidates(trip, names, at, rulesets) if each is not None and _is_foreign(each, rulesets)]
    return at, next(iter(of), None)


def _candidates(trip: Trip, names: Names, at: RuleAt | None, rulesets: tuple[Ruleset, ...]) -> Iterator[RuleAt | None]:
    """Yield what may be the reason, the likeliest first."""
    rule = _decided(at, rulesets).rule
    if trip.fate is not Fate.ACCEPTED or isinstance(rule and rule.action, _CAPTURES | DnatTo):
        yield at
    if trip.header.state is ConnState.UNTRACKED:
        yield names.zone
    if rule is not None:
        asked = {type(match) for match in rule.matches}
        yield names.mark if PacketMark in asked else None
        yield names.connection_mark if ConnMark in asked else None
    yield from (at, names.mark, names.connection_mark, names.zone, names.target)


def _is_foreign(at: RuleAt, rulesets: tuple[Ruleset, ...]) -> bool:
    return 0 < at.ruleset < len(rulesets) - 1


def _holds(rule: Rule, unknown: str) -> bool:
    """Tell whether a rule holds what can't be read."""
    sets = tuple(f"set {each.name!r}," for each in rule.matches if isinstance(each, InIpset))
    translated = isinstance(rule.action, DnatTo | Snat) and unknown.startswith(
        f"a translation to {rule.action.address},"
    )
    return translated or any(each.verbatim == unknown for each in rule.foreign) or unknown.startswith(sets)


def _first(rulesets: tuple[Ruleset, ...], fits: Callable[[Rule], bool]) -> RuleAt | None:
    """Return the first foreign rule that fits."""
    for number, ruleset in enumerate(rulesets[1:-1], 1):
        chains: tuple[Chain | RegularChain, ...] = (*ruleset.chains, *ruleset.regular)
        for chain in chains:
            for at, rule in enumerate(chain.rules):
                if fits(rule):
                    return RuleAt(number, chain.name, at)
    return None


def _decided(at: RuleAt | None, rulesets: tuple[Ruleset, ...]) -> Decided:
    if at is None:
        return Decided()
    ruleset = rulesets[at.ruleset]
    chains: tuple[Chain | RegularChain, ...] = (*ruleset.chains, *ruleset.regular)
    rules = next(each.rules for each in chains if each.name == at.chain)
    rule = rules[at.number] if at.number >= 0 else None
    return Decided(table=ruleset.table, chain=at.chain, number=at.number + 1, rule=rule)
