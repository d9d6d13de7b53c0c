"""A small ruleset with one thing changed."""

import random
from dataclasses import fields, replace
from typing import Any

from rulesets.model import Chain, Rule, Ruleset, Set, with_counters
from rulesets.vocabulary import Family, InSet, Mark, ModelError, OfFamily, PortRange, Protocol
from tests.small_rulesets import NAMES, WITH_PORTS, actions

__all__ = ["mutated"]


def mutated(chance: random.Random, ruleset: Ruleset) -> tuple[str, Ruleset]:
    """Return a ruleset with one thing changed, and what: a value of a match, a negation, an action, an order."""
    while True:
        at = chance.randrange(len(ruleset.chains))
        chain = ruleset.chains[at]
        if not chain.rules:
            continue
        number = chance.randrange(len(chain.rules))
        try:
            what, rules = _changed_rules(chance, chain, number)
            chains = (*ruleset.chains[:at], replace(chain, rules=rules), *ruleset.chains[at + 1 :])
            made = with_counters(ruleset.table, chains, ruleset.sets)
            if chance.random() < 0.15:
                what, made = "an element of a set", replace(ruleset, sets=_changed_sets(chance, ruleset.sets))
        except ModelError:
            continue
        if made != ruleset:
            return f"{what} at {chain.name} {number}", made


def _changed_rules(chance: random.Random, chain: Chain, number: int) -> tuple[str, tuple[Rule, ...]]:
    before, rule, after = chain.rules[:number], chain.rules[number], chain.rules[number + 1 :]
    way = chance.choice(("order", "action", "match", "match", "match", "gone", "family"))
    if way == "order" and after:
        return way, (*before, after[0], rule, *after[1:])
    if way == "action":
        return way, (*before, replace(rule, action=chance.choice(actions(chance, chain.type, chain.hook))), *after)
    if way == "gone":
        return way, (*before, *after)
    if way == "family":
        matches = (*rule.matches, OfFamily(family=chance.choice(list(Family))))
        return way, (*before, replace(rule, matches=matches), *after)
    if not rule.matches:
        raise ModelError("nothing to change")
    at = chance.randrange(len(rule.matches))
    changed = _changed_match(chance, rule.matches[at])
    return f"{changed}", (
        *before,
        replace(rule, matches=(*rule.matches[:at], changed, *rule.matches[at + 1 :])),
        *after,
    )


def _changed_match(chance: random.Random, match: Any) -> Any:
    """Return a match with its negation turned, or one of its values: by one, or by one bit."""
    names = [each.name for each in fields(match) if each.name != "by_index"]  # how it is asked for, not what
    if "negate" in names and chance.random() < 0.3:
        return replace(match, negate=not match.negate)
    name = chance.choice([each for each in names if each != "negate"] or ["none"])
    value: Any = getattr(match, name, None)
    match value:
        case PortRange(first=first, last=last):
            ports = chance.choice((PortRange(first, last + 1), PortRange(max(first - 1, 1), last)))
            return replace(match, ports=ports)
        case Mark(value=number, mask=mask):
            bit = 1 << chance.choice([at for at in range(32) if mask >> at & 1])
            others = [Mark(number ^ bit, mask)] + ([Mark(number & ~bit, mask & ~bit)] if mask != bit else [])
            return replace(match, mark=chance.choice(others))
        case Protocol():
            return replace(match, protocol=chance.choice(WITH_PORTS))
        case Family():
            return replace(match, family=chance.choice(list(Family)))
        case int():
            return replace(match, **{name: value + 1})
        case str() if name == "name" and not isinstance(match, InSet):
            return replace(match, name=chance.choice(NAMES))
        case _ if name == "network":
            length = max(value.prefixlen - 1, 0)
            return replace(match, network=value.supernet(new_prefix=length))
        case _:
            raise ModelError("nothing to change")


def _changed_sets(chance: random.Random, sets: tuple[Set, ...]) -> tuple[Set, ...]:
    at = chance.randrange(len(sets))
    gone = chance.randrange(len(sets[at].elements))
    elements = tuple(each for number, each in enumerate(sets[at].elements) if number != gone)
    return (*sets[:at], replace(sets[at], elements=elements), *sets[at + 1 :])
