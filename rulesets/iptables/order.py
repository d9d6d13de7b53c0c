"""Matches as iptables prints them: each in its place, and but once where it takes only one."""

from collections.abc import Sequence

from rulesets.iptables.elements import Never
from rulesets.model import implied_protocols
from rulesets.vocabulary import (
    Between,
    Dst,
    DstPort,
    End,
    InIface,
    Match,
    ModelError,
    NoTcpFlags,
    OtherProto,
    OutIface,
    Ports,
    Proto,
    Src,
    SrcPort,
    TcpFlags,
)

# What has an option of its own comes first, then what the protocol's module asks for, then the rest as it was.
_KINDS: tuple[type[Match], ...] = (
    *(Src, Dst, InIface, OutIface, Proto, OtherProto),
    *(SrcPort, DstPort, TcpFlags, NoTcpFlags),
)
_ORDER = {kind: at for at, kind in enumerate(_KINDS)}


def in_order(matches: Sequence[Match]) -> tuple[Match, ...]:
    """Return matches in iptables' order. Raises `Never` for what no packet is, `ModelError` for what it can't say."""
    protocols = {each for match in matches for each in implied_protocols(match)}
    if len(protocols) > 1:
        raise Never
    if sum(isinstance(match, TcpFlags | NoTcpFlags) for match in matches) > 1:
        raise ModelError("iptables asks for TCP flags once a rule")
    kept: list[Match] = []
    for match in matches:
        if isinstance(match, Proto) and protocols:
            if match.negate and match.protocol in protocols:
                raise Never
            continue  # another match says so, or says more
        kept.append(_again(match) if any(type(each) is type(match) for each in kept) else match)
    if not any(implied_protocols(match) for match in kept):
        kept += [Proto(protocol=each) for each in sorted(protocols)]
    # What has no place of its own stays as it was, but kind by kind: iptables mistakes the options of mark and connmark
    # for one another where their turns change.
    places = dict(_ORDER)
    for match in kept:
        places.setdefault(type(match), len(places))
    return tuple(sorted(kept, key=lambda match: places[type(match)]))


def _again(match: Match) -> Match:
    """Return a second match for an end or a port, in the form in which iptables takes more than one."""
    match match:
        case Src(network=network, negate=negate) | Dst(network=network, negate=negate):
            end = End.SOURCE if isinstance(match, Src) else End.DESTINATION
            return Between(end=end, first=network.network_address, last=network.broadcast_address, negate=negate)
        case SrcPort(protocol=protocol, ports=ports, negate=negate):
            return Ports(protocol=protocol, end=End.SOURCE, ranges=(ports,), negate=negate)
        case DstPort(protocol=protocol, ports=ports, negate=negate):
            return Ports(protocol=protocol, end=End.DESTINATION, ranges=(ports,), negate=negate)
        case _:
            return match
