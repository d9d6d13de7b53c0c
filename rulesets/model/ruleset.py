"""A table with its chains and counters."""

import re
from collections import Counter as Tally
from collections.abc import Iterator
from dataclasses import dataclass, field

from rulesets.model.jumps import find_bad_jump
from rulesets.model.rule import Count, Rule
from rulesets.model.sets import Set, key_of_field
from rulesets.vocabulary import (
    Action,
    ChainType,
    Dnat,
    Family,
    Foreign,
    Hook,
    InSet,
    ModelError,
    Policy,
    Redirect,
    Reject,
    Snat,
    SocketCgroup,
)

# Weir's own restraint: nft also takes dots and slashes.
OBJECT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
# What nft takes (scanner.l, string; NFT_NAME_MAXLEN of include/uapi/linux/netfilter/nf_tables.h with its zero).
NFT_NAME = re.compile(r"[A-Za-z_.][A-Za-z0-9/_.-]{0,254}", re.ASCII)
# A chain of iptables is named after its table: nat/OUTPUT, nat/KUBE-SERVICES.
_TABLED_NAME = re.compile(r"[a-z]+/\S{1,64}")
# The order in which a packet can meet the hooks; used to sort, so it only has to be stable.
_HOOKS = list(Hook)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A base chain: where the kernel calls it, and its rules in order. Lower priorities are called first.

    `count` is what came to the policy of one of iptables' chains.
    """

    name: str
    type: ChainType
    hook: Hook
    priority: int
    rules: tuple[Rule, ...] = ()
    policy: Policy = Policy.ACCEPT
    count: Count | None = None
    comment: str = ""

    def __post_init__(self) -> None:
        if self.hook not in _PLACES[self.type]:
            raise ModelError(f"chain {self.name!r}: no {self.type} chain stands at {self.hook}")
        # nf_tables_api.c, nft_chain_parse_hook: nat needs what connection tracking (-200) has found.
        lowest = -199 if self.type is ChainType.NAT else -(2**31)
        if not lowest <= self.priority < 2**31:
            raise ModelError(f"chain {self.name!r}: priority {self.priority} is not one of a {self.type} chain")
        for rule in self.rules:
            if rule.count is not None:
                continue  # the kernel has taken it, and what it takes of iptables it doesn't take of nft
            if not _may_stand(rule.action, self.type, self.hook):
                raise ModelError(
                    f"chain {self.name!r}: rule {rule.slug!r} can't stand in a {self.type} chain at {self.hook}"
                )
            if self.hook not in _SOCKET_HOOKS and any(isinstance(each, SocketCgroup) for each in rule.matches):
                raise ModelError(f"chain {self.name!r}: rule {rule.slug!r} asks for a socket, unknown at {self.hook}")

    def same_place(self, other: "Chain") -> bool:
        """Tell whether the other chain stands at the same place, so that only rules differ."""
        return (self.type, self.hook, self.priority, self.policy) == (
            other.type,
            other.hook,
            other.priority,
            other.policy,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RegularChain:
    """A chain that the kernel doesn't call: a packet meets it where a rule jumps or goes there."""

    name: str
    rules: tuple[Rule, ...] = ()
    comment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """A named counter. What it has counted is not part of its identity: a ruleset in use equals the one just loaded."""

    name: str
    packets: int = field(default=0, compare=False)
    bytes: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruleset:
    """One table of nft's with all that is in it, in canonical order; or all of iptables' tables of one family.

    `foreign` holds what someone else put into the table and Weir never writes: maps, flow tables. `family` is None for
    an ``inet`` table; a packet of the other family meets nothing of one that has a family.

    `theirs` is a table as anybody may have written it: its names are as nft takes them, its rules count by themselves
    or not at all, and everything stays in the order in which it was made, which decides where chains of one priority
    meet; `order` is that of all its chains. Its `flags` are the kernel's: the chains of one that is ``dormant`` are not
    called. Its `objects` are what only rules refer to: maps, flow tables, limits, sets of other types. They do nothing
    by themselves, and whatever refers to one is `Foreign`; so `foreign` there is only what a packet may meet: a chain
    at another hook.

    The tables of iptables are one value: a base chain is named after its table (``nat/OUTPUT``) and has the hook and
    the priority that the kernel gives it, a user-defined one is a regular chain (``nat/DOCKER``).
    """

    table: str
    chains: tuple[Chain, ...] = ()
    sets: tuple[Set, ...] = ()
    counters: tuple[Counter, ...] = ()
    foreign: tuple[Foreign, ...] = ()
    regular: tuple[RegularChain, ...] = ()
    family: Family | None = None
    theirs: bool = False
    flags: tuple[str, ...] = ()
    objects: tuple[Foreign, ...] = ()
    comment: str = ""
    order: tuple[str, ...] = field(default=(), compare=False)
    _regular: dict[str, RegularChain] = field(init=False, repr=False, compare=False)
    _sets: dict[str, Set] = field(init=False, repr=False, compare=False)
    _counters: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.theirs:
            object.__setattr__(self, "chains", tuple(sorted(self.chains, key=_chain_order)))
            object.__setattr__(self, "sets", tuple(sorted(self.sets, key=lambda each: each.name)))
            object.__setattr__(self, "counters", tuple(sorted(self.counters, key=lambda each: each.name)))
            object.__setattr__(self, "regular", tuple(sorted(self.regular, key=lambda each: each.name)))
        object.__setattr__(self, "_regular", {each.name: each for each in self.regular})
        object.__setattr__(self, "_sets", {each.name: each for each in self.sets})
        object.__setattr__(self, "_counters", frozenset(each.name for each in self.counters))
        if len(self._regular) < len(self.regular):
            raise ModelError(f"two chains have one name in table {self.table!r}")
        form = NFT_NAME if self.theirs else OBJECT_NAME
        _refuse_names("table", (self.table,), form)
        chain_form = _TABLED_NAME if self.is_iptables else form
        _refuse_names("chain", (*(each.name for each in self.chains), *self._regular), chain_form)
        _refuse_names("set", tuple(each.name for each in self.sets), form)
        _refuse_names("counter", tuple(each.name for each in self.counters), form)
        bad = find_bad_jump(*({each.name: each.rules for each in chains} for chains in (self.chains, self.regular)))
        if bad:
            raise ModelError(f"chain {bad.chain!r}, rule {bad.number}: {bad.why}")
        for rule in self.rules():
            missing = self._missing(rule)
            if missing and not rule.foreign:
                raise ModelError(f"rule {rule.slug!r} needs {missing}, which does not exist or is of another type")

    def _missing(self, rule: Rule) -> str:
        """Return what a rule refers to and the table does not have, or nothing."""
        if rule.count is None and rule.slug not in self._counters:
            return f"counter {rule.slug!r}"
        for match in rule.matches:
            if isinstance(match, InSet):
                found = self.find_set(match.name)
                if found is None or found.key != key_of_field(match.field):
                    return f"set {match.name!r}"
        return ""

    @property
    def is_iptables(self) -> bool:
        """Whether these are rules of iptables' own, rather than a table of nft's."""
        return self.family is not None and not self.theirs

    @property
    def nft_family(self) -> str:
        """The family of the table as nft calls it: inet, ip or ip6."""
        return "inet" if self.family is None else "ip" if self.family is Family.IPV4 else "ip6"

    def rules(self) -> Iterator[Rule]:
        """Yield every rule, chain by chain."""
        for chain in self.chains:
            yield from chain.rules
        for regular in self.regular:
            yield from regular.rules

    def ordered(self) -> tuple[Chain | RegularChain, ...]:
        """Return all chains: regular ones first, or in the order in which others made them."""
        places = {name: at for at, name in enumerate(self.order)}
        return tuple(sorted((*self.regular, *self.chains), key=lambda each: places.get(each.name, -1)))

    def regular_chain(self, name: str) -> RegularChain | None:
        """Return the regular chain of this name, or None."""
        return self._regular.get(name)

    def chain(self, name: str) -> Chain | None:
        """Return the chain of this name, or None."""
        return next((chain for chain in self.chains if chain.name == name), None)

    def find_set(self, name: str) -> Set | None:
        """Return the set of this name, or None."""
        return self._sets.get(name)


