"""Rules of others that are met before Weir's, and what they take from these.

Weir's nat chains stand at -101. What comes before, at prerouting and at output, are chains of nf_tables at that
priority or below, iptables-nft's among them, and raw (-300) and mangle (-150) of iptables-legacy. What filters or marks
may stand at -100 as well: that is where the kernel asks all nat chains. The nat chains of iptables (-100) are asked
after Weir's in both flavours, and of a connection that Weir has redirected not at all.

A look costs a dump of the chains and two small files. Rules are read only where something stands there, and a program
of iptables is started only where rules of iptables do.
"""

from collections.abc import Iterable
from dataclasses import replace

from agent.kernel import legacy
from agent.kernel.handle import Handle
from agent.kernel.tablequery import BaseChain, TableName
from agent.targets import Captured, Outcome, Rival, State
from agent.words import counted
from rulesets.model import Ruleset
from rulesets.vocabulary import Family

# Hooks by their number for inet, ip and ip6 (include/uapi/linux/netfilter.h, enum nf_inet_hooks): prerouting, output.
_HOOKS = (0, 3)
_FAMILIES = ("inet", "ip", "ip6")
_NAT_IS_ASKED_AT = -100  # NF_IP_PRI_NAT_DST
_LEGACY_TABLES = ("raw", "mangle")


def legacy_tables(handle: Handle) -> tuple[tuple[Family, tuple[str, ...]], ...]:
    """Return the tables of iptables-legacy that are met before Weir's chains, where there are any: 0.05 ms."""
    with handle.inside():
        found = [(family, legacy.tables(family) or ()) for family in Family]
    before = ((family, tuple(each for each in _LEGACY_TABLES if each in tables)) for family, tables in found)
    return tuple((family, tables) for family, tables in before if tables)


def earlier_chains(handle: Handle, ours: Ruleset) -> tuple[BaseChain, ...]:
    """Return the chains of others that hold something and that a packet meets before Weir's: 0.1 ms."""
    first = max((chain.priority for chain in ours.chains if chain.type == "nat"), default=_NAT_IS_ASKED_AT)
    return tuple(
        each
        for each in handle.base_chains()
        if each.table.family in _FAMILIES
        and each.table != TableName(family="inet", name=ours.table)
        and each.hook in _HOOKS
        and each.priority <= (first if each.type == "nat" else _NAT_IS_ASKED_AT)
        and (each.rules or each.drops)
    )


def summary(found: Iterable[Rival]) -> str:
    """Say how many rules change what is captured, or may, and what the first one does; empty where none does."""
    found = tuple(found)
    certain = sum(each.certain for each in found)
    said = [
        f"{counted(number, 'rule')} of others {verb}"
        for number, verb in (
            (certain, "changes what is captured" if certain == 1 else "change what is captured"),
            (len(found) - certain, "may change what is captured"),
        )
        if number
    ]
    return f"{' and '.join(said)}: {found[0]}" if found else ""


def noted(outcome: Outcome, found: tuple[Rival, ...]) -> Outcome:
    """Return the outcome of a target with what others take of it: where one does, it isn't captured as it should be."""
    if not isinstance(outcome.target.wish, Captured):
        return outcome
    if not found or outcome.state not in (State.UNCHANGED, State.APPLIED, State.DEGRADED):
        return replace(outcome, rivals=found) if outcome.rivals != found else outcome
    reason = f"{outcome.reason}; {summary(found)}"
    if not any(each.certain for each in found):
        return replace(outcome, reason=reason, rivals=found)
    return replace(outcome, state=State.DEGRADED, reason=reason, captured=False, rivals=found)
