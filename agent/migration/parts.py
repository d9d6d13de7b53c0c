"""Rules of another agent taken out, and put back as they were. Functions act in the calling thread's namespace.

What is of nft changes in one transaction. Of iptables each table changes in one step, and every other rule of it stays
with what it has counted; the legacy flavour comes last, since its programs share one lock with the whole machine.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from agent.errors import KernelError, LockHeld, NotAsWritten
from agent.kernel import iptables as programs
from agent.kernel.iptables import Flavour
from agent.kernel.nftables import Tables
from agent.kernel.rawnetlink import NETLINK_NETFILTER, RawNetlink
from agent.kernel.tablequery import tables as tables_of
from agent.migration.old import Old, OldChains, OldNft, OldTable, chains_of
from rulesets.model import Ruleset
from rulesets.model.jumps import jumps_to

# Seconds for which the lock of the legacy programs is waited for: before it is said, and after.
LOCK_AT_ONCE, LOCK_PATIENCE = 1, 30
_COUNTED = re.compile(r" packets \d+ bytes \d+")
_TRY_AGAIN = "somebody else changes them at this moment: try again"


def take_out(old: Old, tell: Callable[[str], None], *, dns: bool, patience: int = LOCK_PATIENCE) -> None:
    """Take out chains and tables, and the jumps to them: with `dns` those of raw, without it all others.

    What has gone already is no matter. Raises `LockHeld` when the lock wasn't free within `patience` seconds, after all
    else has gone.
    """
    some = _some(old, dns=dns)
    _delete_nft(each.table for each in some.nft)
    for part in some.chains:

        def remove(wait: int, part: OldChains = part) -> None:
            programs.remove(part.flavour, part.family, part.names, wait=wait)

        _patiently(remove, tell, patience)


def standing(old: Old) -> Old:
    """Return what of it is still there, table by table."""
    names = _nft_tables() if old.nft else frozenset()
    chains = []
    for part in old.chains:
        found = {each.name for each in programs.read(part.flavour, part.family).regular}
        tables = (each for each in part.tables if any(f"{each.table}/{name}" in found for name, _ in each.chains))
        chains.append(replace(part, tables=tuple(tables)))
    return replace(
        old,
        nft=tuple(each for each in old.nft if each.table in names),
        chains=tuple(each for each in chains if each.tables),
    )


def put_back(old: Old, tell: Callable[[str], None], *, dns: bool, patience: int = LOCK_PATIENCE) -> None:
    """Put chains, tables and jumps back, whatever of them is there: with `dns` the raw tables, without it all others.

    Raises as `take_out`.
    """
    some = _some(old, dns=dns)
    _load_nft(some.nft)
    for part in some.chains:

        def restore(wait: int, wanted: OldChains = part) -> None:
            actual = programs.read(wanted.flavour, wanted.family)
            programs.restore(wanted.flavour, wanted.family, restoration(actual, wanted), wait=wait)

        _patiently(restore, tell, patience)


def verify_back(old: Old, *, dns: bool) -> None:
    """Read back what `put_back` wrote. Raises `NotAsWritten` with the first thing that isn't as it was."""
    some = _some(old, dns=dns)
    for each in some.nft:
        if _nft_text(each.table) != _COUNTED.sub("", each.text):
            raise NotAsWritten(
                statement=f"nft list table inet {each.table}",
                said="the rules are not those that were put back",
                hint=_TRY_AGAIN,
            )
    for part in some.chains:
        actual = programs.read(part.flavour, part.family)
        found = {each.table: each for each in chains_of(actual, part.flavour, frozenset(part.names)).tables}
        for table in part.tables:
            there = found.get(table.table)
            if there is None or _uncounted(there) != _uncounted(table):
                raise NotAsWritten(
                    statement=f"{part}-save -t {table.table}",
                    said="the rules are not those that were put back",
                    hint=_TRY_AGAIN,
                )