def with_counters(table: str, chains: tuple[Chain, ...], sets: tuple[Set, ...] = ()) -> Ruleset:
    """Return the ruleset of these chains and sets, with a counter for every slug in use."""
    slugs = {rule.slug for chain in chains for rule in chain.rules}
    return Ruleset(table=table, chains=chains, sets=sets, counters=tuple(Counter(name=slug) for slug in slugs))


_NAT_HOOKS = (Hook.PREROUTING, Hook.INPUT, Hook.OUTPUT, Hook.POSTROUTING)
_SOCKET_HOOKS = (Hook.PREROUTING, Hook.INPUT, Hook.OUTPUT)  # net/netfilter/nft_socket.c, nft_socket_validate
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


def _refuse_names(kind: str, names: tuple[str, ...], form: re.Pattern[str] = OBJECT_NAME) -> None:
    for name in names:
        if not form.fullmatch(name):
            length = 255 if form is NFT_NAME else 63
            raise ModelError(
                f"{kind} {name!r}: a name is 1 to {length} letters, digits, dashes and underscores, a letter first"
            )
    twice = [name for name, times in Tally(names).items() if times > 1]
    if twice:
        raise ModelError(f"two {kind}s have one name: {twice[0]!r}")


def _chain_order(chain: Chain) -> tuple[int, int, str]:
    return (chain.priority, _HOOKS.index(chain.hook), chain.name)
