"""What another agent has in a namespace, as values: enough to take just that out, and to put it back as it was."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from agent.kernel.foreign_routing import ForeignEntry
from agent.kernel.iptables import Flavour
from agent.migration.owners import bare
from rulesets.iptables import PROGRAMS, render_rule
from rulesets.model import Chain, RegularChain, Rule, Ruleset
from rulesets.model.jumps import jumps_to
from rulesets.vocabulary import Family

TABLES = ("raw", "mangle", "nat", "filter")


@dataclass(frozen=True, slots=True, kw_only=True)
class OldJump:
    """A rule of a chain that stays, which leads into one that goes: its place from 1, and what stands behind ``-A``."""

    chain: str
    at: int
    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OldTable:
    """What goes of one table of iptables: chains with their rules as iptables-restore takes them, and jumps to them."""

    table: str
    chains: tuple[tuple[str, tuple[str, ...]], ...]
    jumps: tuple[OldJump, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OldChains:
    """What goes of one flavour and family of iptables."""

    flavour: Flavour
    family: Family
    tables: tuple[OldTable, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The chains that go, with their tables (``nat/ISTIO_OUTPUT``)."""
        return tuple(f"{table.table}/{name}" for table in self.tables for name, _ in table.chains)

    @property
    def tracks(self) -> bool:
        """Whether it has rules in the nat table, which keep connection tracking of the family going."""
        return any(each.table == "nat" for each in self.tables)

    def __str__(self) -> str:
        return f"{PROGRAMS[self.family]}-{self.flavour}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OldNft:
    """A whole table of nft that goes, of the family inet, and the text that makes it."""

    table: str
    text: str

    @property
    def is_raw(self) -> bool:
        """Whether it is the one that has the zone of the proxy's DNS."""
        return self.table.endswith("-raw")


@dataclass(frozen=True, slots=True, kw_only=True)
class Old:
    """All that another agent has in a namespace. `owners` says whose it is; False where there is nothing."""

    owners: tuple[str, ...] = ()
    chains: tuple[OldChains, ...] = ()
    nft: tuple[OldNft, ...] = ()
    rules: tuple[ForeignEntry, ...] = ()
    routes: tuple[ForeignEntry, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.chains or self.nft)

    @property
    def tracked(self) -> frozenset[Family]:
        """The families whose connections are tracked for as long as these rules stand."""
        if any(each.table == "istio-ambient-nat" for each in self.nft):
            return frozenset(Family)
        return frozenset(each.family for each in self.chains if each.tracks)

    @property
    def zoned(self) -> bool:
        """Whether it may set the zone of the proxy's DNS."""
        tables = (table.table for part in self.chains for table in part.tables)
        return any(each.is_raw for each in self.nft) or "raw" in tables

    def describe(self) -> tuple[str, ...]:
        """Return all of it, a line each."""
        lines = [f"table inet {each.table}" for each in self.nft]
        for part in self.chains:
            for table in part.tables:
                lines += [f"{part} -t {table.table} -A {each.chain} {each.rule}" for each in table.jumps]
                for name, rules in table.chains:
                    lines += [f"{part} -t {table.table} -N {name}"]
                    lines += [f"{part} -t {table.table} -A {name} {rule}" for rule in rules]
        return (*lines, *(each.text for each in (*self.rules, *self.routes)))

    def document(self) -> dict[str, object]:
        """Return it as JSON can hold it."""
        entries = {
            kind: [{**asdict(each), "message": each.message.hex()} for each in some]
            for kind, some in (("rules", self.rules), ("routes", self.routes))
        }
        return {**asdict(self), **entries}


def parse(document: Mapping[str, Any]) -> Old:
    """Return what `document` gave. Raises `ValueError`, `KeyError` or `TypeError` for anything else."""

    def entries(kind: str) -> tuple[ForeignEntry, ...]:
        return tuple(
            ForeignEntry(**{**each, "family": Family(each["family"]), "message": bytes.fromhex(each["message"])})
            for each in document[kind]
        )

    return Old(
        owners=tuple(document["owners"]),
        chains=tuple(
            OldChains(
                flavour=Flavour(each["flavour"]),
                family=Family(each["family"]),
                tables=tuple(_table(table) for table in each["tables"]),
            )
            for each in document["chains"]
        ),
        nft=tuple(OldNft(**each) for each in document["nft"]),
        rules=entries("rules"),
        routes=entries("routes"),
    )


def _table(document: Mapping[str, Any]) -> OldTable:
    return OldTable(
        table=document["table"],
        chains=tuple((name, tuple(rules)) for name, rules in document["chains"]),
        jumps=tuple(OldJump(**each) for each in document["jumps"]),
    )


def chains_of(ruleset: Ruleset, flavour: Flavour, names: frozenset[str]) -> OldChains:
    """Return these chains of iptables' rules, with their tables in their names, and what jumps to them."""
    if ruleset.family is None:
        raise ValueError("only rules of iptables' own have chains of iptables")
    family = ruleset.family
    return OldChains(
        flavour=flavour,
        family=family,
        tables=tuple(
            OldTable(
                table=table,
                chains=tuple(
                    (bare(each.name), tuple(_with_count(rule, family) for rule in each.rules))
                    for each in ruleset.regular
                    if each.name in names and each.name.startswith(f"{table}/")
                ),
                jumps=tuple(_jumps(ruleset, table, names, family)),
            )
            for table in TABLES
            if any(name.startswith(f"{table}/") for name in names)
        ),
    )


def _jumps(ruleset: Ruleset, table: str, names: frozenset[str], family: Family) -> Iterator[OldJump]:
    chains: tuple[Chain | RegularChain, ...] = (*ruleset.chains, *ruleset.regular)
    for chain in chains:
        if chain.name in names or not chain.name.startswith(f"{table}/"):
            continue
        for at, rule in enumerate(chain.rules, 1):
            if jumps_to(rule) in names:
                yield OldJump(chain=bare(chain.name), at=at, rule=_with_count(rule, family))


def _with_count(rule: Rule, family: Family) -> str:
    """Return a rule as iptables-restore takes it, with what it has counted (iptables(8), --set-counters)."""
    text = render_rule(rule, family)
    return f"{text} -c {rule.count.packets} {rule.count.bytes}".lstrip() if rule.count else text
