"""Samples of several variants, taken in turns; and how they compare."""

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

# Two equal variants that differ by more than this make the run void: the machine wasn't quiet.
MOST_NOISE = 0.05

T = TypeVar("T")
# Takes one sample: what was measured, by name. Preparing and clearing away are left out of the numbers.
Variant = Callable[[], Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The samples of one name: seconds, or bytes."""

    name: str
    samples: tuple[float, ...]

    @property
    def p50(self) -> float:
        """The median sample."""
        return statistics.median(self.samples)

    @property
    def p95(self) -> float:
        """The smallest sample that 95 of 100 don't exceed."""
        return sorted(self.samples)[math.ceil(len(self.samples) * 0.95) - 1]


def interleaved(
    variants: Sequence[Variant],
    rounds: int,
    *,
    turn: int = 1,
    before: Callable[[], object] = lambda: None,
    warm_up: int | None = None,
) -> dict[str, Result]:
    """Return the samples of all variants by name, in the order of the variants: taken in rounds, each in another order.

    So a busy moment hits all alike, and none always follows the same one. A variant takes `turn` samples at a time.
    Where these are several, the first stands apart, by the name that `cold` gives it: a program that ran before has
    taken the processor's caches, which makes sub-millisecond samples of whoever comes next twice as long. `before` each
    round, nothing is measured. The first rounds, a tenth as many unless said otherwise, are not counted.
    """
    samples: list[dict[str, list[float]]] = [{} for _ in variants]
    order = list(enumerate(variants))
    chance = random.Random(0)
    unused = math.ceil(rounds / 10) if warm_up is None else warm_up
    for number in range(-unused, rounds):
        before()
        chance.shuffle(order)
        for place, variant in order:
            for sample in range(turn):
                for name, value in variant().items():
                    known = cold(name) if turn > 1 and not sample else name
                    taken = samples[place].setdefault(known, [])
                    if number >= 0:
                        taken.append(value)
    return {name: Result(name=name, samples=tuple(taken)) for each in samples for name, taken in each.items()}


def cold(name: str) -> str:
    """Return the name of the samples that were the first of their turn."""
    return f"{name}, just after others"


def timed(run: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds that a call took, and what it returned."""
    started = time.perf_counter()
    returned = run()
    return time.perf_counter() - started, returned
