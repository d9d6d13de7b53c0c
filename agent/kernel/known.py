"""What was read or written of a table, and whether that is still so."""

import dataclasses
from dataclasses import dataclass
from functools import lru_cache

from rulesets.model import Counter, Ruleset

_LAST_GENERATION = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Known:
    """What a table was when the namespace's rules were at a generation."""

    generation: int
    ruleset: Ruleset | None


def after(generation: int) -> int:
    """Return the generation that a commit leads to: zero is left out (nf_tables_api.c, nf_tables_commit)."""
    return generation + 1 if generation != _LAST_GENERATION else 1


def alike(one: Ruleset | None, other: Ruleset | None) -> bool:
    """Tell whether two readings are of the same: what is foreign equals nothing, not even itself read again."""
    return one == other or (one is not None and other is not None and _listed(one) == _listed(other))


def _listed(ruleset: Ruleset) -> str:
    counters = tuple(Counter(name=each.name) for each in ruleset.counters)
    return repr(dataclasses.replace(ruleset, counters=counters))


@lru_cache(maxsize=128)
def one_of(ruleset: Ruleset | None) -> Ruleset | None:
    """Return the first that was seen of equal rulesets: like namespaces keep one in memory, not one each."""
    return ruleset
