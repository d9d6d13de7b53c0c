"""Policy rules and routes as rtnetlink messages, and back: include/uapi/linux/rtnetlink.h and fib_rules.h.

What the kernel lists is Weir's own only when it says exactly what Weir sends for the same mark, table and priority; all
else that carries Weir's protocol number becomes a `Stray`, with a message that deletes it.
"""

import socket
import struct
import sys
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address

from agent.kernel.attributes import attribute, attributes
from rulesets.routing import LocalRoute, PolicyRule, Stray
from rulesets.vocabulary import Family, Mark, ModelError

# Who installed a rule or a route (rtm_protocol and FRA_PROTOCOL, include/uapi/linux/rtnetlink.h): a number that no
# daemon there has. `ip rule` and `ip route` show it as "proto 119".
PROTOCOL = 119
FAMILIES = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}

# rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type, flags. fib_rule_hdr has the same
# bytes: two reserved instead of protocol and scope, and the action as type.
_HEADER = struct.Struct("=BBBBBBBBI")
_U32 = struct.Struct("=I")

_FRA_GOTO, _FRA_PRIORITY, _FRA_FWMARK, _FRA_SUPPRESS_PREFIXLEN = 4, 6, 10, 14
_FRA_TABLE, _FRA_FWMASK, _FRA_PROTOCOL = 15, 16, 21
_FR_ACT_TO_TBL = 1
_FIB_RULE_INVERT = 2

_RTA_OIF, _RTA_PRIORITY, _RTA_CACHEINFO, _RTA_TABLE, _RTA_PREF, _RTA_EXPIRES, _RTA_NH_ID = 4, 6, 12, 15, 20, 23, 30
_NEXTHOP = (_RTA_OIF, 5, 9, 18, 21, 22)  # what is listed of a nexthop object beside its number, and refused with it
_EXPIRES = struct.Struct("=8xI")  # of rta_cacheinfo, in hundredths of a second
_RTN_LOCAL = 2
_RT_SCOPE_HOST = 254
_RTNH_F_ONLINK = 4
_RTM_F_CLONED = 0x200
_LOOPBACK_INDEX = 1  # lo is the first interface of every namespace (net/core/dev.c)
_IP6_RT_PRIO_USER = 1024  # the metric of an IPv6 route that is given none (include/net/ip6_route.h)

