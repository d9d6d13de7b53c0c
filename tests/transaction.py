"""A plan as text for nft: the oracle that the encoder's batches are held against, step by step."""

import dataclasses

from rulesets.diff import Plan
from rulesets.model import Chain, Counter, Ruleset, Set
from rulesets.nft import text


def render(plan: Plan, *, flags: tuple[str, ...] = ()) -> str:
    """Return the text that carries out a plan; empty when there is nothing to do.

    `flags` are those of the table, new or replaced: an existing table's flags can't be changed.
    """
    actual, desired = plan.actual, plan.desired
    if not plan:
        return ""
    if desired is None:
        return _removal(plan.table)
    if actual is None:
        return text.render(desired, flags=flags)
    if flags or actual.foreign or any(_kind(old) != _kind(new) for old, new in _shared_sets(actual, desired)):
        return replace(actual, desired, flags=flags)
    return update(actual, desired)


def replace(actual: Ruleset, desired: Ruleset, *, flags: tuple[str, ...] = ()) -> str:
    """Return the text that makes the table anew, counters going on from what was read."""
    return _removal(desired.table) + text.render(_going_on(actual, desired), flags=flags)


def update(actual: Ruleset, desired: Ruleset) -> str:
    """Return the text that turns one ruleset into the other inside the table that is there.

    All rules go and come again. The kernel refuses another priority for a chain that is there, so such a chain is
    deleted and added; a set whose elements differ is emptied first, since intervals that overlap are refused.
    """
    table = desired.table
    lines = [f"flush table inet {table}"]
    moved = {old.name for old in actual.chains if not _stays(old, desired.chain(old.name))}
    lines += [f"delete chain inet {table} {name}" for name in sorted(moved)]
    gone = [each.name for each in actual.sets if desired.find_set(each.name) is None]
    lines += [f"delete set inet {table} {name}" for name in gone]
    changed = [new for old, new in _shared_sets(actual, desired) if old.elements != new.elements]
    lines += [f"flush set inet {table} {each.name}" for each in changed]
    wanted = {each.name for each in desired.counters}
    lines += [f"delete counter inet {table} {each.name}" for each in actual.counters if each.name not in wanted]
    have_counters, have_sets = {each.name for each in actual.counters}, {each.name for each in actual.sets}
    added = text.render_parts(
        table,
        tuple(each for each in desired.counters if each.name not in have_counters),
        tuple(each for each in desired.sets if each.name not in have_sets or each in changed),
        desired.chains,
    )
    return "\n".join([*lines, added])


def _stays(old: Chain, new: Chain | None) -> bool:
    return new is not None and old.same_place(new)


def _shared_sets(actual: Ruleset, desired: Ruleset) -> list[tuple[Set, Set]]:
    both = ((old, desired.find_set(old.name)) for old in actual.sets)
    return [(old, new) for old, new in both if new is not None]


def _kind(each: Set) -> tuple[str, bool]:
    return each.key, each.interval


def _going_on(actual: Ruleset, desired: Ruleset) -> Ruleset:
    read: dict[str, Counter] = {each.name: each for each in actual.counters}
    return dataclasses.replace(desired, counters=tuple(read.get(each.name, each) for each in desired.counters))


def _removal(table: str) -> str:
    # Not after an `add table`, which is refused where the table that is there has an owner.
    return f"delete table inet {table}\n"
