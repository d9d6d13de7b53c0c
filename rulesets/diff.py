"""What separates the rules that are from the rules that are wanted, as a value that can be shown and carried out."""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum

from rulesets.model import Chain, RegularChain, Ruleset, Set
from rulesets.nft.text import render_element, render_rule


class ChangeKind(StrEnum):
    """What happens to one thing."""

    ADD = "+"
    REMOVE = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One line of a difference: `where` is what it belongs to, `what` the thing itself, both as nft writes them."""

    kind: ChangeKind
    where: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """From `actual` to `desired`; None is no table. False when they are equal, so that nothing is written."""

    actual: Ruleset | None
    desired: Ruleset | None

    def __bool__(self) -> bool:
        return self.actual != self.desired

    @property
    def table(self) -> str:
        """The name of the table; empty when there is none on either side."""
        return next((each.table for each in (self.desired, self.actual) if each is not None), "")

    def changes(self) -> tuple[Change, ...]:
        """Return every difference, object by object, in the order in which packets meet them."""
        return tuple(_changes(self.actual, self.desired)) if self else ()

    def describe(self) -> str:
        """Return the differences as lines under the object that they belong to; empty when there are none."""
        lines: list[str] = []
        heading = ""
        for change in self.changes():
            if change.where != heading:
                heading = change.where
                lines.append(heading)
            lines.append(f"  {change.kind} {change.what}")
        return "\n".join(lines)


def diff(actual: Ruleset | None, desired: Ruleset | None) -> Plan:
    """Return the plan that leads from one ruleset to the other."""
    return Plan(actual=actual, desired=desired)


def _changes(actual: Ruleset | None, desired: Ruleset | None) -> Iterator[Change]:
    name = (desired or actual or Ruleset(table="none")).table
    table = f"table inet {name}"
    before, after = actual or Ruleset(table=name), desired or Ruleset(table=name)
    if actual is None or desired is None:
        yield Change(kind=ChangeKind.ADD if actual is None else ChangeKind.REMOVE, where="the namespace", what=table)
    for foreign in before.foreign:
        yield Change(kind=ChangeKind.REMOVE, where=table, what=f"not Weir's: {foreign.verbatim}")
    yield from _lines(table, _counter_lines(before, after), _counter_lines(after, before))
    for set_name in sorted({each.name for each in (*before.sets, *after.sets)}):
        yield from _lines(
            f"set {set_name}", _set_lines(before.find_set(set_name)), _set_lines(after.find_set(set_name))
        )
    chains: tuple[Chain | RegularChain, ...] = (*after.chains, *after.regular, *before.chains, *before.regular)
    names = list(dict.fromkeys(chain.name for chain in chains))
    for chain_name in names:
        yield from _lines(f"chain {chain_name}", _chain_lines(before, chain_name), _chain_lines(after, chain_name))


def _counter_lines(ruleset: Ruleset, other: Ruleset) -> list[str]:
    """Return the counters that only one side has, less those that come or go with a rule, whose line names them."""
    slugs = {rule.slug for rule in ruleset.rules()}
    alone = (each for each in ruleset.counters if each not in other.counters)
    return [f"counter {each.name}" for each in alone if each.name not in slugs]


def _set_lines(each: Set | None) -> list[str]:
    if each is None:
        return []
    flags = "; flags interval" if each.interval else ""
    return [f"type {each.key}{flags}", *map(render_element, each.elements)]


def _chain_lines(ruleset: Ruleset, name: str) -> list[str]:
    chain: Chain | RegularChain | None = ruleset.chain(name) or ruleset.regular_chain(name)
    if chain is None:
        return []
    if isinstance(chain, RegularChain):
        return ["regular", *map(render_rule, chain.rules)]
    place = f"type {chain.type} hook {chain.hook} priority {chain.priority}; policy {chain.policy}"
    return [place, *map(render_rule, chain.rules)]


def _lines(where: str, before: list[str], after: list[str]) -> Iterator[Change]:
    if len(before) * len(after) > 1_000_000:
        # Long sets of one kind: order says nothing there, and matching sequences would take minutes.
        gone, new = dict.fromkeys(before), dict.fromkeys(after)
        yield from (Change(kind=ChangeKind.REMOVE, where=where, what=line) for line in gone if line not in new)
        yield from (Change(kind=ChangeKind.ADD, where=where, what=line) for line in new if line not in gone)
        return
    for tag, low, high, start, end in SequenceMatcher(a=before, b=after, autojunk=False).get_opcodes():
        if tag != "equal":
            yield from (Change(kind=ChangeKind.REMOVE, where=where, what=line) for line in before[low:high])
            yield from (Change(kind=ChangeKind.ADD, where=where, what=line) for line in after[start:end])
