"""Policy rules and routes of another agent that do what Weir's do: found, deleted, put back, and routes exchanged.

A rule for packets with a mark, and in the table that it names one route which delivers everything locally. Weir's own
have its protocol number (`routing`), these any other. All functions act in the calling thread's namespace. Sources:
include/uapi/linux/rtnetlink.h and fib_rules.h, net/core/fib_rules.c.
"""

import errno
import struct
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Self

from agent.errors import KernelError, PermissionMissing
from agent.kernel.attributes import attribute, attributes
from agent.kernel.rawnetlink import NLM_F_CREATE, RawNetlink
from agent.kernel.routing_messages import FAMILIES, PROTOCOL, route_message, rule_message
from rulesets.routing import LocalRoute, PolicyRule
from rulesets.vocabulary import Family, Mark

_NETLINK_ROUTE = 0
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_RTM_NEWRULE, _RTM_DELRULE, _RTM_GETRULE = 32, 33, 34
_NLM_F_REPLACE = 0x100
# rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type, flags; fib_rule_hdr alike.
_HEADER = struct.Struct("=BBBBBBBBI")
_FRA_PRIORITY, _FRA_FWMARK, _FRA_SUPPRESS_PREFIXLEN, _FRA_TABLE, _FRA_FWMASK, _FRA_PROTOCOL = 6, 10, 14, 15, 16, 21
_RULE_SAYS = {_FRA_PRIORITY, _FRA_FWMARK, _FRA_SUPPRESS_PREFIXLEN, _FRA_TABLE, _FRA_FWMASK, _FRA_PROTOCOL}
_FR_ACT_TO_TBL = 1
_RTA_OIF, _RTA_PRIORITY, _RTA_CACHEINFO, _RTA_TABLE, _RTA_PREF = 4, 6, 12, 15, 20
_RTN_LOCAL = 2
_RTM_F_CLONED = 0x200
_LOOPBACK_INDEX = 1
_NONE_THERE = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENOENT)
_GONE_ALREADY = (*_NONE_THERE, errno.ESRCH)
_ATTEMPTS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignEntry:
    """A rule or a route of somebody else's. `message` is what is sent to make it again, or to delete it."""

    family: Family
    table: int
    text: str
    message: bytes


class ForeignRouting:
    """A rtnetlink socket for what isn't Weir's; use it in a `with` block."""

    def __init__(self) -> None:
        self._netlink = RawNetlink(_NETLINK_ROUTE, feature="rtnetlink", option="CONFIG_NET")

    def __enter__(self) -> Self:
        """Use it in a block."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the socket."""
        self._netlink.close()

    def rules(self, marks: Collection[Mark]) -> tuple[ForeignEntry, ...]:
        """Return the rules that send packets with one of these marks to a table, and ask for nothing else."""
        found = (_rule(family, body, marks) for family in Family for body in self._listed(_RTM_GETRULE, family))
        return tuple(each for each in found if each is not None)

    def routes(self, tables: Collection[int]) -> tuple[ForeignEntry, ...]:
        """Return the routes of these tables that deliver everything locally. A table with any other has none."""
        found: list[ForeignEntry] = []
        for family in Family:
            for table in sorted(tables):
                bodies = [each for each in self._listed(_RTM_GETROUTE, family) if _table(each) == table]
                theirs = [each for each in bodies if each[5] != PROTOCOL and not _is_cached(each)]
                routes = [_route(family, each) for each in theirs]
                found += [each for each in routes if each is not None] if None not in routes else []
        return tuple(found)

    def add_rules(self, wanted: Iterable[PolicyRule | ForeignEntry]) -> None:
        """Add rules, beside equal ones of another protocol number."""
        for each in wanted:
            if not self._is_there(each):
                self._ask(_RTM_NEWRULE, _message_of_rule(each), f"{_said(each)} (add)", NLM_F_CREATE)

    def delete_rules(self, gone: Iterable[ForeignEntry]) -> None:
        """Delete rules of others. The kernel may take an equal one of Weir's first: call `routing.apply` afterwards."""
        for each in gone:
            for _ in range(_ATTEMPTS):
                if not self._is_there(each):
                    break
                self._ask(_RTM_DELRULE, each.message, f"{each.text} (delete)", 0)

    def put_routes(self, wanted: Iterable[LocalRoute | ForeignEntry]) -> None:
        """Make routes, each in the place of an equal one of another protocol number, in one step."""
        for each in wanted:
            message = route_message(each) if isinstance(each, LocalRoute) else each.message
            self._ask(_RTM_NEWROUTE, message, f"{_said(each)} (replace)", NLM_F_CREATE | _NLM_F_REPLACE)

    def delete_routes(self, gone: Iterable[ForeignEntry]) -> None:
        """Delete routes of others, where they are still there."""
        for each in gone:
            if each in self.routes({each.table}):
                self._ask(_RTM_DELROUTE, each.message, f"{each.text} (delete)", 0)

    def _is_there(self, wanted: PolicyRule | ForeignEntry) -> bool:
        message = _message_of_rule(wanted)
        return any(_packed_rule(body) == message for body in self._listed(_RTM_GETRULE, wanted.family))

    def _listed(self, kind: int, family: Family) -> list[bytes]:
        what = "rule" if kind == _RTM_GETRULE else "route show table all"
        request = _HEADER.pack(FAMILIES[family], 0, 0, 0, 0, 0, 0, 0, 0)
        answer = self._netlink.dump(kind, request, statement=f"ip {what}")
        bodies = () if answer.errno in _NONE_THERE else answer.expect(f"ip {what}")
        # Of a family that it hasn't got, the kernel lists all others.
        return [each for each in bodies if each[0] == FAMILIES[family]]

    def _ask(self, kind: int, body: bytes, statement: str, flags: int) -> None:
        answer = self._netlink.ask(kind, body, statement=statement, flags=flags)
        if not answer.errno or (kind in (_RTM_DELRULE, _RTM_DELROUTE) and answer.errno in _GONE_ALREADY):
            return
        if answer.errno == errno.EPERM:
            raise PermissionMissing(statement=statement, said=answer.said)
        raise KernelError(statement=statement, said=answer.said)


