"""The proof's witnesses on the kernel: each leaves the conntrack entry that was foretold on either side.

For pairs of rulesets that are called equal, packets drawn by chance leave the same on both.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice

import pytest

from netns_tests.crossroads import Crossroads
from netns_tests.lone_probe import Lone, foretold, realistic
from rulesets.equivalence import Difference, Differs, Equal, Moment, What, prove
from rulesets.equivalence.examples import packet_of, valued
from rulesets.equivalence.possible import possible_first
from rulesets.equivalence.proof import kinds
from rulesets.equivalence.space import Space
from rulesets.model import Ruleset
from rulesets.packet import Packet
from rulesets.vocabulary import ConnState, Protocol, SocketCgroup
from tests.small_mutations import mutated
from tests.small_rulesets import small_ruleset
from tests.test_equivalence_walk import some_values

PAIRS = int(os.environ.get("WEIR_PAIRS", "40"))  # that differ; as many again that are equal
PROBES = 3  # to each pair that is equal
BATCHES = 4


def pairs(batch: int) -> Iterator[tuple[int, Ruleset, Ruleset]]:
    """Yield pairs that differ in one thing, with the seed that they came from."""
    for seed in count(batch, BATCHES):
        chance = random.Random(f"kernel {seed}")
        one = small_ruleset(chance, chains=2, rules=3)
        _, other = mutated(chance, one)
        if _loadable(one) and _loadable(other):
            yield seed, one, other


def _loadable(ruleset: Ruleset) -> bool:
    """Tell whether these rules can be loaded here: there is no cgroup of the numbers that they name."""
    return not any(isinstance(match, SocketCgroup) for rule in ruleset.rules() for match in rule.matches)


def sendable(difference: Difference, one: Ruleset, other: Ruleset) -> tuple[Packet, bool] | None:
    """Return the packet that shows a difference in its conntrack entry, and whether its mark has to be shown there."""
    if difference.witness.moment is not Moment.FIRST or difference.witness.kind.state is not ConnState.NEW:
        return None
    packet = realistic(difference.witness.first, difference.witness.kind.way)
    shown = difference.what in (What.MARK, What.ROUTE)
    if packet is None or foretold(one, packet, shown=shown) == foretold(other, packet, shown=shown):
        return None
    return packet, shown


def probes(seed: int, one: Ruleset, other: Ruleset) -> Iterator[Packet]:
    """Yield first packets of any kind, by chance."""
    chance = random.Random(seed)
    of_ports = [each for each in kinds((one, other)) if each[0].protocol in (Protocol.TCP, Protocol.UDP)]
    for kind, mentions in chance.choices(of_ports, k=30):
        space = Space(kind, mentions, 500_000)
        atoms = some_values(chance, space, possible_first(space))
        packet = realistic(packet_of(space, space.first(), valued(space, atoms, {}, 0)), kind.way)
        if packet is not None and kind.state is ConnState.NEW:
            yield packet


@contextmanager
def crossroads() -> Iterator[Lone]:
    with Crossroads() as place:
        lone = Lone(place)
        lone.prepare()
        yield lone


@pytest.mark.parametrize("batch", range(BATCHES))
def test_witnesses_show_on_the_kernel_what_was_foretold(batch: int) -> None:
    shown_apart = 0
    with crossroads() as lone:
        for seed, one, other in pairs(batch):
            proof = prove(one, other)
            chosen = [sendable(each, one, other) for each in proof.differences] if isinstance(proof, Differs) else []
            for packet, shown in [each for each in chosen if each][:1]:
                said = [foretold(each, packet, shown=shown) for each in (one, other)]
                was = [lone.entry(each, packet, shown=shown) for each in (one, other)]
                assert was == said, f"{seed}: {packet}"
                shown_apart += 1
            if shown_apart == PAIRS // BATCHES:
                return


@pytest.mark.parametrize("batch", range(BATCHES))
def test_probes_agree_where_rulesets_are_equal(batch: int) -> None:
    agreed = 0
    with crossroads() as lone:
        for seed, one, other in pairs(batch):
            if isinstance(prove(one, other), Equal):
                for packet in islice(probes(seed, one, other), PROBES):
                    entries = [lone.entry(each, packet, shown=True) for each in (one, other)]
                    assert entries[0] == entries[1], f"{seed}: {packet}"
                agreed += 1
            if agreed == PAIRS // BATCHES:
                return


def test_a_wrong_prediction_would_be_noticed() -> None:
    """What was foretold of one side isn't what the other leaves."""
    with crossroads() as lone:
        for _, one, other in pairs(0):
            proof = prove(one, other)
            chosen = [sendable(each, one, other) for each in proof.differences] if isinstance(proof, Differs) else []
            for packet, shown in [each for each in chosen if each][:1]:
                assert lone.entry(one, packet, shown=shown) != foretold(other, packet, shown=shown)
                return
