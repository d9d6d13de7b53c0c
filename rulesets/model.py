"""The ruleset as one value: table, chains, rules, sets and counters.

The model refuses what nft would refuse, and what nft would list back in another form, so that a `Ruleset` that exists
can be loaded, and reads back equal. Names, here and in the kernel, are nft's own (nft(8)).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import assert_never

from rulesets.vocabulary import (
    Accept,
    Action,
    Address,
    ChainType,
    ConnMark,
    CtZone,
    Dnat,
    Dst,
    DstPort,
    Family,
    Foreign,
    Hook,
    InIface,
    InSet,
    LocalAddress,
    LocalSocket,
    Match,
    ModelError,
    Network,
    OfFamily,
    OutIface,
    PacketMark,
    Policy,
    PortRange,
    Proto,
    Protocol,
    Redirect,
    Reject,
    RejectWith,
    SetConnMark,
    SetField,
    SetMark,
    Snat,
    SocketUser,
    Src,
    SrcPort,
    TcpFlags,
    family_of,
)

_SLUG = re.compile(r"[a-z][a-z0-9-]{0,62}")
_OBJECT = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
# The order in which a packet can meet the hooks; used to sort, so it only has to be stable.
_HOOKS = list(Hook)


def implied_protocols(match: Match) -> tuple[Protocol, ...]:
    """Return the transport protocol that a match tests for, stated or implied; nothing when it tests for none."""
    match match:
        case Proto(protocol=protocol, negate=False):
            return (protocol,)
        case SrcPort(protocol=protocol) | DstPort(protocol=protocol):
            return (protocol,)
        case TcpFlags():
            return (Protocol.TCP,)
        case InSet(field=SetField.TCP_DST_PORT | SetField.DST_V4_TCP_DST_PORT | SetField.DST_V6_TCP_DST_PORT):
            return (Protocol.TCP,)
        case _:
            return ()


def implied_families(match: Match) -> tuple[Family, ...]:
    """Return the family that a match tests for, stated or implied; nothing when it tests for none."""
    match match:
        case OfFamily(family=family):
            return (family,)
        case Src(network=network) | Dst(network=network):
            return (family_of(network),)
        case InSet(field=SetField.SRC_V4 | SetField.DST_V4 | SetField.DST_V4_TCP_DST_PORT):
            return (Family.IPV4,)
        case InSet(field=SetField.SRC_V6 | SetField.DST_V6 | SetField.DST_V6_TCP_DST_PORT):
            return (Family.IPV6,)
        case _:
            return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Matches, all of which must hold, and what then happens.

    `slug` is the reason for the rule: its comment in the kernel, the name of its counter, its line in a diff and its
    label in metrics. It may be empty only in a rule that was parsed and holds something `Foreign`.
    """

    slug: str
    matches: tuple[Match, ...]
    action: Action

    def __post_init__(self) -> None:
        if self.foreign:
            return
        try:
            self._refuse_what_nft_refuses()
        except ModelError as error:
            raise ModelError(f"rule {self.slug!r}: {error}") from None

    @property
    def foreign(self) -> tuple[Foreign, ...]:
        """The parts of this rule that Weir never writes."""
        return tuple(part for part in (*self.matches, self.action) if isinstance(part, Foreign))

    def _refuse_what_nft_refuses(self) -> None:
        if not _SLUG.fullmatch(self.slug):
            raise ModelError("a slug is 1 to 63 lower-case letters, digits and dashes, a letter first")
        protocols = [protocol for match in self.matches for protocol in implied_protocols(match)]
        families = [family for match in self.matches for family in implied_families(match)]
        if len(set(protocols)) > 1 or len(set(families)) > 1:
            raise ModelError("no packet is of two protocols or families")
        if protocols and any(isinstance(match, Proto) for match in self.matches) and len(protocols) > 1:
            raise ModelError("a protocol stands beside a match that implies it, which nft would leave out of its listing")
        if families and any(isinstance(match, OfFamily) for match in self.matches) and len(families) > 1:
            raise ModelError("a family stands beside a match that implies it, which nft would leave out of its listing")
        for match in self.matches:
            self._refuse_match(match)
        self._refuse_action(protocols[0] if protocols else None, families[0] if families else None)

    @staticmethod
    def _refuse_match(match: Match) -> None:
        match match:
            case InIface(name=name) | OutIface(name=name):
                if not 0 < len(name.removesuffix("*")) < 16 or '"' in name or "*" in name[:-1]:
                    raise ModelError(f"{name!r} names no interface")
            case SrcPort(protocol=protocol) | DstPort(protocol=protocol):
                if protocol not in (Protocol.TCP, Protocol.UDP):
                    raise ModelError(f"{protocol} has no ports")
            case SocketUser(user=user):
                # 2**32 - 1 is the kernel's "no user" (include/linux/uidgid.h, INVALID_UID).
                if not 0 <= user < 2**32 - 1:
                    raise ModelError(f"{user} is not a numeric user")
            case _:
                pass

    def _refuse_action(self, protocol: Protocol | None, family: Family | None) -> None:
        match self.action:
            case Redirect(port=port) | Dnat(port=port):
                if protocol not in (Protocol.TCP, Protocol.UDP):
                    raise ModelError("a redirect to a port needs a match for TCP or UDP in the same rule")
                if not 0 < port < 65536:
                    raise ModelError(f"port {port} is not one of 1 to 65535")
            case Reject(reply=RejectWith.TCP_RESET):
                if protocol is not Protocol.TCP:
                    raise ModelError("a TCP reset answers TCP only: the same rule needs a match for it")
                if any(isinstance(match, OfFamily) for match in self.matches):
                    # nft 1.0.6 leaves `meta nfproto` out when it lists such a rule: it would never read back equal.
                    raise ModelError("nft does not list a family beside a TCP reset")
            case Reject(reply=RejectWith.PORT_UNREACHABLE):
                pass
            case Snat(address=address):
                if family is not family_of(address):
                    raise ModelError(f"source {address} needs a match for its family in the same rule")
            case CtZone(zone=zone):
                if not 0 < zone < 65536:
                    raise ModelError(f"zone {zone} is not one of 1 to 65535")
            case Accept() | SetMark() | SetConnMark() | Foreign():
                pass
            case _:
                assert_never(self.action)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A base chain: where the kernel calls it, and its rules in order. Lower priorities are called first."""

    name: str
    type: ChainType
    hook: Hook
    priority: int
    rules: tuple[Rule, ...] = ()
    policy: Policy = Policy.ACCEPT

    def same_place(self, other: "Chain") -> bool:
        """Tell whether the other chain stands at the same place, so that only rules differ."""
        return (self.type, self.hook, self.priority, self.policy) == (
            other.type,
            other.hook,
            other.priority,
            other.policy,
        )


@dataclass(frozen=True, slots=True, order=True)
class AddressPort:
    """An address with a destination port, the element of a concatenated set."""

    address: Address
    port: int


@dataclass(frozen=True, slots=True, order=True)
class AddressRange:
    """Addresses from `first` to `last`, where they are no network. Weir writes networks; others may write ranges."""

    first: Address
    last: Address


ElementValue = Network | PortRange | AddressPort | AddressRange


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """One element of a set, with the comment that says whose it is."""

    value: ElementValue
    comment: str = ""


class KeyType(str):
    """The nft type of a set's elements, such as ``ipv4_addr`` or ``ipv4_addr . inet_service``."""

    __slots__ = ()


