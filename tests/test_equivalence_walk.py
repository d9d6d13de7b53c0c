"""The way of all packets at once is the way that `walk` takes with each of them."""

import random
from collections.abc import Callable

import pytest

from rulesets.equivalence.answers import segments, value_at
from rulesets.equivalence.examples import packet_of, valued
from rulesets.equivalence.mentions import Mentions
from rulesets.equivalence.nodes import Node
from rulesets.equivalence.passage import Passages
from rulesets.equivalence.possible import possible_first
from rulesets.equivalence.proof import kinds
from rulesets.equivalence.sameness import mixed
from rulesets.equivalence.space import Kind, Space
from rulesets.equivalence.terms import Trip
from rulesets.model import Ruleset
from rulesets.packet import Fate, walk_together
from rulesets.vocabulary import Family, Hook
from tests import scenarios
from tests.small_rulesets import small_legacy, small_ruleset

PACKETS = 12


def some_values(chance: random.Random, space: Space, possible: Node) -> dict[int, int]:
    """Return an atom for every variable, by chance, where it is possible."""
    atoms = {at: chance.randrange(each.atoms.count) for at, each in enumerate(space.variables)}
    node = possible
    while node.edges:
        variable = node.variable
        ways = segments(node, space.variables[variable].atoms.count)
        first, last, node = chance.choice([each for each in ways if each[2] is not space.diagrams.no])
        atoms[variable] = chance.randint(first, last)
    return atoms


def some_kinds(chance: random.Random, rulesets: tuple[Ruleset, ...], count: int) -> list[tuple[Kind, Mentions]]:
    """Return some kinds of packets, by chance."""
    return chance.sample(list(kinds(rulesets)), count)


def contradictions(chance: random.Random, kind: Kind, mentions: Mentions) -> list[str]:
    """Return packets of a kind that fare otherwise than `walk` says."""
    space, rulesets = Space(kind, mentions, 500_000), mentions.rulesets
    header = space.first()
    fates = Passages(space, rulesets, 0, naming=False).through(header)
    possible = possible_first(space)
    found = []
    for _ in range(PACKETS):
        atoms = some_values(chance, space, possible)
        values = valued(space, atoms, {}, 0)
        packet = packet_of(space, header, values)
        trip = value_at(fates, atoms)
        assert isinstance(trip, Trip)
        verdict = walk_together(rulesets, packet)
        if mixed(trip) or (trip.fate is Fate.UNKNOWN and verdict.fate is Fate.UNKNOWN):
            continue
        said = (trip.fate, packet_of(space, trip.header, values), trip.zones, trip.tproxy, trip.masqueraded)
        was = (verdict.fate, verdict.packet, (verdict.zone, verdict.reply_zone), verdict.tproxy, verdict.masqueraded)
        rerouted = trip.route_mark != header.mark and packet.hook is Hook.OUTPUT and said[1].mark != packet.mark
        if said != was or (rerouted and not verdict.rerouted):
            found.append(f"{kind}\n{packet}\nsaid {said}\nwas  {was}\n{verdict.rules}")
    return found


@pytest.mark.parametrize("name", scenarios.names())
def test_packets_fare_in_a_golden_as_walk_says(name: str) -> None:
    chance = random.Random(name)
    ruleset = scenarios.load(name).ruleset
    assert not [each for kind in some_kinds(chance, (ruleset,), 6) for each in contradictions(chance, *kind)]


Make = Callable[[random.Random], tuple[Ruleset, ...]]
MADE: dict[str, Make] = {
    "a table": lambda chance: (small_ruleset(chance),),
    "two tables": lambda chance: (small_ruleset(chance), small_ruleset(chance)),
    "iptables": lambda chance: (small_legacy(chance, Family.IPV4), small_legacy(chance, Family.IPV6)),
    "both": lambda chance: (small_ruleset(chance), small_legacy(chance, Family.IPV4)),
}


@pytest.mark.parametrize("what", MADE)
@pytest.mark.parametrize("seed", range(60))
def test_packets_fare_in_made_up_rules_as_walk_says(what: str, seed: int) -> None:
    chance = random.Random(f"{what} {seed}")
    rulesets = MADE[what](chance)
    found = [each for kind in some_kinds(chance, rulesets, 4) for each in contradictions(chance, *kind)]
    assert not found, found[0]
