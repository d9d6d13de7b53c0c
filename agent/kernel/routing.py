"""Weir's policy rules and local routes, over rtnetlink (rtnetlink(7)).

Each carries Weir's own protocol number, and nothing without it is ever changed. All functions act in the calling
thread's namespace.
"""

import errno
import os
import socket
from collections.abc import Callable, Iterable
from typing import Any

from agent.errors import KernelError, RouteTableTaken
from rulesets.routing import LocalRoute, PolicyRule, Routing, RoutingPlan
from rulesets.vocabulary import FULL_MASK, Family, Mark

# Who installed a rule or a route (rtm_protocol and FRA_PROTOCOL, include/uapi/linux/rtnetlink.h): a number that no
# daemon there has. `ip rule` and `ip route` show it as "proto 119".
PROTOCOL = 119
_FAMILIES = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_EVERYTHING = {Family.IPV4: "0.0.0.0/0", Family.IPV6: "::/0"}
_LOOPBACK_INDEX = 1  # lo is the first interface of every namespace (net/core/dev.c)
_RT_SCOPE_HOST = 254
_RTN_LOCAL = 2
_FR_ACT_TO_TBL = 1


def read() -> Routing:
    """Return Weir's own rules and routes."""
    with _rtnetlink() as rtnetlink:
        rules = [_policy_rule(family, each) for family, each in _rules(rtnetlink) if _is_ours(each)]
        routes = [
            LocalRoute(family=family, table=_table(each))
            for family in Family
            for each in _dump(rtnetlink.get_routes, family=_FAMILIES[family])
            if each["proto"] == PROTOCOL and each["type"] == _RTN_LOCAL
        ]
    return Routing(rules=tuple(rules), routes=tuple(routes))


def apply(plan: RoutingPlan) -> None:
    """Carry out a plan: what is missing first, then what is too much. On an error, what was added is taken back.

    Raises `RouteTableTaken` when the table holds somebody else's routes, `KernelError` for every other refusal.
    """
    if not plan:
        return
    with _rtnetlink() as rtnetlink:
        _refuse_foreign_routes(rtnetlink, {route.table for route in plan.added.routes})
        done: list[PolicyRule | LocalRoute] = []
        try:
            # A route without its rule is never met; a rule without its route would send replies to the main table.
            for route in plan.added.routes:
                _change_route(rtnetlink, "add", route)
                done.append(route)
            for rule in plan.added.rules:
                _change_rule(rtnetlink, "add", rule)
                done.append(rule)
        except KernelError:
            for each in reversed(done):
                _delete(rtnetlink, each)
            raise
        for rule in plan.removed.rules:
            _delete(rtnetlink, rule)
        for route in plan.removed.routes:
            _delete(rtnetlink, route)


def _rtnetlink() -> Any:
    from pyroute2 import IPRoute

    return IPRoute()


def _dump(ask: Callable[..., Iterable[Any]], **filters: int) -> list[Any]:
    """Return a whole dump; none where the kernel doesn't know the family (IPv6 not built in, or ipv6.disable=1)."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        return list(ask(**filters))
    except NetlinkError as error:
        if error.code in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENOENT):
            return []
        raise KernelError(statement=f"dump {filters}", said=os.strerror(error.code)) from None


def _rules(rtnetlink: Any) -> list[tuple[Family, Any]]:
    return [
        (family, each)
        for family, number in _FAMILIES.items()
        for each in _dump(rtnetlink.get_rules, family=number)
        if each["family"] == number
    ]


def _is_ours(rule: Any) -> bool:
    return bool(rule.get_attr("FRA_PROTOCOL") == PROTOCOL and rule["action"] == _FR_ACT_TO_TBL)


def _table(message: Any) -> int:
    # The header's field has 8 bits; the attribute holds the whole number.
    found = message.get_attr("RTA_TABLE")
    return int(message["table"] if found is None else found)


def _policy_rule(family: Family, message: Any) -> PolicyRule:
    value, mask = message.get_attr("FRA_FWMARK") or 0, message.get_attr("FRA_FWMASK") or FULL_MASK
    return PolicyRule(
        family=family,
        mark=Mark(value & mask, mask),
        table=int(message.get_attr("FRA_TABLE") or message["table"]),
        priority=message.get_attr("FRA_PRIORITY") or 0,
    )


def _refuse_foreign_routes(rtnetlink: Any, tables: set[int]) -> None:
    for family, number in _FAMILIES.items():
        for each in _dump(rtnetlink.get_routes, family=number):
            table = _table(each)
            if table in tables and each["proto"] != PROTOCOL:
                ip = "ip" if family is Family.IPV4 else "ip -6"
                raise RouteTableTaken(
                    statement=f"{ip} route show table {table}",
                    said=f"route table {table} holds routes that aren't Weir's (protocol {each['proto']})",
                    hint="let route_table name a table that nobody uses",
                )


def _change_rule(rtnetlink: Any, command: str, rule: PolicyRule) -> None:
    asked = {
        "family": _FAMILIES[rule.family],
        "fwmark": rule.mark.value,
        "fwmask": rule.mark.mask,
        "table": rule.table,
        "priority": rule.priority,
        "protocol": PROTOCOL,
    }
    _ask(lambda: rtnetlink.rule(command, **asked), f"{rule} proto {PROTOCOL}", command)


def _change_route(rtnetlink: Any, command: str, route: LocalRoute) -> None:
    asked: dict[str, object] = {
        "family": _FAMILIES[route.family],
        "dst": _EVERYTHING[route.family],
        "type": "local",
        "oif": _LOOPBACK_INDEX,
        "table": route.table,
        "proto": PROTOCOL,
    }
    if route.family is Family.IPV4:
        asked["scope"] = _RT_SCOPE_HOST
    _ask(lambda: rtnetlink.route(command, **asked), f"{route} proto {PROTOCOL}", command)


def _delete(rtnetlink: Any, each: PolicyRule | LocalRoute) -> None:
    if isinstance(each, PolicyRule):
        _change_rule(rtnetlink, "del", each)
    else:
        _change_route(rtnetlink, "del", each)


def _ask(ask: Callable[[], object], what: str, command: str) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        ask()
    except NetlinkError as error:
        gone = command == "del" and error.code in (errno.ENOENT, errno.ESRCH, errno.EAFNOSUPPORT)
        if gone:
            return
        statement = what.replace(":", f" {command}", 1)
        if error.code == errno.EEXIST:
            raise RouteTableTaken(
                statement=statement,
                said="the same is there already, of somebody else or of another Weir",
                hint="let rule_priority and route_table be numbers that nobody uses",
            ) from None
        hint = "bring up lo: `ip link set lo up`" if error.code == errno.ENETDOWN else ""
        raise KernelError(statement=statement, said=os.strerror(error.code), hint=hint) from None
