"""What a table in place says of the capture that it carries out: enough to find its streams and to take it away."""

from collections.abc import Iterator, Mapping

from rulesets.capture import Capture
from rulesets.model import Rule, Ruleset
from rulesets.vocabulary import (
    ConnMark,
    Dnat,
    Mark,
    PacketMark,
    Redirect,
    SetConnMark,
    SetMark,
    SocketCgroup,
    SocketUser,
)

_PORTS = {
    "outbound-redirect": "outbound_port",
    "virtual-interface": "outbound_port",
    "inbound-redirect": "inbound_port",
    "outbound-dns-udp": "dns_port",
    "outbound-dns-tcp": "dns_port",
}
_PORT_NAMES = ("outbound_port", "inbound_port", "dns_port", "hbone_port")


def recall(ruleset: Ruleset | None, ports: Mapping[str, int]) -> Capture:
    """Return a capture with what a table says of ports, marks and the proxy, and `ports` for those it no longer names.

    A table that drains names no ports any more; where nothing is known stands a default, or another value where the
    default is taken. Never raises: whatever somebody wrote into the table, it must be possible to take it away.
    """
    found: dict[str, int | Mark | SocketCgroup] = dict(ports)
    slugs = {rule.slug for rule in ruleset.rules()} if ruleset else set()
    for rule in ruleset.rules() if ruleset else ():
        found |= _told_by(rule)
    inbound = "inbound_port" in found or not slugs.isdisjoint(("reply-to-proxy", "proxy-to-app"))
    dns = "dns_port" in found
    named = _apart({name: value for name, value in found.items() if name in _PORT_NAMES and isinstance(value, int)})
    user, cgroup = found.get("proxy_user"), found.get("proxy_cgroup")
    proxy, connection = found.get("proxy_mark"), found.get("connection_mark")
    default = Capture()
    for ours in _candidates(proxy, default.proxy_mark):
        for theirs in _candidates(connection, default.connection_mark):
            try:
                return Capture(
                    outbound_port=named["outbound_port"],
                    inbound_port=named["inbound_port"],
                    hbone_port=named["hbone_port"],
                    dns_port=named["dns_port"],
                    inbound=inbound or not found,
                    dns=dns,
                    proxy_mark=ours,
                    connection_mark=theirs,
                    proxy_user=user if isinstance(user, int) else None,
                    proxy_cgroup=cgroup if isinstance(cgroup, SocketCgroup) else None,
                )
            except ValueError:
                pass
    return default


def _told_by(rule: Rule) -> dict[str, int | Mark | SocketCgroup]:
    told: dict[str, int | Mark | SocketCgroup] = {}
    match rule.action:
        case Redirect(port=port) | Dnat(port=port) if rule.slug in _PORTS:
            told[_PORTS[rule.slug]] = port
        case SetMark(mark=mark) if rule.slug == "reply-to-proxy":
            told["connection_mark"] = mark
        case SetMark(mark=mark) if rule.slug in ("proxy-by-user", "proxy-by-cgroup"):
            told["proxy_mark"] = mark
        case SetConnMark(mark=mark) if rule.slug == "proxy-to-app":
            told["connection_mark"] = mark
        case _:
            pass
    for each in rule.matches:
        match each:
            case PacketMark(mark=mark) if rule.slug in ("proxy-to-app", "outbound-from-proxy", "inbound-from-proxy"):
                told["proxy_mark"] = mark
            case ConnMark(mark=mark) if rule.slug == "captured-go-on":
                told["connection_mark"] = mark
            case SocketUser(user=user) if rule.slug == "proxy-by-user":
                told["proxy_user"] = user
            case SocketCgroup() if rule.slug == "proxy-by-cgroup":
                told["proxy_cgroup"] = each
            case _:
                pass
    return told


def _apart(known: Mapping[str, int]) -> dict[str, int]:
    """Return a port for every name, the known ones as they are and no other twice."""
    default, taken = Capture(), set(known.values())
    ports = dict(known)
    for name in _PORT_NAMES:
        if name not in ports:
            wanted: int = getattr(default, name)
            ports[name] = wanted if wanted not in taken else next(port for port in range(1, 9) if port not in taken)
            taken.add(ports[name])
    return ports


def _candidates(known: int | Mark | SocketCgroup | None, default: Mark) -> Iterator[Mark]:
    if isinstance(known, Mark):
        yield known
    yield default
    yield Mark(0x222, 0xFFF)
