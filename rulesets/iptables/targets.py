"""What stands behind ``-j``, as actions. `Unknown` where a target, or a part of it, has no variant."""

from collections.abc import Callable

from rulesets.iptables.options import Option, OtherFamily, Unknown, address, number, value_and_mask
from rulesets.vocabulary import (
    FULL_MASK,
    Accept,
    Action,
    CtZone,
    CtZoneBoth,
    Dnat,
    DnatTo,
    Drop,
    Family,
    FlipMark,
    Mark,
    MarkOf,
    Masquerade,
    ModelError,
    NoTrack,
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
    Tproxy,
)

PLAIN: dict[str, Action] = {"ACCEPT": Accept(), "DROP": Drop(), "RETURN": Return(), "NOTRACK": NoTrack()}
PORT_UNREACHABLE = {Family.IPV4: "icmp-port-unreachable", Family.IPV6: "icmp6-port-unreachable"}
_ICMP_CODES = {Family.IPV4: "icmp-", Family.IPV6: "icmp6-"}

# Targets that count, log or dress a packet up and let it go on, with nothing changed that a match could ask for.
BESIDE = frozenset(
    "ACCOUNT AUDIT CHECKSUM CLASSIFY CONNSECMARK DSCP ECN HL IDLETIMER LED LOG NFLOG RATEEST SECMARK TCPMSS"
    " TCPOPTSTRIP TEE TOS TRACE TTL ULOG".split()
)
# The other targets of iptables and of xtables-addons (iptables-extensions(8), xtables-addons(8)). What is none of them
# and no chain either is a mistake.
EXTENSIONS = BESIDE | frozenset(
    "CHAOS CLUSTERIP CONNMARK CT DELUDE DHCPMAC DNAT DNETMAP DNPT ECHO FLOWOFFLOAD FULLCONENAT HMARK IMQ IPMARK"
    " IPV4OPTSSTRIP LOGMARK MARK MASQUERADE MIRROR NETMAP NFQUEUE PROTO QUEUE RAWDNAT RAWSNAT REDIRECT REJECT ROUTE"
    " SAME SET SNAT SNPT STEAL SYNPROXY SYSRQ TARPIT TPROXY".split()
)


def action_of(name: str, options: list[Option], family: Family) -> Action:
    """Return the action of a target with its options. Raises `Unknown`, and `OtherFamily` for a wrong address."""
    if name in PLAIN and not options:
        return PLAIN[name]
    reader = _READERS.get(name)
    if reader is None or any(each.negate for each in options):
        raise Unknown
    named = {each.name: each for each in options}
    if len(named) < len(options):
        raise Unknown
    try:
        return reader(named, family)
    except ModelError:
        raise Unknown from None


_Options = dict[str, Option]


def _only(options: _Options, name: str) -> str:
    """Return the value of the only option; raises `Unknown` when it isn't just this one."""
    if options.keys() != {name}:
        raise Unknown
    return options[name].value()


def _redirect(options: _Options, _family: Family) -> Action:
    return Redirect(port=_port(_only(options, "--to-ports")))


def _port(text: str) -> int:
    port = number(text, 65535)
    if port == 0:
        raise Unknown
    return port


def _dnat(options: _Options, family: Family) -> Action:
    to = _only(options, "--to-destination")
    if to.startswith(":") and to.count(":") == 1:
        return Dnat(port=_port(to[1:]))
    if family is Family.IPV6:
        if not to.startswith("["):
            return DnatTo(address=address(to, family))
        host, bracket, port = to[1:].partition("]:")
    else:
        if to.count(":") > 1:
            raise OtherFamily(to)
        host, bracket, port = to.partition(":")
    return DnatTo(address=address(host, family), port=_port(port) if bracket else None)


def _snat(options: _Options, family: Family) -> Action:
    return Snat(address=address(_only(options, "--to-source"), family))


