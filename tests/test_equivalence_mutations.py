"""A difference is found exactly when there is one: in 300 pairs of small rulesets that differ in one thing."""

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import prod

import pytest

from rulesets.equivalence import Differs, Equal, Moment, prove
from rulesets.equivalence.answers import value_at
from rulesets.equivalence.examples import packet_of, valued
from rulesets.equivalence.mentions import Mentions
from rulesets.equivalence.nodes import Node
from rulesets.equivalence.passage import Passages
from rulesets.equivalence.possible import possible_first
from rulesets.equivalence.proof import follow, kinds
from rulesets.equivalence.space import Kind, Space
from rulesets.model import Ruleset
from rulesets.packet import Packet
from rulesets.packet.effects import LATE_ZONE, ZONE_UNTRACKED
from rulesets.vocabulary import Family
from tests.packets_apart import apart, confirmed
from tests.small_mutations import mutated
from tests.small_rulesets import small_legacy, small_ruleset

PAIRS = 300
MOST_COMBINATIONS = 400


def pair(seed: int) -> tuple[str, Ruleset, Ruleset]:
    """Return what differs between two rulesets, and the two."""
    chance = random.Random(seed)
    one = small_ruleset(chance, chains=2, rules=3)
    what, other = mutated(chance, one)
    return what, one, other


def every_packet(chance: random.Random, space: Space, asked: list[Node]) -> Iterator[Packet]:
    """Yield a first packet of each combination of what is asked for; some of them where they are many."""
    possible = possible_first(space)
    variables = sorted({at for each in (possible, *asked) for at in _variables(each)})
    counts = [space.variables[at].atoms.count for at in variables]
    if prod(counts) <= MOST_COMBINATIONS:
        combinations = list(product(*map(range, counts)))
    else:
        combinations = [tuple(map(chance.randrange, counts)) for _ in range(MOST_COMBINATIONS)]
    for combination in combinations:
        atoms = dict(zip(variables, combination, strict=True))
        if value_at(possible, atoms) is True:
            yield packet_of(space, space.first(), valued(space, atoms, {}, 0))


def _variables(function: Node) -> set[int]:
    found: set[int] = set()
    seen = {function}
    waiting = [function]
    while waiting:
        node = waiting.pop()
        fresh = {child for _, child in node.edges} - seen
        seen |= fresh
        waiting += fresh
        found |= {node.variable} if node.edges else set()
    return found


@pytest.mark.parametrize("batch", range(10))
def test_one_thing_changed_is_found_where_it_shows(batch: int) -> None:
    for seed in range(batch, PAIRS, 10):
        what, one, other = pair(seed)
        proof = prove(one, other)
        if isinstance(proof, Differs):
            unconfirmed = [each for each in proof.differences if not confirmed((one,), (other,), each)]
            assert not unconfirmed, f"{seed}, {what}: {unconfirmed[0]}"
        else:
            assert isinstance(proof, Equal) or set(proof.reasons) <= {LATE_ZONE, ZONE_UNTRACKED}
            assert not list(_seen_apart(seed, one, other)), f"{seed}, {what}"


def _seen_apart(seed: int, one: Ruleset, other: Ruleset) -> Iterator[Packet]:
    """Yield packets that walking shows to fare differently, looking at some kinds of packets."""
    chance = random.Random(seed)
    for kind, mentions in chance.sample(list(kinds((one, other))), 6):
        yield from _walked_apart(chance, kind, mentions)


def _walked_apart(chance: random.Random, kind: Kind, mentions: Mentions) -> Iterator[Packet]:
    space, (one, other) = Space(kind, mentions, 500_000), mentions.rulesets
    header = space.first()
    sides = [Passages(space, (each,), at, naming=False).through(header) for at, each in enumerate((one, other))]
    for packet in every_packet(chance, space, sides):
        if apart((one,), (other,), packet):
            yield packet


@pytest.mark.parametrize("seed", range(40))
def test_brute_force_finds_the_same(seed: int) -> None:
    """Both find a difference of first packets, or none does."""
    _, one, other = pair(1000 + seed)
    chance = random.Random(seed)
    for kind, mentions in chance.sample(list(kinds((one, other))), 5):
        _, followed = follow(kind, mentions, 1, naming=False)
        found = any(each.scene.moment is Moment.FIRST for each in followed.partings)
        walked = next(_walked_apart(chance, kind, mentions), None)
        assert found or walked is None, f"{kind}: {walked}"


@pytest.mark.parametrize("seed", range(30))
def test_iptables_rules_that_differ_are_told_apart(seed: int) -> None:
    chance = random.Random(seed)
    one = small_legacy(chance, Family.IPV4, chains=2)
    chains = list(one.chains)
    at = chance.randrange(len(chains))
    chains[at] = replace(chains[at], rules=chains[at].rules[1:])
    other = replace(one, chains=tuple(chains))
    proof = prove(one, other)
    if isinstance(proof, Differs):
        assert all(confirmed((one,), (other,), each) for each in proof.differences)
    else:
        assert not list(_seen_apart(seed, one, other))
