"""A plan as one batch: whatever changes, packets meet the old rules or the new, never neither.

Counters keep their values: what stays is not touched, what must be made again starts from the values last read. In a
table that is there all rules go and come again. The kernel refuses another priority for a chain that is there, so such
a chain is deleted and added; a set whose elements differ is emptied first, since intervals that overlap are refused.
Flags can only be given to a new table, but for an orphan, a table that outlived its owner: that is adopted.
"""

from collections.abc import Iterable
from dataclasses import replace
from enum import Enum, auto
from functools import lru_cache

from rulesets.diff import Plan
from rulesets.model import Chain, Counter, Element, Ruleset, Set
from rulesets.netlink import constants as c
from rulesets.netlink import objects
from rulesets.netlink.batch import Batch, Draft, Verb
from rulesets.vocabulary import ModelError

# A table that nobody else can change while its owner's socket is open; and what it is when that was closed (Linux 6.9).
OWNED = ("owner", "persist")
ORPHAN = ("persist",)


def encode(
    plan: Plan, *, flags: tuple[str, ...] = (), found: tuple[str, ...] = (), end_acknowledged: bool = True
) -> Batch:
    """Return the batch that carries out a plan; empty when there is nothing to do.

    `flags` are those that the table is to have, `found` those that it has (ignored where it isn't there). Where they
    differ it is made anew, or adopted if it is an orphan, even when the plan itself is empty. Kernels before 6.10 don't
    acknowledge the end of a batch: the last message before it is then the one that asks.

    Cached: equal plans, down to what new counters start from, are encoded once. Raises `ModelError` for a rule with
    something foreign in it.
    """
    return _encode_same(_Same(plan), _in_order(flags), _in_order(found), end_acknowledged)


def encode_elements(
    table: str, *, taken: Iterable[Set] = (), added: Iterable[Set] = (), end_acknowledged: bool = True
) -> Batch:
    """Return the batch that takes elements out of a table's sets, then puts others in, and touches nothing else.

    Each set has just the elements that go, or come. One that does both gets another comment. The kernel refuses all of
    it where one that goes isn't there (ENOENT), or one that comes is (EEXIST).
    """
    draft = Draft(table)
    for each in taken:
        bare = replace(each, elements=tuple(Element(value=element.value) for element in each.elements))
        for body, elements in objects.elements(table, bare):
            draft.take(Verb.DELETE, c.NFT_MSG_DELSETELEM, body, each, elements=elements)
    for each in added:
        for body, elements in objects.elements(table, each):
            draft.add(c.NFT_MSG_NEWSETELEM, body, each, flags=c.NLM_F_CREATE | c.NLM_F_EXCL, elements=elements)
    return draft.batch(end_acknowledged=end_acknowledged)


def _in_order(flags: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(flags)))


class _Same:
    """A plan that equals only one of the very same rulesets: seen at a glance, where comparing values takes 0.1 ms."""

    __slots__ = ("plan",)

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Same)
            and self.plan.actual is other.plan.actual
            and self.plan.desired is other.plan.desired
        )

    def __hash__(self) -> int:
        return hash((id(self.plan.actual), id(self.plan.desired)))


class _Way(Enum):
    """How a plan is carried out."""

    REMOVE = auto()
    MAKE = auto()
    REPLACE = auto()
    UPDATE = auto()


@lru_cache(128)
def _encode_same(same: _Same, flags: tuple[str, ...], found: tuple[str, ...], end_acknowledged: bool) -> Batch:
    plan = same.plan
    adopted = (found, flags) == (ORPHAN, OWNED)
    if plan.desired is not None and (plan.desired.regular or plan.desired.family is not None):
        raise ModelError("Weir never writes a regular chain, nor a table of one family, as nftables")
    if plan.desired is None:
        way = _Way.REMOVE
    elif plan.actual is None:
        way = _Way.MAKE
    elif (
        not (adopted or found == flags)
        or (adopted and _loses_a_chain(plan.actual, plan.desired))
        or (plan and _needs_replacing(plan.actual, plan.desired))
    ):
        way = _Way.REPLACE
    else:
        way = _Way.UPDATE
    started = tuple((each.name, each.packets, each.bytes) for each in _new_counters(plan, way))
    return _encode(plan, way, flags, adopted, end_acknowledged, started)


def _new_counters(plan: Plan, way: _Way) -> tuple[Counter, ...]:
    """Return the counters that are made. In a table that is made anew they go on from what was read."""
    if plan.desired is None:
        return ()
    read = {each.name: each for each in plan.actual.counters} if plan.actual else {}
    if way is _Way.UPDATE:
        return tuple(each for each in plan.desired.counters if each.name not in read)
    return tuple(read.get(each.name, each) for each in plan.desired.counters)


