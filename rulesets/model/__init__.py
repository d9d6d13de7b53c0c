"""The ruleset as one value: table, chains, rules, sets and counters.

The model refuses what nft would refuse, and what nft would list back in another form, so that a `Ruleset` that exists
can be loaded, and reads back equal. Names, here and in the kernel, are nft's own (nft(8)).
"""

from rulesets.model.rule import Count, Rule, implied_families, implied_protocols
from rulesets.model.ruleset import Chain, Counter, RegularChain, Ruleset, with_counters
from rulesets.model.sets import (
    INET_SERVICE,
    IPV4_ADDR,
    IPV4_ADDR_PORT,
    IPV6_ADDR,
    IPV6_ADDR_PORT,
    AddressPort,
    AddressRange,
    Element,
    ElementValue,
    KeyType,
    Set,
)

__all__ = [
    "INET_SERVICE",
    "IPV4_ADDR",
    "IPV4_ADDR_PORT",
    "IPV6_ADDR",
    "IPV6_ADDR_PORT",
    "AddressPort",
    "AddressRange",
    "Chain",
    "Count",
    "Counter",
    "Element",
    "ElementValue",
    "KeyType",
    "RegularChain",
    "Rule",
    "Ruleset",
    "Set",
    "implied_families",
    "implied_protocols",
    "with_counters",
]
