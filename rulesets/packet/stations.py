"""What a packet meets at each hook, in order: base chains, and where connection tracking translates."""

from collections.abc import Iterable
from dataclasses import dataclass

from rulesets.model import Chain, Ruleset
from rulesets.vocabulary import ChainType, Family, Hook

CONNTRACK_PRIORITY = -200  # NF_IP_PRI_CONNTRACK, include/uapi/linux/netfilter_ipv4.h
_TRANSLATING = {Hook.PREROUTING: -100, Hook.OUTPUT: -100, Hook.INPUT: 100, Hook.POSTROUTING: 100}


@dataclass(frozen=True, slots=True)
class Station:
    """A base chain of the ruleset with this number, or no chain: there connections that have a mapping get it."""

    ruleset: int
    chain: Chain | None

    @property
    def early(self) -> bool:
        """Whether connection tracking comes later."""
        chain = self.chain
        return (
            chain is not None and chain.priority < CONNTRACK_PRIORITY and chain.hook in (Hook.PREROUTING, Hook.OUTPUT)
        )


def stations(rulesets: Iterable[tuple[int, Ruleset]], family: Family) -> dict[Hook, tuple[Station, ...]]:
    """Return what a packet of a family meets at each hook, of several rulesets that are in force at once.

    Whatever their priorities, all nat chains of a hook are asked at the place where the kernel translates, in their
    own order (nf_nat_core.c, nf_nat_register_fn; nf_nat_proto.c, nf_nat_ipv4_ops). Of two chains at one place with one
    priority that of the earlier ruleset comes first; in the kernel it is whichever was loaded first.
    """
    met = [
        Station(number, chain) for number, each in rulesets if each.family in (None, family) for chain in each.chains
    ]
    met.sort(key=lambda station: station.chain.priority if station.chain else 0)
    return {hook: _at(hook, met) for hook in Hook}


def _at(hook: Hook, met: list[Station]) -> tuple[Station, ...]:
    here = sorted((each for each in met if each.chain and each.chain.hook is hook), key=_place)
    if hook in _TRANSLATING and any(each.chain and each.chain.type is ChainType.NAT for each in met):
        first = next((at for at, each in enumerate(here) if each.chain and each.chain.type is ChainType.NAT), None)
        if first is None:
            first = sum(_place(each) < _TRANSLATING[hook] for each in here)
        here.insert(first, Station(-1, None))
    return tuple(here)


def _place(station: Station) -> int:
    chain = station.chain
    if chain is None:
        return 0
    return _TRANSLATING[chain.hook] if chain.type is ChainType.NAT else chain.priority