IPV4_ADDR = KeyType("ipv4_addr")
IPV6_ADDR = KeyType("ipv6_addr")
INET_SERVICE = KeyType("inet_service")
IPV4_ADDR_PORT = KeyType("ipv4_addr . inet_service")
IPV6_ADDR_PORT = KeyType("ipv6_addr . inet_service")


@dataclass(frozen=True, slots=True, kw_only=True)
class Set:
    """A named set. `interval` sets hold networks and ranges, others single values; elements are kept sorted."""

    name: str
    key: KeyType
    interval: bool
    elements: tuple[Element, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", tuple(sorted(self.elements, key=_element_order)))


def _element_order(element: Element) -> tuple[int, int, str]:
    match element.value:
        case PortRange(first=first, last=last):
            return (first, last, element.comment)
        case AddressPort(address=address, port=port):
            return (int(address), port, element.comment)
        case AddressRange(first=low, last=high):
            return (int(low), int(high), element.comment)
        case network:
            return (int(network.network_address), network.prefixlen, element.comment)


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
        for name in (self.table, *(each.name for each in (*self.chains, *self.sets, *self.counters))):
            if not _OBJECT.fullmatch(name) and not self.foreign:
                raise ModelError(f"{name!r} is not a name of 1 to 63 letters, digits, dashes and underscores")
        known_sets, known_counters = {each.name for each in self.sets}, {each.name for each in self.counters}
        for rule in self.rules():
            if rule.foreign:
                continue
            if rule.slug not in known_counters:
                raise ModelError(f"rule {rule.slug!r} has no counter of its name")
            for match in rule.matches:
                if isinstance(match, InSet) and match.name not in known_sets:
                    raise ModelError(f"rule {rule.slug!r} looks into set {match.name!r}, which does not exist")

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


def _chain_order(chain: Chain) -> tuple[int, int, str]:
    return (chain.priority, _HOOKS.index(chain.hook), chain.name)