def _message_of_rule(rule: PolicyRule | ForeignEntry) -> bytes:
    return rule_message(rule) if isinstance(rule, PolicyRule) else rule.message


def _said(each: PolicyRule | LocalRoute | ForeignEntry) -> str:
    return each.text if isinstance(each, ForeignEntry) else f"{each} proto {PROTOCOL}"


def _rule(family: Family, body: bytes, marks: Collection[Mark]) -> ForeignEntry | None:
    header, found = _HEADER.unpack_from(body), attributes(body, _HEADER.size)
    value, mask = _number(found, _FRA_FWMARK), _number(found, _FRA_FWMASK)
    protocol = found.get(_FRA_PROTOCOL, b"\0")[0]
    plain = header[1:4] == (0, 0, 0) and header[7] == _FR_ACT_TO_TBL and not header[8] and found.keys() <= _RULE_SAYS
    unsuppressed = found.get(_FRA_SUPPRESS_PREFIXLEN, b"\xff" * 4) == b"\xff" * 4
    marked = any((each.value, each.mask) == (value, mask) for each in marks)
    if not (plain and unsuppressed and marked) or protocol == PROTOCOL:
        return None
    table, priority = _number(found, _FRA_TABLE), _number(found, _FRA_PRIORITY)
    ip = "ip" if family is Family.IPV4 else "ip -6"
    text = f"{ip} rule: from all fwmark {value:#x}/{mask:#x} priority {priority} lookup {table} proto {protocol}"
    return ForeignEntry(family=family, table=table, text=text, message=_packed_rule(body))


def _packed_rule(body: bytes) -> bytes:
    """Return the message that makes a listed rule, with its attributes in the order of Weir's own messages."""
    header, found = _HEADER.unpack_from(body), attributes(body, _HEADER.size)
    if found.get(_FRA_SUPPRESS_PREFIXLEN) == b"\xff" * 4:  # always listed: none is suppressed
        del found[_FRA_SUPPRESS_PREFIXLEN]
    return _packed((*header[:4], 0, 0, 0, header[7], header[8] & 2), found)


def _route(family: Family, body: bytes) -> ForeignEntry | None:
    header, found = _HEADER.unpack_from(body), attributes(body, _HEADER.size)
    table = _table(body)
    found[_RTA_TABLE] = struct.pack("=I", table)
    found.pop(_RTA_CACHEINFO, None)
    if found.get(_RTA_PREF) == b"\0":
        del found[_RTA_PREF]
    everything = header[1:4] == (0, 0, 0) and header[7] == _RTN_LOCAL
    by_loopback = _number(found, _RTA_OIF) == _LOOPBACK_INDEX and found.keys() <= {_RTA_OIF, _RTA_PRIORITY, _RTA_TABLE}
    if not (everything and by_loopback):
        return None
    ip, all_of_it = ("ip", "0.0.0.0/0") if family is Family.IPV4 else ("ip -6", "::/0")
    text = f"{ip} route: local {all_of_it} dev lo table {table} proto {header[5]}"
    message = _packed((*header[:4], 0, header[5], header[6], header[7], 0), found)
    return ForeignEntry(family=family, table=table, text=text, message=message)


def _is_cached(body: bytes) -> bool:
    return bool(_HEADER.unpack_from(body)[8] & _RTM_F_CLONED)


def _table(body: bytes) -> int:
    return _number(attributes(body, _HEADER.size), _RTA_TABLE) or body[4]


def _packed(header: tuple[int, ...], found: dict[int, bytes]) -> bytes:
    return _HEADER.pack(*header) + b"".join(attribute(kind, found[kind]) for kind in sorted(found))


def _number(found: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(found.get(kind, b"")[:4], sys.byteorder)