@lru_cache(128)
def _encode(
    plan: Plan,
    way: _Way,
    flags: tuple[str, ...],
    adopted: bool,
    end_acknowledged: bool,
    started: tuple[tuple[str, int, int], ...],
) -> Batch:
    """`started` repeats what is in the plan: counts are no part of a counter's identity, but they are in the bytes."""
    draft = Draft(plan.table)
    counters = tuple(Counter(name=name, packets=packets, bytes=size) for name, packets, size in started)
    if plan.actual is not None and way in (_Way.REMOVE, _Way.REPLACE):
        # Not after an addition, which is refused where the table that is there has an owner.
        draft.take(Verb.DELETE, c.NFT_MSG_DELTABLE, objects.table_name(plan.table))
    if plan.desired is not None and way in (_Way.MAKE, _Way.REPLACE):
        draft.add(c.NFT_MSG_NEWTABLE, objects.table(plan.table, flags), flags=0)
        _add(draft, plan.desired, counters, plan.desired.sets, plan.desired.chains)
    if plan.actual is not None and plan.desired is not None and way is _Way.UPDATE:
        if plan:
            _update(draft, plan.actual, plan.desired, counters)
        if adopted:
            # Last: the kernel takes no base chain into a table whose flags have changed in the same batch (6.9,
            # "reject new basechain after table flag update").
            draft.add(c.NFT_MSG_NEWTABLE, objects.table(plan.table, flags), flags=0)
    return draft.batch(end_acknowledged=end_acknowledged)


def _needs_replacing(actual: Ruleset, desired: Ruleset) -> bool:
    return bool(actual.foreign or actual.regular) or any(
        (old.key, old.interval) != (new.key, new.interval) for old, new in _shared_sets(actual, desired)
    )


def _loses_a_chain(actual: Ruleset, desired: Ruleset) -> bool:
    """Tell whether a base chain goes, after which the kernel takes no flags in the same batch (6.9, EINVAL).

    nf_tables_api.c, nft_table_pending_update: "reject table flag and netdev basechain updates".
    """
    return any(not _stays(old, desired.chain(old.name)) for old in actual.chains)


def _update(draft: Draft, actual: Ruleset, desired: Ruleset, new_counters: tuple[Counter, ...]) -> None:
    table = desired.table
    draft.take(Verb.FLUSH, c.NFT_MSG_DELRULE, objects.every_rule(table))
    staying = {old.name for old in actual.chains if _stays(old, desired.chain(old.name))}
    for chain in actual.chains:
        if chain.name not in staying:
            draft.take(Verb.DELETE, c.NFT_MSG_DELCHAIN, objects.chain_name(table, chain.name), chain)
    for each in actual.sets:
        if desired.find_set(each.name) is None:
            draft.take(Verb.DELETE, c.NFT_MSG_DELSET, objects.set_name(table, each.name), each)
    wanted = {each.name for each in desired.counters}
    for counter in actual.counters:
        if counter.name not in wanted:
            draft.take(Verb.DELETE, c.NFT_MSG_DELOBJ, objects.counter_name(table, counter.name), counter)
    for old, new in _shared_sets(actual, desired):
        if old.elements != new.elements:
            draft.take(Verb.FLUSH, c.NFT_MSG_DELSETELEM, objects.every_element(table, old.name), old)
            _fill(draft, table, new)
    new_sets = tuple(each for each in desired.sets if actual.find_set(each.name) is None)
    new_chains = tuple(each for each in desired.chains if each.name not in staying)
    _add(draft, desired, new_counters, new_sets, new_chains)


def _add(
    draft: Draft, ruleset: Ruleset, counters: tuple[Counter, ...], sets: tuple[Set, ...], chains: tuple[Chain, ...]
) -> None:
    """Add these parts of a ruleset, and all of its rules."""
    table = ruleset.table
    for counter in counters:
        draft.add(c.NFT_MSG_NEWOBJ, objects.counter(table, counter), counter)
    for number, each in enumerate(sets, 1):
        draft.add(c.NFT_MSG_NEWSET, objects.new_set(table, each, number), each)
        _fill(draft, table, each)
    for chain in chains:
        draft.add(c.NFT_MSG_NEWCHAIN, objects.chain(table, chain), chain)
    for chain in ruleset.chains:
        for rule in chain.rules:
            body = objects.rule(table, chain.name, rule)
            draft.add(c.NFT_MSG_NEWRULE, body, rule, flags=c.NLM_F_CREATE | c.NLM_F_APPEND, chain=chain.name)


def _fill(draft: Draft, table: str, each: Set) -> None:
    for body, elements in objects.elements(table, each):
        draft.add(c.NFT_MSG_NEWSETELEM, body, each, elements=elements)


def _stays(old: Chain, new: Chain | None) -> bool:
    return new is not None and old.same_place(new)


def _shared_sets(actual: Ruleset, desired: Ruleset) -> list[tuple[Set, Set]]:
    both = ((old, desired.find_set(old.name)) for old in actual.sets)
    return [(old, new) for old, new in both if new is not None]
