"""A rule, and what nft would refuse in one or list back in another form."""

import re
from dataclasses import dataclass
from typing import assert_never

from rulesets.vocabulary import (
    INTERFACE,
    Accept,
    Action,
    CtZone,
    Dnat,
    Dst,
    DstPort,
    Family,
    Foreign,
    InIface,
    InSet,
    Match,
    ModelError,
    OfFamily,
    OutIface,
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
        case Proto(protocol=Protocol.ICMP, negate=False):
            return (Family.IPV4,)
        case Proto(protocol=Protocol.ICMPV6, negate=False):
            return (Family.IPV6,)
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
        self._refuse_action(protocols[0] if protocols else None, families[0] if families else None)

    @staticmethod
    def _refuse_match(match: Match) -> None:
        match match:
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
            case _:
                pass

    def _refuse_action(self, protocol: Protocol | None, family: Family | None) -> None:
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
            case Accept() | SetMark() | SetConnMark() | Foreign():
                pass
            case _:
                assert_never(self.action)
