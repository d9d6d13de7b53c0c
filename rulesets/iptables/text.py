"""Rules as iptables-save prints them, and iptables-restore takes them."""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import assert_never

from rulesets.iptables.match_text import implied_protocol, module_of, option_of
from rulesets.iptables.places import TABLES
from rulesets.iptables.targets import PORT_UNREACHABLE
from rulesets.iptables.words import quoted
from rulesets.model import Chain, Count, RegularChain, Rule, Ruleset
from rulesets.vocabulary import (
    Accept,
    Action,
    Continue,
    CtZone,
    CtZoneBoth,
    Dnat,
    DnatTo,
    Drop,
    Dst,
    Family,
    FlipMark,
    Foreign,
    Goto,
    InIface,
    Jump,
    Mark,
    MarkOf,
    Masquerade,
    Match,
    ModelError,
    NoTrack,
    OtherProto,
    OutIface,
    Proto,
    Redirect,
    Reject,
    RejectIcmp,
    RejectWith,
    RestoreMark,
    Return,
    SaveMark,
    SetConnMark,
    SetMark,
    Snat,
    Src,
    Tproxy,
    Trace,
)

_HEAD: dict[type[Match], int] = {Src: 0, Dst: 1, InIface: 2, OutIface: 3, Proto: 4, OtherProto: 4}


def render_tables(ruleset: Ruleset, family: Family, *, counters: bool = False) -> str:
    """Return the tables of a ruleset that is iptables' own, as iptables-save prints them, less its comments."""
    lines: list[str] = []
    named = {each.name.partition("/")[0] for each in ruleset.chains}
    for table in (each for each in TABLES if each in named):
        base = [chain for place in TABLES[table] if (chain := ruleset.chain(place.name)) is not None]
        regular = [chain for chain in ruleset.regular if chain.name.startswith(f"{table}/")]
        lines.append(f"*{table}")
        for chain in base:
            count = chain.count if counters and chain.count else Count()
            lines.append(f":{_bare(chain.name)} {chain.policy.value.upper()} [{count.packets}:{count.bytes}]")
        lines += [f":{_bare(own.name)} - [0:0]" for own in regular]
        chains: list[Chain | RegularChain] = [*base, *regular]
        for each in chains:
            lines += [_line(_bare(each.name), rule, family, counters=counters) for rule in each.rules]
        lines.append("COMMIT")
    return "".join(f"{line}\n" for line in lines)


def _bare(name: str) -> str:
    return name.partition("/")[2]


def _line(chain: str, rule: Rule, family: Family, *, counters: bool) -> str:
    count = rule.count or Count()
    before = f"[{count.packets}:{count.bytes}] " if counters else ""
    return " ".join([f"{before}-A {chain}", *_parts(rule, family)])


def render_rule(rule: Rule, family: Family) -> str:
    """Return what stands behind ``-A CHAIN``. Raises `ModelError` for what iptables can't express."""
    return " ".join(_parts(rule, family))


def _parts(rule: Rule, family: Family) -> Iterator[str]:
    protocol = next((found for match in rule.matches if (found := implied_protocol(match))), None)
    head = sorted((match for match in rule.matches if type(match) in _HEAD), key=lambda match: _HEAD[type(match)])
    once = [type(match) for match in head]
    if len(set(once)) < len(once):
        raise ModelError("iptables asks for each end, interface and protocol once a rule")
    for match in (each for each in head if _HEAD[type(each)] < _HEAD[Proto]):
        yield option_of(match)
    stated = [each for each in head if _HEAD[type(each)] == _HEAD[Proto]]
    if protocol is not None and stated and stated != [Proto(protocol=protocol)]:
        raise ModelError("iptables asks for each end, interface and protocol once a rule")
    if protocol is not None:
        stated = [Proto(protocol=protocol)]
    yield from map(option_of, stated)
    last = ("", 0)
    for match in (each for each in rule.matches if type(each) not in _HEAD):
        if isinstance(match, Foreign):
            yield match.verbatim
            last = ("", 0)
            continue
        module, rank = module_of(match)
        if module != last[0] or rank <= last[1]:
            yield f"-m {module}"
        if option := option_of(match):
            yield option
        last = (module, rank)
    if rule.slug:
        yield f"-m comment --comment {quoted(rule.slug)}"
    if target := _target(rule.action, family):
        yield target


def _target(action: Action, family: Family) -> str:
    match action:
        case Accept():
            return "-j ACCEPT"
        case Drop():
            return "-j DROP"
        case Return():
            return "-j RETURN"
        case Jump(chain=chain):
            return f"-j {_bare(chain)}"
        case Goto(chain=chain):
            return f"-g {_bare(chain)}"
        case Continue(beside=beside):
            return beside
        case Redirect(port=port):
            return f"-j REDIRECT --to-ports {port}"
        case Dnat(port=port):
            return f"-j DNAT --to-destination :{port}"
        case DnatTo(address=address, port=None):
            return f"-j DNAT --to-destination {address}"
        case DnatTo(address=address, port=port):
            return f"-j DNAT --to-destination {f'[{address}]' if address.version == 6 else address}:{port}"
        case Snat(address=address):
            return f"-j SNAT --to-source {address}"
        case Masquerade(random=random, fully_random=fully):
            return "-j MASQUERADE" + (" --random" if random else "") + (" --random-fully" if fully else "")
        case SetMark(mark=mark):
            return f"-j MARK --set-xmark {_change(mark)}"
        case SetConnMark(mark=mark):
            return f"-j CONNMARK --set-xmark {_change(mark)}"
        case FlipMark(of=of, value=value, mask=turned):
            return f"-j {'MARK' if of is MarkOf.PACKET else 'CONNMARK'} --set-xmark {value:#x}/{turned:#x}"
        case SaveMark(packet_mask=ours, connection_mask=theirs):
            return f"-j CONNMARK --save-mark --nfmask {ours:#x} --ctmask {theirs:#x}"
        case RestoreMark(packet_mask=ours, connection_mask=theirs):
            return f"-j CONNMARK --restore-mark --nfmask {ours:#x} --ctmask {theirs:#x}"
        case CtZone(zone=zone):
            return f"-j CT --zone-orig {zone}"
        case CtZoneBoth(zone=zone):
            return f"-j CT --zone {zone}"
        case NoTrack():
            return "-j NOTRACK"
        case Tproxy(port=port, address=to, mark=mark):
            anywhere = IPv4Address(0) if family is Family.IPV4 else IPv6Address(0)
            return f"-j TPROXY --on-port {port} --on-ip {to or anywhere} --tproxy-mark {_change(mark)}"
        case Reject(reply=reply):
            return (
                f"-j REJECT --reject-with {'tcp-reset' if reply is RejectWith.TCP_RESET else PORT_UNREACHABLE[family]}"
            )
        case RejectIcmp(code=code):
            return f"-j REJECT --reject-with {code}"
        case Trace():
            raise ModelError("Weir samples and traces with nftables alone, not with iptables")
        case Foreign(verbatim=verbatim):
            return verbatim
        case _:
            assert_never(action)


def _change(mark: Mark | None) -> str:
    return "0x0/0x0" if mark is None else f"{mark.value:#x}/{mark.mask:#x}"
