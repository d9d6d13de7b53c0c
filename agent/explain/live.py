"""Everybody's rules in a namespace, as they are in force at this moment, each with what finds it again.

Sources: net/netfilter/core.c, nf_hook_entries_grow: of chains with one priority the one that was loaded last comes
first.
"""

import shlex
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace

from agent.doctor import marks
from agent.errors import WeirError
from agent.kernel.handle import Handle
from agent.kernel.iptables import TABLES as IPTABLES
from agent.kernel.nftables import Tables
from agent.kernel.rule_handles import rule_handles
from agent.kernel.tablequery import TableName
from rulesets import iptables, nft
from rulesets.model import Rule, Ruleset
from rulesets.vocabulary import Family, ModelError

_NFT_FAMILIES = {Family.IPV4: "ip", Family.IPV6: "ip6"}
LEGACY = "-legacy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Theirs:
    """Rules that are in force, and whose: ``table inet weir-pod``, ``iptables-legacy``.

    `family` is that of iptables' own rules, None for a table of nft's. `handles` are those of the rules of each chain,
    in their order; iptables-legacy has none.
    """

    place: str
    ruleset: Ruleset
    family: Family | None = None
    ours: bool = False
    handles: Mapping[str, tuple[int, ...]] = field(default_factory=dict, compare=False)

    def handle(self, chain: str, number: int) -> int:
        """Return the handle of a rule by its number from 1; 0 where there is none."""
        found = self.handles.get(chain, ())
        return found[number - 1] if 0 < number <= len(found) else 0

    def rule(self, chain: str, number: int) -> Rule | None:
        """Return a rule by its number from 1."""
        there = self.ruleset.chain(chain) or self.ruleset.regular_chain(chain)
        return there.rules[number - 1] if there and 0 < number <= len(there.rules) else None

    def text(self, rule: Rule) -> str:
        """Return a rule as its owner's program writes it; what that can't say, as it was listed.

        Weir's are without counter and comment: both are the slug.
        """
        try:
            text = iptables.render_rule(rule, self.family) if self.family is not None else nft.render_rule(rule)
            slug = f'"{rule.slug}"'
            return text.replace(f" counter name {slug}", "").removesuffix(f" comment {slug}") if self.ours else text
        except ModelError:
            return " ".join(each.verbatim for each in rule.foreign) or rule.slug

    def deletion(self, chain: str, number: int) -> str:
        """Return the command, to be run in the namespace, that takes a rule away."""
        if self.family is not None:
            table, _, name = chain.partition("/")
            return f"{self.place} -t {table} -D {shlex.quote(name)} {number}"
        table = self.place.removeprefix("table ")
        return f"nft delete rule {table} {shlex.quote(chain)} handle {self.handle(chain, number)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """All rules of a namespace: `tables` in the order in which chains of one priority are met, and what can't be read.

    `unread` says whose rules, and why.
    """

    tables: tuple[Theirs, ...]
    unread: tuple[str, ...] = ()


def read(handle: Handle, ours: str) -> Live:
    """Return everybody's rules in a namespace; `ours` is the name of Weir's table. Raises `WeirError` of our own."""
    order = [str(each) for each in dict.fromkeys(chain.table for chain in handle.base_chains())]
    found, unread = [], []
    for each in marks.read(handle):
        if each.ruleset is None:
            unread.append(f"{each.place}: {each.why}")
        elif "dormant" not in each.ruleset.flags:  # the kernel doesn't call its chains
            one = Theirs(place=each.place, ruleset=_newest_first(each.ruleset), family=each.family)
            found.append(_with_handles(handle, one))
    found += _ours(handle, ours)
    found.sort(key=lambda each: _loaded(each, order), reverse=True)
    return Live(tables=tuple(found), unread=tuple(unread))


def _ours(handle: Handle, name: str) -> list[Theirs]:
    table = TableName(family="inet", name=name)
    with handle.inside():
        library = Tables()
    with closing(library):
        listed = library.read_anybodys(table)
    whole = (Theirs(place=f"table {table}", ruleset=_newest_first(each), ours=True) for each in listed.rulesets)
    return [_with_handles(handle, each) for each in whole]


def _newest_first(ruleset: Ruleset) -> Ruleset:
    return ruleset if ruleset.is_iptables else replace(ruleset, chains=tuple(reversed(ruleset.chains)))


def _loaded(each: Theirs, order: list[str]) -> int:
    """Return a number that is greater for tables that were made later; legacy ones tell nothing, and come last."""
    if each.place.endswith(LEGACY):
        return len(order)
    names = [f"{_NFT_FAMILIES[each.family]} {table}" for table in IPTABLES] if each.family is not None else []
    names = names or [each.place.removeprefix("table ")]
    return max((order.index(name) for name in names if name in order), default=-1)


def _with_handles(handle: Handle, each: Theirs) -> Theirs:
    if each.place.endswith(LEGACY):
        return each
    try:
        with handle.inside():
            if each.family is None:
                family, _, name = each.place.removeprefix("table ").partition(" ")
                return replace(each, handles=rule_handles(TableName(family=family, name=name)))
            family = _NFT_FAMILIES[each.family]
            parts = {table: rule_handles(TableName(family=family, name=table)) for table in IPTABLES}
    except WeirError:
        return each  # it went away in this moment: its rules have no handle any more
    return replace(
        each, handles={f"{table}/{chain}": of for table, some in parts.items() for chain, of in some.items()}
    )
