"""How much a proof may cost, and what is said where that isn't enough.

Nodes bound the memory, steps the time. Both are counted and no clock is asked, so that one question always has one
answer, on a slow machine too.
"""

from collections.abc import Iterable

from rulesets.model import Chain, RegularChain, Ruleset

MOST_NODES = 400_000
"""How large the diagrams of one kind of packets may grow: about 200 MB."""

MOST_STEPS = 3_000_000
"""How many steps a proof may take, all kinds of packets together: 5 to 20 s."""

MOST_ATOMS = 20_000
"""How many values of a field rules may tell apart. Each takes a hundred steps and more, so that no proof gets there."""


class TooLarge(Exception):
    """A proof would cost more than it may. Its text is the limit."""


class Work:
    """The steps that a proof has taken so far."""

    def __init__(self, most_steps: int = MOST_STEPS) -> None:
        """More than `most_steps` raise `TooLarge`."""
        self.most = most_steps
        self.done = 0

    @property
    def over(self) -> bool:
        """Whether no step is left."""
        return self.done > self.most

    def step(self, count: int = 1) -> None:
        """Count some steps. Raises `TooLarge`."""
        self.done += count
        if self.done > self.most:
            raise TooLarge(f"more than {self.most} steps")


def largest(rulesets: Iterable[Ruleset]) -> str:
    """Return which chain has the most rules, in words: what a comparison that costs too much most likely stopped at."""
    chains: list[tuple[int, str, str]] = []
    for ruleset in rulesets:
        some: tuple[Chain | RegularChain, ...] = (*ruleset.chains, *ruleset.regular)
        chains += [(len(each.rules), each.name, ruleset.table) for each in some]
    rules, name, table = max(chains, default=(0, "", ""))
    return f"of {sum(each[0] for each in chains)} rules in {len(chains)} chains, chain {name} of {table} has {rules}"
