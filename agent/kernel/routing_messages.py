"""Policy rules and routes as rtnetlink messages, and back: include/uapi/linux/rtnetlink.h and fib_rules.h.

What the kernel lists is Weir's own only when it says exactly what Weir sends for the same mark, table and priority; all
else that carries Weir's protocol number becomes a `Stray`, with a message that deletes it.
"""

import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import ip_address

from agent.kernel.rawnetlink import attribute, attributes
from rulesets.errors import ModelError
from rulesets.routing import LocalRoute, PolicyRule, Stray
from rulesets.vocabulary import FULL_MASK, Family, Mark

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

_RTA_OIF, _RTA_PRIORITY, _RTA_CACHEINFO, _RTA_TABLE, _RTA_EXPIRES, _RTA_NH_ID = 4, 6, 12, 15, 23, 30
_NEXTHOP = (_RTA_OIF, 5, 9, 18, 20, 21, 22)  # what is listed of a nexthop object beside its number, and refused with it
_EXPIRES = struct.Struct("=8xI")  # of rta_cacheinfo, in hundredths of a second
_RTN_LOCAL = 2
_RT_SCOPE_HOST = 254
_RTNH_F_ONLINK = 4
_RTM_F_CLONED = 0x200
_LOOPBACK_INDEX = 1  # lo is the first interface of every namespace (net/core/dev.c)
_IP6_RT_PRIO_USER = 1024  # the metric of an IPv6 route that is given none (include/net/ip6_route.h)

_ACTIONS = {1: "lookup", 2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_TYPES = dict(enumerate("unspec unicast local broadcast anycast multicast blackhole unreachable prohibit throw".split()))


def rule_request(family: Family) -> bytes:
    """Return the body of a request for all rules of a family."""
    return _HEADER.pack(FAMILIES[family], 0, 0, 0, 0, 0, 0, 0, 0)


def route_request(family: Family, *, table: int = 0, protocol: int = 0) -> bytes:
    """Return the body of a request for routes, of one table and one protocol where they are given (not 0)."""
    body = _HEADER.pack(FAMILIES[family], 0, 0, 0, 0, protocol, 0, 0, 0)
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


def own_rule(family: Family, body: bytes) -> PolicyRule | Stray | None:
    """Return a listed rule; None when it is of another family or doesn't carry Weir's protocol number."""
    header, found = _HEADER.unpack_from(body), attributes(body, _HEADER.size)
    if header[0] != FAMILIES[family] or found.get(_FRA_PROTOCOL) != bytes([PROTOCOL]):
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


def own_route(family: Family, body: bytes) -> LocalRoute | Stray | None:
    """Return a listed route; None when it is of another family or doesn't carry Weir's protocol number."""
    if protocol_of_route(family, body) != PROTOCOL:
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


def protocol_of_route(family: Family, body: bytes) -> int | None:
    """Return who installed a listed route; None for one of another family, and for one that is only cached."""
    # With a family that it doesn't know, the kernel lists every family's routes.
    header = _HEADER.unpack_from(body)
    return None if header[0] != FAMILIES[family] or header[8] & _RTM_F_CLONED else int(header[5])


def table_of_route(body: bytes) -> int:
    """Return the table of a listed route: the header's field has 8 bits, the attribute holds the whole number."""
    return _number(attributes(body, _HEADER.size), _RTA_TABLE) or body[4]


def _packed(header: tuple[int, ...], found: Mapping[int, bytes]) -> bytes:
    return _HEADER.pack(*header) + b"".join(attribute(kind, found[kind]) for kind in sorted(found))


def _number(found: Mapping[int, bytes], kind: int) -> int:
    return int.from_bytes(found.get(kind, b"")[:4], "little" if _U32.pack(1)[0] else "big")