def _masquerade(options: _Options, _family: Family) -> Action:
    for each in options.values():
        each.plain()
    if options.keys() - {"--random", "--random-fully"}:
        raise Unknown
    return Masquerade(random="--random" in options, fully_random="--random-fully" in options)


def _changed(of: MarkOf, value: int, mask: int) -> Action:
    if value & ~mask:
        return FlipMark(of=of, value=value, mask=mask)
    return SetMark(mark=Mark(value, mask)) if of is MarkOf.PACKET else SetConnMark(mark=Mark(value, mask))


def _set_mark(options: _Options, of: MarkOf) -> Action:
    ((name, option),) = options.items()
    value, mask = value_and_mask(option.value())
    match name:
        case "--set-xmark":
            return _changed(of, value, mask)
        case "--set-mark":
            return _changed(of, value, value | mask)
        case "--or-mark":
            return _changed(of, value, value)
        case "--and-mark":
            return _changed(of, 0, ~value & FULL_MASK)
        case "--xor-mark":
            return _changed(of, value, 0)
        case _:
            raise Unknown


def _mark(options: _Options, _family: Family) -> Action:
    if len(options) != 1:
        raise Unknown
    return _set_mark(options, MarkOf.PACKET)


def _connmark(options: _Options, _family: Family) -> Action:
    masks = {"--nfmask": FULL_MASK, "--ctmask": FULL_MASK}
    copied = options.keys() & {"--save-mark", "--restore-mark"}
    if len(copied) != 1:
        if len(options) != 1:
            raise Unknown
        return _set_mark(options, MarkOf.CONNECTION)
    (what,) = copied
    options[what].plain()
    for name in options.keys() - copied:
        if name == "--mask":
            masks = dict.fromkeys(masks, number(options[name].value()))
        elif name in masks:
            masks[name] = number(options[name].value())
        else:
            raise Unknown
    kind = SaveMark if what == "--save-mark" else RestoreMark
    return kind(packet_mask=masks["--nfmask"], connection_mask=masks["--ctmask"])


def _ct(options: _Options, _family: Family) -> Action:
    if options.keys() == {"--notrack"}:
        options["--notrack"].plain()
        return NoTrack()
    if options.keys() == {"--zone"}:
        return CtZoneBoth(zone=_zone(options["--zone"]))
    if options.keys() == {"--zone-orig"}:
        return CtZone(zone=_zone(options["--zone-orig"]))
    raise Unknown


def _zone(option: Option) -> int:
    zone = number(option.value(), 65535)
    if zone == 0:
        raise Unknown
    return zone


def _tproxy(options: _Options, family: Family) -> Action:
    if options.keys() - {"--on-port", "--on-ip", "--tproxy-mark"} or "--on-port" not in options:
        raise Unknown
    to = address(options["--on-ip"].value(), family) if "--on-ip" in options else None
    value, mask = value_and_mask(options["--tproxy-mark"].value()) if "--tproxy-mark" in options else (0, 0)
    return Tproxy(
        port=_port(options["--on-port"].value()),
        address=None if to is None or to.is_unspecified else to,
        mark=Mark(value, mask) if value or mask else None,
    )


def _reject(options: _Options, family: Family) -> Action:
    if not options:
        return Reject(reply=RejectWith.PORT_UNREACHABLE)
    code = _only(options, "--reject-with")
    if code == "tcp-reset":
        return Reject(reply=RejectWith.TCP_RESET)
    if code == PORT_UNREACHABLE[family]:
        return Reject(reply=RejectWith.PORT_UNREACHABLE)
    if not code.startswith(_ICMP_CODES[family]):
        raise Unknown
    return RejectIcmp(code=code)


_READERS: dict[str, Callable[[_Options, Family], Action]] = {
    "REDIRECT": _redirect,
    "DNAT": _dnat,
    "SNAT": _snat,
    "MASQUERADE": _masquerade,
    "MARK": _mark,
    "CONNMARK": _connmark,
    "CT": _ct,
    "TPROXY": _tproxy,
    "REJECT": _reject,
}