def restoration(actual: Ruleset, wanted: OldChains) -> str:
    """Return what ``iptables-restore --noflush`` is to be given, so that chains and jumps are again where they were.

    A chain that is there is filled anew. A jump goes to its old place, or to the end where the chain is shorter now.
    """
    lines: list[str] = []
    for table in wanted.tables:
        lines += [f"*{table.table}", *(f":{name} - [0:0]" for name, _ in table.chains)]
        for name, rules in table.chains:
            lines += [f"-A {name} {rule}".rstrip() for rule in rules]
        for chain in dict.fromkeys(each.chain for each in table.jumps):
            lines += _jumps(actual, table, chain)
        lines.append("COMMIT")
    return "".join(f"{line}\n" for line in lines)


def _jumps(actual: Ruleset, table: OldTable, chain: str) -> Iterator[str]:
    ours = {f"{table.table}/{name}" for name, _ in table.chains}
    full = f"{table.table}/{chain}"
    found = actual.chain(full) or actual.regular_chain(full)
    there = sum(jumps_to(rule) in ours for rule in found.rules) if found else 0
    wanted = [each for each in table.jumps if each.chain == chain]
    if there == len(wanted):
        return
    length = len(found.rules) if found else 0
    if there:
        raise KernelError(
            statement=f"iptables-save -t {table.table}",
            said=f"chain {chain} has {there} of {len(wanted)} jumps to {', '.join(sorted(ours))}",
            hint="somebody else put rules back: delete these jumps, then try again",
        )
    for each in wanted:
        yield f"-I {chain} {min(each.at, length + 1)} {each.rule}"
        length += 1


def _uncounted(table: OldTable) -> object:
    rules = {name: [rule.partition(" -c ")[0] for rule in rules] for name, rules in table.chains}
    return rules, sorted((each.chain, each.rule.partition(" -c ")[0]) for each in table.jumps)


def _some(old: Old, *, dns: bool) -> Old:
    """Return what is of the raw tables, or all else; the legacy flavour last."""
    chains = (
        replace(part, tables=tuple(each for each in part.tables if (each.table == "raw") is dns)) for part in old.chains
    )
    return replace(
        old,
        nft=tuple(each for each in old.nft if each.is_raw is dns),
        chains=tuple(sorted((each for each in chains if each.tables), key=lambda each: each.flavour is Flavour.LEGACY)),
    )


def _patiently(change: Callable[[int], None], tell: Callable[[str], None], patience: int) -> None:
    try:
        change(min(LOCK_AT_ONCE, patience))
    except LockHeld as held:
        if patience <= LOCK_AT_ONCE:
            raise
        tell(f"waiting: {held.said.partition(chr(10))[0]}; {patience} s more at most")
        change(patience)


def _delete_nft(names: Iterable[str]) -> None:
    there = _nft_tables()
    gone = [f"delete table inet {name}" for name in names if name in there]
    if gone:
        _loaded("\n".join(gone) + "\n")


def _load_nft(tables: Iterable[OldNft]) -> None:
    # Each as it was, whatever is there: one that is there goes in the same step.
    text = "".join(f"add table inet {each.table}\ndelete table inet {each.table}\n{each.text}\n" for each in tables)
    if text:
        _loaded(text)


def _loaded(text: str) -> None:
    tables = Tables()
    try:
        tables.load(text)
    finally:
        tables.close()


def _nft_text(table: str) -> str:
    """Return a table's text without what it has counted; empty where there is no such table."""
    if table not in _nft_tables():
        return ""
    tables = Tables()
    try:
        return _COUNTED.sub("", tables.text(table))
    finally:
        tables.close()


def _nft_tables() -> frozenset[str]:
    with RawNetlink(NETLINK_NETFILTER, feature="nf_tables", option="CONFIG_NF_TABLES") as netlink:
        return frozenset(each.name for each in tables_of(netlink) if each.family == "inet")
