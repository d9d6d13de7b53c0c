"""Whose rules are found: chains of iptables and tables of nft that redirect a pod into a proxy, by name and effect.

Names alone don't tell. Istio's sidecars have an ISTIO_OUTPUT too, and its node agent has a table of the same name on
the node, which only translates probes; Cilium's chains on a node have other names and other jobs.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from rulesets.model import Chain, RegularChain, Ruleset
from rulesets.vocabulary import ConnMark, Dnat, Hook, Mark, Redirect, Tproxy

ISTIO_TABLES = ("istio-ambient-raw", "istio-ambient-mangle", "istio-ambient-nat")
# The connection mark of every pod, a constant of its node agent (cni/pkg/config/config.go).
ISTIO_MARK = Mark(0x111, 0xFFF)
_IN_POD = frozenset({Hook.PREROUTING, Hook.OUTPUT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who has chains of such names. `needed`: one of these must be there, `alien`: and none of those."""

    name: str
    chains: re.Pattern[str]
    needed: re.Pattern[str]
    alien: re.Pattern[str] = re.compile(r"(?!)")


OWNERS = (
    Owner(
        name="Istio",
        chains=re.compile(r"ISTIO_(PRERT|OUTPUT)"),
        needed=re.compile(r"ISTIO_PRERT"),
        alien=re.compile(r"ISTIO_(IN_)?REDIRECT|ISTIO_INBOUND|ISTIO_TPROXY|ISTIO_DIVERT"),  # a sidecar's
    ),
    Owner(
        name="Cilium",
        chains=re.compile(r"CILIUM_(PREROUTING|OUTPUT)"),
        needed=re.compile(r"CILIUM_(PREROUTING|OUTPUT)"),
    ),
    Owner(
        name="Weir for iptables",
        chains=re.compile(r"weir-(pod|host)-(raw-out|mangle-out|nat-pre|nat-out)(-\d+)?"),
        needed=re.compile(r"weir-(pod|host)-.*"),
    ),
)


def chains_by_owner(ruleset: Ruleset) -> dict[str, tuple[str, ...]]:
    """Return the user-defined chains of iptables' rules (``nat/ISTIO_OUTPUT``) that capture for a proxy, by owner."""
    found = {}
    for owner in OWNERS:
        chains = [each for each in ruleset.regular if owner.chains.fullmatch(bare(each.name))]
        names = [bare(each.name) for each in ruleset.regular]
        if (
            any(owner.needed.fullmatch(name) for name in names)
            and not any(owner.alien.fullmatch(name) for name in names)
            and any(_captures(each) for each in chains)
        ):
            found[owner.name] = tuple(each.name for each in chains)
    return found


def is_istios_in_pod(ruleset: Ruleset) -> bool:
    """Tell whether an nft table is one of those that Istio's node agent writes into pods."""
    return (
        ruleset.nft_family == "inet"
        and ruleset.table in ISTIO_TABLES
        and not _IN_POD.isdisjoint(each.hook for each in ruleset.chains)
    )


def marks_of(chains: Iterable[Chain | RegularChain]) -> frozenset[Mark]:
    """Return the connection marks that rules ask for: by them answers find their way back to the proxy."""
    return frozenset(
        match.mark
        for chain in chains
        for rule in chain.rules
        for match in rule.matches
        if isinstance(match, ConnMark) and not match.negate
    )


def bare(name: str) -> str:
    """Return the name of a chain of iptables without its table."""
    return name.partition("/")[2]


def _captures(chain: RegularChain) -> bool:
    return any(isinstance(rule.action, Redirect | Dnat | Tproxy) for rule in chain.rules)
