"""A table with its chains and counters."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from rulesets.model.rule import Rule
from rulesets.model.sets import Set, key_of_field
from rulesets.vocabulary import (
    Action,
    ChainType,
    Dnat,
    Foreign,
    Hook,
    InSet,
    ModelError,
    Policy,
    Redirect,
    Reject,
    Snat,
)

# Weir's own restraint: nft also takes dots and slashes.
OBJECT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
# The order in which a packet can meet the hooks; used to sort, so it only has to be stable.
_HOOKS = list(Hook)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A base chain: where the kernel calls it, and its rules in order. Lower priorities are called first."""

    name: str
    type: ChainType
    hook: Hook
    priority: int
    rules: tuple[Rule, ...] = ()
    policy: Policy = Policy.ACCEPT

    def __post_init__(self) -> None:
        if self.hook not in _PLACES[self.type]:
            raise ModelError(f"chain {self.name!r}: no {self.type} chain stands at {self.hook}")
        # nf_tables_api.c, nft_chain_parse_hook: nat needs what connection tracking (-200) has found.
        lowest = -199 if self.type is ChainType.NAT else -(2**31)
        if not lowest <= self.priority < 2**31:
            raise ModelError(f"chain {self.name!r}: priority {self.priority} is not one of a {self.type} chain")
        for rule in self.rules:
            if not _may_stand(rule.action, self.type, self.hook):
                raise ModelError(
                    f"chain {self.name!r}: rule {rule.slug!r} can't stand in a {self.type} chain at {self.hook}"
                )

    def same_place(self, other: "Chain") -> bool:
        """Tell whether the other chain stands at the same place, so that only rules differ."""
        return (self.type, self.hook, self.priority, self.policy) == (
            other.type,
            other.hook,
            other.priority,
            other.policy,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """A named counter. What it has counted is not part of its identity: a ruleset in use equals the one just loaded."""

    name: str
    packets: int = field(default=0, compare=False)
    bytes: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruleset:
    """One ``inet`` table with all that is in it, in canonical order.

    `foreign` holds what someone else put into the table and Weir never writes: regular chains, maps, flow tables.
    """

    table: str
    chains: tuple[Chain, ...] = ()
    sets: tuple[Set, ...] = ()
    counters: tuple[Counter, ...] = ()
    foreign: tuple[Foreign, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "chains", tuple(sorted(self.chains, key=_chain_order)))
        object.__setattr__(self, "sets", tuple(sorted(self.sets, key=lambda each: each.name)))
        object.__setattr__(self, "counters", tuple(sorted(self.counters, key=lambda each: each.name)))
        _refuse_names("table", (self.table,))
        _refuse_names("chain", tuple(each.name for each in self.chains))
        _refuse_names("set", tuple(each.name for each in self.sets))
        _refuse_names("counter", tuple(each.name for each in self.counters))
        for rule in self.rules():
            missing = self._missing(rule)
            if missing and not rule.foreign:
                raise ModelError(f"rule {rule.slug!r} needs {missing}, which does not exist or is of another type")

    def _missing(self, rule: Rule) -> str:
        """Return what a rule refers to and the table does not have, or nothing."""
        if all(each.name != rule.slug for each in self.counters):
            return f"counter {rule.slug!r}"
        for match in rule.matches:
            if isinstance(match, InSet):
                found = self.find_set(match.name)
                if found is None or found.key != key_of_field(match.field):
                    return f"set {match.name!r}"
        return ""

    def rules(self) -> Iterator[Rule]:
        """Yield every rule, chain by chain."""
        for chain in self.chains:
            yield from chain.rules

    def chain(self, name: str) -> Chain | None:
        """Return the chain of this name, or None."""
        return next((chain for chain in self.chains if chain.name == name), None)

    def find_set(self, name: str) -> Set | None:
        """Return the set of this name, or None."""
        return next((each for each in self.sets if each.name == name), None)


def with_counters(table: str, chains: tuple[Chain, ...], sets: tuple[Set, ...] = ()) -> Ruleset:
    """Return the ruleset of these chains and sets, with a counter for every slug in use."""
    slugs = {rule.slug for chain in chains for rule in chain.rules}
    return Ruleset(table=table, chains=chains, sets=sets, counters=tuple(Counter(name=slug) for slug in slugs))


_NAT_HOOKS = (Hook.PREROUTING, Hook.INPUT, Hook.OUTPUT, Hook.POSTROUTING)
_PLACES = {ChainType.FILTER: tuple(Hook), ChainType.ROUTE: (Hook.OUTPUT,), ChainType.NAT: _NAT_HOOKS}


def _may_stand(action: Action, kind: ChainType, hook: Hook) -> bool:
    """Tell whether the kernel takes an action at this place (the validate functions of net/netfilter/nft_*.c)."""
    match action:
        case Redirect() | Dnat():
            return kind is ChainType.NAT and hook in (Hook.PREROUTING, Hook.OUTPUT)
        case Snat():
            return kind is ChainType.NAT and hook in (Hook.INPUT, Hook.POSTROUTING)
        case Reject():
            return hook is not Hook.POSTROUTING
        case _:
            return True


def _refuse_names(kind: str, names: tuple[str, ...]) -> None:
    for name in names:
        if not OBJECT_NAME.fullmatch(name):
            raise ModelError(
                f"{kind} {name!r}: a name is 1 to 63 letters, digits, dashes and underscores, a letter first"
            )
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ModelError(f"two {kind}s have one name: {twice[0]!r}")


def _chain_order(chain: Chain) -> tuple[int, int, str]:
    return (chain.priority, _HOOKS.index(chain.hook), chain.name)
