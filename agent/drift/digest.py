"""A short mark of a table, for whoever comes after a restart: whether it is still the one that was written."""

import dataclasses
import hashlib

from rulesets.model import Counter, Ruleset


def digest(ruleset: Ruleset | None) -> str:
    """Return the mark: equal for equal tables, whatever they have counted; empty for none."""
    if ruleset is None:
        return ""
    plain = dataclasses.replace(ruleset, order=(), counters=tuple(Counter(name=each.name) for each in ruleset.counters))
    return hashlib.blake2b(repr(plain).encode(errors="backslashreplace"), digest_size=8).hexdigest()
