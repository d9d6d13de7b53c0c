"""A rule, and what nft would refuse in one or list back in another form."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar, assert_never

from rulesets.vocabulary import (
    CGROUP,
    INTERFACE,
    Accept,
    Action,
    Between,
    CtZone,
    Dnat,
    Dst,
    DstPort,
    Family,
    Foreign,
    InIface,
    InSet,
    Limited,
    Match,
    ModelError,
    NoTcpFlags,
    OfFamily,
    OneOf,
    OutIface,
    Ports,
    Proto,
    Protocol,
    ReadAction,
    Redirect,
    Reject,
    RejectWith,
    Sampled,
    SetConnMark,
    SetField,
    SetMark,
    Snat,
    SocketCgroup,
    SocketUser,
    Src,
    SrcPort,
    TcpFlags,
    Trace,
    family_of,
)

SLUG = re.compile(r"[a-z][a-z0-9-]{0,62}")
_T = TypeVar("_T")


def implied_protocols(match: Match) -> tuple[Protocol, ...]:
    """Return the transport protocol that a match tests for, stated or implied; nothing when it tests for none."""
    match match:
        case Proto(protocol=protocol, negate=False):
            return (protocol,)
        case SrcPort(protocol=protocol) | DstPort(protocol=protocol) | Ports(protocol=protocol):
            return (protocol,)
        case TcpFlags() | NoTcpFlags():
            return (Protocol.TCP,)
        case InSet(field=SetField.TCP_DST_PORT | SetField.DST_V4_TCP_DST_PORT | SetField.DST_V6_TCP_DST_PORT):
            return (Protocol.TCP,)
        case OneOf(matches=matches, negate=negate):
            found = _common(map(implied_protocols, matches))
            # A field of a header implies its protocol either way; one that isn't a protocol implies none.
            return () if negate and any(isinstance(each, Proto) for each in matches) else found
        case _:
            return ()


def implied_families(match: Match) -> tuple[Family, ...]:
    """Return the family that a match tests for, stated or implied; nothing when it tests for none."""
    match match:
        case OfFamily(family=family):
            return (family,)
        case Src(network=network) | Dst(network=network):
            return (family_of(network),)
        case Between(first=address):
            return (family_of(address),)
        case InSet(field=SetField.SRC_V4 | SetField.DST_V4 | SetField.DST_V4_TCP_DST_PORT):
            return (Family.IPV4,)
        case InSet(field=SetField.SRC_V6 | SetField.DST_V6 | SetField.DST_V6_TCP_DST_PORT):
            return (Family.IPV6,)
        case OneOf(matches=matches, negate=negate):
            stated = negate and any(isinstance(each, Proto | OfFamily) for each in matches)
            return () if stated else _common(map(implied_families, matches))
        case _:
            return ()


def _families_to_nft(match: Match) -> tuple[Family, ...]:
    """Return the family that nft takes a match to be of.

    Both ICMP protocols fit packets of either family, but nft leaves out of its listing a family that stands beside
    them.
    """
    match match:
        case Proto(protocol=Protocol.ICMP, negate=False):
            return (Family.IPV4,)
        case Proto(protocol=Protocol.ICMPV6, negate=False):
            return (Family.IPV6,)
        case _:
            return implied_families(match)


def _common(implied: Iterable[tuple[_T, ...]]) -> tuple[_T, ...]:
    """Return what all imply, if they imply the same."""
    every = set(implied)
    return every.pop() if len(every) == 1 else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """What a rule or chain has counted by itself. How much it was is not part of its identity.

    A rule of nft's that has no counter of its own `counts` nothing.
    """

    packets: int = field(default=0, compare=False)
    bytes: int = field(default=0, compare=False)
    counts: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Matches, all of which must hold, and what then happens.

    `slug` is the reason for the rule: its comment in the kernel, the name of its counter, its line in a diff and its
    label in metrics. It may be empty only in a rule that was parsed and holds something `Foreign`, and in one that
    others wrote, of iptables' or nft's. Those have a `count`: they count by themselves or not at all, and what Weir
    never writes may stand in them.
    """

    slug: str
    matches: tuple[Match, ...]
    action: Action
    count: Count | None = None

    def __post_init__(self) -> None:
        if self.foreign or self.count is not None:
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
        if not SLUG.fullmatch(self.slug):
            raise ModelError("a slug is 1 to 63 lower-case letters, digits and dashes, a letter first")
        protocols = [protocol for match in self.matches for protocol in implied_protocols(match)]
        families = [family for match in self.matches for family in _families_to_nft(match)]
        if len(set(protocols)) > 1 or len(set(families)) > 1:
            raise ModelError("no packet is of two protocols or families")
        if protocols and any(isinstance(match, Proto) for match in self.matches) and len(protocols) > 1:
            raise ModelError(
                "a protocol stands beside a match that implies it, which nft would leave out of its listing"
            )
        if families and any(isinstance(match, OfFamily) for match in self.matches) and len(families) > 1:
            raise ModelError("a family stands beside a match that implies it, which nft would leave out of its listing")
        ports = [at for at, match in enumerate(self.matches) if isinstance(match, SrcPort | DstPort)]
        kinds = {type(self.matches[at]) for at in ports}
        if len(kinds) > 1 and not (
            len(ports) == 2 == ports[1] - ports[0] + 1 and isinstance(self.matches[ports[0]], SrcPort)
        ):
            # nft joins the two into one comparison of four bytes, and lists them where the second stood.
            raise ModelError("a source port stands anywhere but right before the one destination port")
        for match in self.matches:
            self._refuse_match(match)
            if isinstance(match, Sampled | Limited) and not isinstance(self.action, Trace):
                raise ModelError("packets are chosen by chance or by their number only to be traced")
        self._refuse_action(protocols[0] if protocols else None, families[0] if families else None)

    @staticmethod
    def _refuse_match(match: Match) -> None:
        match match:
            case InIface(by_index=True) | OutIface(by_index=True):
                raise ModelError("an interface is asked for by its name: its number may become another's")
            case InIface(name=name) | OutIface(name=name):
                if not INTERFACE.fullmatch(name):
                    raise ModelError(f"{name!r} names no interface, or none that nft can write")
            case SrcPort(protocol=protocol) | DstPort(protocol=protocol):
                if protocol not in (Protocol.TCP, Protocol.UDP):
                    raise ModelError(f"{protocol} has no ports")
            case SocketUser(user=user):
                # 2**32 - 1 is the kernel's "no user" (include/linux/uidgid.h, INVALID_UID).
                if not 0 <= user < 2**32 - 1:
                    raise ModelError(f"{user} is not a numeric user")
            case SocketCgroup(level=level, cgroup=int(number)):
                # net/netfilter/nft_socket.c keeps the level in a byte; level 0 is the root, which holds every socket.
                if not 0 < level < 256 or not 0 < number < 2**64:
                    raise ModelError(f"{number} at level {level} is no number of a cgroup")
            case SocketCgroup(level=level, cgroup=str(path)):
                if not CGROUP.fullmatch(path) or level != path.count("/") + 1:
                    raise ModelError(f"{path!r} is no path of a cgroup at level {level}, or none that nft can write")
            case Sampled(one_in=number) | Limited(per_second=number):
                if not 0 < number < 2**31:  # nft lists a higher one as a negative number
                    raise ModelError(f"{number} is not one of 1 to 2147483647")
            case _:
                pass

    def _refuse_action(self, protocol: Protocol | None, family: Family | None) -> None:
        if isinstance(self.action, ReadAction):
            return  # the kernel has taken it
        match self.action:
            case Redirect(port=port) | Dnat(port=port):
                if protocol not in (Protocol.TCP, Protocol.UDP):
                    raise ModelError("a redirect to a port needs a match for TCP or UDP in the same rule")
                if not 0 < port < 65536:
                    raise ModelError(f"port {port} is not one of 1 to 65535")
            case Reject(reply=reply):
                if reply is RejectWith.TCP_RESET and protocol is not Protocol.TCP:
                    raise ModelError("a TCP reset answers TCP only: the same rule needs a match for it")
                if reply is RejectWith.TCP_RESET and any(isinstance(match, OfFamily) for match in self.matches):
                    # nft 1.0.6 leaves `meta nfproto` out when it lists such a rule: it would never read back equal.
                    raise ModelError("nft does not list a family beside a TCP reset")
            case Snat(address=address):
                if family is not family_of(address):
                    raise ModelError(f"source {address} needs a match for its family in the same rule")
            case CtZone(zone=zone):
                if not 0 < zone < 65536:
                    raise ModelError(f"zone {zone} is not one of 1 to 65535")
            case Accept() | SetMark() | SetConnMark() | Trace() | Foreign():
                pass
            case _:
                assert_never(self.action)