# The attributes by the words of `ip rule` and `ip route`. One that has no word is shown by its number.
_ACTIONS = {1: "lookup", 2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_TYPES = dict(
    enumerate("unspec unicast local broadcast anycast multicast blackhole unreachable prohibit throw".split())
)
_RULE_WORDS = {3: "iif", 17: "oif", 10: "fwmark", 6: "priority", 15: "lookup", 4: "goto", 12: "tun_id"}
_RULE_WORDS |= {14: "suppress_prefixlength", 20: "uidrange", 22: "ipproto", 23: "sport", 24: "dport", 21: "proto"}
_ROUTE_WORDS = {3: "iif", 4: "oif", 5: "via", 6: "metric", 7: "src", 8: "metrics", 9: "nexthops", 15: "table"}
_ROUTE_WORDS |= {20: "pref", 23: "expires", 30: "nhid"}
_SCOPES = {0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}
_NAMES = (3, 17)
_DST, _SRC = 1, 2  # of rules and of routes alike


def rule_request() -> bytes:
    """Return the body of a request for all rules, of every family that the kernel has."""
    return _HEADER.pack(socket.AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0, 0)


def route_request(*, table: int = 0, protocol: int = 0) -> bytes:
    """Return the body of a request for routes, of one table and one protocol where they are given (not 0).

    Of every family: one that the kernel or the table hasn't got is then no error (net/core/rtnetlink.c, rtnl_dump_all).
    """
    body = _HEADER.pack(socket.AF_UNSPEC, 0, 0, 0, 0, protocol, 0, 0, 0)
    return body + attribute(_RTA_TABLE, _U32.pack(table)) if table else body


def rule_message(rule: PolicyRule | Stray) -> bytes:
    """Return what to send to add or to delete a rule."""
    if isinstance(rule, Stray):
        return rule.message
    numbers = {
        _FRA_PRIORITY: rule.priority,
        _FRA_FWMARK: rule.mark.value,
        _FRA_TABLE: rule.table,
        _FRA_FWMASK: rule.mark.mask,
    }
    found = {kind: _U32.pack(number) for kind, number in numbers.items()} | {_FRA_PROTOCOL: bytes([PROTOCOL])}
    return _packed((FAMILIES[rule.family], 0, 0, 0, 0, 0, 0, _FR_ACT_TO_TBL, 0), found)


def route_message(route: LocalRoute | Stray) -> bytes:
    """Return what to send to add or to delete a route."""
    if isinstance(route, Stray):
        return route.message
    numbers = {_RTA_OIF: _LOOPBACK_INDEX, _RTA_TABLE: route.table}
    scope = _RT_SCOPE_HOST
    if route.family is Family.IPV6:  # which has no scopes, and takes a missing metric for any when it deletes
        scope, numbers[_RTA_PRIORITY] = 0, _IP6_RT_PRIO_USER
    found = {kind: _U32.pack(number) for kind, number in numbers.items()}
    return _packed((FAMILIES[route.family], 0, 0, 0, 0, PROTOCOL, scope, _RTN_LOCAL, 0), found)


def own_rule(body: bytes) -> PolicyRule | Stray | None:
    """Return a listed rule; None when it is of another family or doesn't carry Weir's protocol number."""
    family = family_of(body)
    header, found = _HEADER.unpack_from(body), attributes(body, _HEADER.size)
    if family is None or found.get(_FRA_PROTOCOL) != bytes([PROTOCOL]):
        return None
    # What is not listed matches anything when a rule is deleted, so that nought is said.
    found.setdefault(_FRA_PRIORITY, bytes(4))
    if _FRA_FWMASK in found:
        found.setdefault(_FRA_FWMARK, bytes(4))
    if found.get(_FRA_SUPPRESS_PREFIXLEN) == b"\xff" * 4:  # always listed: none is suppressed
        del found[_FRA_SUPPRESS_PREFIXLEN]
    message = _packed((*header[:4], 0, 0, 0, header[7], header[8] & _FIB_RULE_INVERT), found)
    with suppress(ModelError):
        mark = Mark(_number(found, _FRA_FWMARK), _number(found, _FRA_FWMASK))
        made = PolicyRule(
            family=family, mark=mark, table=_number(found, _FRA_TABLE), priority=_number(found, _FRA_PRIORITY)
        )
        if rule_message(made) == message:
            return made
    return Stray(family=family, text=_rule_in_words(family, header, found), message=message)


def own_route(body: bytes) -> LocalRoute | Stray | None:
    """Return a listed route; None when it is of another family or doesn't carry Weir's protocol number."""
    family = family_of(body)
    if family is None or protocol_of_route(body) != PROTOCOL:
        return None
    header, found = _HEADER.unpack_from(body), attributes(body, _HEADER.size)
    table = table_of_route(body)
    found[_RTA_TABLE] = _U32.pack(table)
    expires = _EXPIRES.unpack_from(found.pop(_RTA_CACHEINFO, bytes(12)))[0]
    if expires:
        found[_RTA_EXPIRES] = _U32.pack(-(-expires // 100))
    if found.get(_RTA_PREF) == b"\0":  # always listed for IPv6: medium
        del found[_RTA_PREF]
    for kind in _NEXTHOP if _RTA_NH_ID in found else ():
        found.pop(kind, None)
    message = _packed((*header[:4], 0, *header[5:8], header[8] & _RTNH_F_ONLINK), found)
    made = LocalRoute(family=family, table=table)
    if route_message(made) == message:
        return made
    return Stray(family=family, text=_route_in_words(family, header, found), message=message)


def family_of(body: bytes) -> Family | None:
    """Return the family of a listed rule or route; None for one that Weir has nothing to do with (MPLS, multicast)."""
    return next((family for family, number in FAMILIES.items() if number == body[0]), None)


def protocol_of_route(body: bytes) -> int | None:
    """Return who installed a listed route; None for one that is only cached."""
    header = _HEADER.unpack_from(body)
    return None if header[8] & _RTM_F_CLONED else int(header[5])


def table_of_rule(body: bytes) -> int:
    """Return the table that a listed rule names; 0 for none."""
    return _number(attributes(body, _HEADER.size), _FRA_TABLE)


def table_of_route(body: bytes) -> int:
    """Return the table of a listed route: the header's field has 8 bits, the attribute holds the whole number."""
    return _number(attributes(body, _HEADER.size), _RTA_TABLE) or body[4]


def _packed(header: tuple[int, ...], found: Mapping[int, bytes]) -> bytes:
    return _HEADER.pack(*header) + b"".join(attribute(kind, found[kind]) for kind in sorted(found))


def _number(found: Mapping[int, bytes], kind: int) -> int:
    return int.from_bytes(found.get(kind, b"")[:4], sys.byteorder)


def _rule_in_words(family: Family, header: tuple[int, ...], found: Mapping[int, bytes]) -> str:
    said = [_ip(family, "rule"), *(["not"] if header[8] & _FIB_RULE_INVERT else [])]
    said += ["from", _network(header[2], found.get(_SRC))]
    said += ["to", _network(header[1], found.get(_DST))] if _DST in found else []
    said += [f"tos {header[3]:#x}"] if header[3] else []
    for kind, word in _RULE_WORDS.items():
        if kind == _FRA_FWMARK and kind in found:
            said += [word, f"{_number(found, kind):#x}/{_number(found, _FRA_FWMASK):#x}"]
        elif kind in found and (kind != _FRA_TABLE or _number(found, kind)):
            payload = found[kind]
            said += [word, payload.rstrip(b"\0").decode(errors="replace") if kind in _NAMES else _value(payload)]
    said += [_ACTIONS.get(header[7], f"action {header[7]}")] if header[7] != _FR_ACT_TO_TBL else []
    return " ".join([*said, *_unknown(found, {*_RULE_WORDS, _FRA_FWMASK})])


def _route_in_words(family: Family, header: tuple[int, ...], found: Mapping[int, bytes]) -> str:
    said = [_ip(family, "route"), _TYPES.get(header[7], f"type {header[7]}"), _network(header[1], found.get(_DST))]
    said += ["from", _network(header[2], found.get(_SRC))] if _SRC in found else []
    said += [f"tos {header[3]:#x}"] if header[3] else []
    for kind, word in _ROUTE_WORDS.items():
        if kind == _RTA_OIF and kind in found:
            said += ["dev", _device(_number(found, kind))]
        elif kind in found:
            said += [word, str(ip_address(found[kind])) if word in ("via", "src") else _value(found[kind])]
    if family is Family.IPV4:
        said.append(f"scope {_SCOPES.get(header[6], header[6])}")
    return " ".join(
        [
            *said,
            *(["onlink"] if header[8] & _RTNH_F_ONLINK else []),
            *_unknown(found, set(_ROUTE_WORDS)),
            f"proto {PROTOCOL}",
        ]
    )


def _ip(family: Family, what: str) -> str:
    return f"ip {what}:" if family is Family.IPV4 else f"ip -6 {what}:"


def _network(length: int, address: bytes | None) -> str:
    return f"{ip_address(address)}/{length}" if address else "all"


def _device(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"number {index}"


def _value(payload: bytes) -> str:
    if len(payload) == 16:
        return str(ip_address(payload))
    return str(int.from_bytes(payload, sys.byteorder)) if len(payload) in (1, 4) else f"0x{payload.hex()}"


def _unknown(found: Mapping[int, bytes], known: set[int]) -> list[str]:
    return [
        f"attribute {kind} 0x{payload.hex()}"
        for kind, payload in found.items()
        if kind not in known and kind not in (_DST, _SRC)
    ]
