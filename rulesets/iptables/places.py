"""Where iptables' chains stand: the tables, their built-in chains, and the hook and priority of each in the kernel."""

from dataclasses import dataclass

from rulesets.model import Chain, Count, Rule
from rulesets.vocabulary import ChainType, Family, Hook, ModelError, Policy

PROGRAMS = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A built-in chain, and the chain type, hook and priority that come to the same."""

    table: str
    chain: str
    type: ChainType
    hook: Hook
    priority: int

    @property
    def name(self) -> str:
        """The chain's name in a `Ruleset`, such as ``nat/OUTPUT``."""
        return f"{self.table}/{self.chain}"

    def chain_of(self, rules: tuple[Rule, ...], policy: Policy = Policy.ACCEPT, count: Count | None = None) -> Chain:
        """Return the built-in chain with these rules."""
        return Chain(
            name=self.name,
            type=self.type,
            hook=self.hook,
            priority=self.priority,
            rules=rules,
            policy=policy,
            count=count or Count(),
        )


def _places(table: str, priority: int, *hooks: Hook, kind: ChainType = ChainType.FILTER) -> tuple[Place, ...]:
    return tuple(
        Place(table=table, chain=hook.value.upper(), type=kind, hook=hook, priority=priority) for hook in hooks
    )


# include/uapi/linux/netfilter_ipv4.h, enum nf_ip_hook_priorities. mangle's OUTPUT looks the route up again when the
# mark changed (iptable_mangle.c); nat translates destinations at -100 and sources at 100 (nf_nat_proto.c).
_RAW = _places("raw", -300, Hook.PREROUTING, Hook.OUTPUT)
_MANGLE = (
    *_places("mangle", -150, Hook.PREROUTING, Hook.INPUT, Hook.FORWARD),
    *_places("mangle", -150, Hook.OUTPUT, kind=ChainType.ROUTE),
    *_places("mangle", -150, Hook.POSTROUTING),
)
_NAT = (
    *_places("nat", -100, Hook.PREROUTING, kind=ChainType.NAT),
    *_places("nat", 100, Hook.INPUT, kind=ChainType.NAT),
    *_places("nat", -100, Hook.OUTPUT, kind=ChainType.NAT),
    *_places("nat", 100, Hook.POSTROUTING, kind=ChainType.NAT),
)
_FILTER = _places("filter", 0, Hook.INPUT, Hook.FORWARD, Hook.OUTPUT)
_SECURITY = _places("security", 50, Hook.INPUT, Hook.FORWARD, Hook.OUTPUT)

TABLES: dict[str, tuple[Place, ...]] = {
    "raw": _RAW,
    "mangle": _MANGLE,
    "nat": _NAT,
    "filter": _FILTER,
    "security": _SECURITY,
}
# security is for what security modules label, so no rule of nft's is put there.
_WRITTEN = (*_RAW, *_MANGLE, *_NAT, *_FILTER)


def place_of(chain: Chain) -> Place:
    """Return the built-in chain that an nft chain becomes a part of, in front of what others have there.

    iptables' priorities are fixed. An nft chain at the same priority, or at one before it (as Weir's -101 is before
    -100), becomes a user-defined chain to which the built-in chain's first rule jumps. Raises `ModelError`.
    """
    for place in _WRITTEN:
        if (place.type, place.hook) == (chain.type, chain.hook) and place.priority - chain.priority in (0, 1):
            return place
    raise ModelError(
        f"chain {chain.name!r}: iptables has no {chain.type} chain at {chain.hook} with priority {chain.priority}"
    )
