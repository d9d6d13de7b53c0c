"""Weir's policy rules and local routes, over rtnetlink (rtnetlink(7)).

Each carries Weir's own protocol number, and nothing without it is ever changed. All functions act in the calling
thread's namespace.

A pass must not feel how many routes others have, so that the kernel is asked for single tables: the wanted one, and
those that Weir's rules name. A route is added after its rule and goes before it, so that nothing is left outside of
them by a Weir that was killed.
"""

import errno
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache

from agent.errors import KernelError, PermissionMissing, RouteTableTaken
from agent.kernel import brief
from agent.kernel.rawnetlink import NLM_F_CREATE, NLM_F_EXCL, RawNetlink
from agent.kernel.routing_messages import (
    PROTOCOL,
    family_of,
    own_route,
    own_rule,
    protocol_of_route,
    route_message,
    route_request,
    rule_message,
    rule_request,
    table_of_route,
    table_of_rule,
)
from rulesets.routing import NO_ROUTING, LocalRoute, OtherRoutes, PolicyRule, Routing, RoutingPlan, Stray
from rulesets.vocabulary import Family

__all__ = ["PROTOCOL", "apply", "read"]

_NETLINK_ROUTE = 0
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_RTM_NEWRULE, _RTM_DELRULE, _RTM_GETRULE = 32, 33, 34
_SOL_NETLINK = 270
_NETLINK_GET_STRICT_CHK = 12
_ATTEMPTS = 4
_ENOUGH = 64  # routes of others in Weir's table: one would do to leave it to them
# No IPv6 in this kernel (not built in, or ipv6.disable=1), or no such table.
_NONE_THERE = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENOENT)
_GONE_ALREADY = (*_NONE_THERE, errno.ESRCH)


class _Rtnetlink(RawNetlink):
    """A socket on which a request for some routes brings those alone."""

    def __init__(self) -> None:
        super().__init__(_NETLINK_ROUTE, feature="rtnetlink", option="CONFIG_NET")
        # Since 4.20. Without it, a request for some routes brings all; what is not meant is left out here in any case.
        with suppress(OSError):
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)

    def close(self) -> None:
        brief.close(self._socket.detach())

    def list(self, kind: int, body: bytes, statement: str, most: int | None = None) -> tuple[bytes, ...]:
        answer = self.dump(kind, body, statement=statement, most=most)
        return () if answer.errno in _NONE_THERE else answer.expect(statement)


def read(table: int | None = None) -> Routing:
    """Return Weir's own rules and routes, changed ones as `Stray`.

    The routes of every table; where one is given, of that and of those that the rules name, which is quick however many
    routes there are: and then also whose other routes are in that one.
    """
    with _Rtnetlink() as rtnetlink:
        return _read(rtnetlink, table)


def apply(plan: RoutingPlan) -> None:
    """Carry out a plan: what is missing first, then what is too much. On an error, what was added is taken back.

    Strays go before anything is added, for they can stand in its place, and stay away on an error. Raises
    `RouteTableTaken` when the table was seen to hold somebody else's routes, `KernelError` for every other refusal.
    """
    if not plan:
        return
    _refuse_table_of_others(plan)
    with _Rtnetlink() as rtnetlink:
        if plan.removed.strays != NO_ROUTING:
            plan = _without_strays(rtnetlink, plan)
        added = plan.added
        _add(rtnetlink, added)
        _delete(rtnetlink, plan.removed)
        for stray_rule in added.strays.rules:  # brought back where a change is undone
            _change_rule(rtnetlink, _RTM_NEWRULE, stray_rule)
        for stray_route in added.strays.routes:
            _change_route(rtnetlink, _RTM_NEWROUTE, stray_route)


def _add(rtnetlink: _Rtnetlink, routing: Routing) -> None:
    """Add what isn't stray, all at once: each rule before its route. What was added is taken back on an error."""
    rules = [each for each in routing.rules if isinstance(each, PolicyRule)]
    routes = [each for each in routing.routes if isinstance(each, LocalRoute)]
    if not (rules or routes):
        return
    refused = rtnetlink.ask_together(_requests(tuple(rules), tuple(routes)), flags=NLM_F_CREATE | NLM_F_EXCL)
    if refused:
        done = Routing(
            rules=tuple(each for place, each in enumerate(rules) if place not in refused),
            routes=tuple(each for place, each in enumerate(routes, len(rules)) if place not in refused),
        )
        _delete(rtnetlink, done)
        place = min(refused)
        what = [*rules, *routes][place]
        raise _refusal(_statement(_shown(what), deletes=False), refused[place].errno, refused[place].said)


@lru_cache(maxsize=64)
def _requests(rules: tuple[PolicyRule, ...], routes: tuple[LocalRoute, ...]) -> tuple[tuple[int, bytes], ...]:
    """Return what adds these: the same for all pods that are alike."""
    return (
        *((_RTM_NEWRULE, rule_message(each)) for each in rules),
        *((_RTM_NEWROUTE, route_message(each)) for each in routes),
    )


def _read(rtnetlink: _Rtnetlink, table: int | None) -> Routing:
    rules: list[PolicyRule | Stray] = []
    tables = {table or 0}
    for body in rtnetlink.list(_RTM_GETRULE, rule_request(), "ip rule show"):
        rule = own_rule(body)
        if rule is not None:
            rules.append(rule)
            tables.add(table_of_rule(body))
    listed = [
        body for each in sorted(tables - {table} if table else {0}) for body in _routes(rtnetlink, each, PROTOCOL)
    ]
    if table:
        listed += _wanted_table(rtnetlink, table)
    return Routing(
        rules=tuple(_told_apart(rules)),
        routes=tuple(route for body in listed if (route := own_route(body)) is not None),
        others=tuple(sorted({other for body in listed if (other := _other(body, table)) is not None})),
    )


def _wanted_table(rtnetlink: _Rtnetlink, table: int) -> tuple[bytes, ...]:
    """Return the routes of the table that Weir uses: its own, and some of others where there are any."""
    found = _routes(rtnetlink, table, 0, most=_ENOUGH)
    if len(found) <= _ENOUGH:
        return found
    with _Rtnetlink() as another:
        return found + _routes(another, table, PROTOCOL)


def _other(body: bytes, table: int | None) -> OtherRoutes | None:
    family, protocol = family_of(body), protocol_of_route(body)
    if family is None or protocol in (None, PROTOCOL) or table_of_route(body) != table:
        return None
    return OtherRoutes(family=family, table=table, protocol=protocol)


def _told_apart(rules: list[PolicyRule | Stray]) -> Iterator[PolicyRule | Stray]:
    """Make a stray of every rule that is there already: the kernel takes the same one twice from who insists."""
    seen: Counter[PolicyRule | Stray] = Counter()
    for rule in rules:
        seen[rule] += 1
        if seen[rule] == 1:
            yield rule
        else:
            text = rule.text if isinstance(rule, Stray) else f"{rule} proto {PROTOCOL}"
            yield Stray(family=rule.family, text=text, message=rule_message(rule), copy=seen[rule])


def _routes(rtnetlink: _Rtnetlink, table: int, protocol: int, most: int | None = None) -> tuple[bytes, ...]:
    """Return the routes of a table (0: of all) and a protocol (0: any); more where the kernel can't choose."""
    request = route_request(table=table, protocol=protocol)
    return rtnetlink.list(_RTM_GETROUTE, request, f"ip route show table {table or 'all'}", most)


def _refuse_table_of_others(plan: RoutingPlan) -> None:
    wanted = {each.table for each in plan.added.routes if isinstance(each, LocalRoute)}
    for each in plan.actual.others:
        if each.table in wanted:
            raise RouteTableTaken(
                statement=f"{'ip' if each.family is Family.IPV4 else 'ip -6'} route show table {each.table}",
                said=f"route table {each.table} holds routes that aren't Weir's (protocol {each.protocol})",
                hint="let route_table name a table that nobody uses; `weir migrate` takes over another agent's",
            )


def _without_strays(rtnetlink: _Rtnetlink, plan: RoutingPlan) -> RoutingPlan:
    """Delete the strays that are too much, and return what is left to do.

    Of rules, the kernel deletes the first that has what is named, whatever else it has, and doesn't look at "not"
    (net/core/fib_rules.c, rule_find): it can be another one of Weir's, which is then missing and added again.
    """
    for _ in range(_ATTEMPTS):
        _delete(rtnetlink, plan.removed.strays)
        plan = RoutingPlan(actual=_read(rtnetlink, None), desired=plan.desired)
        if plan.removed.strays == NO_ROUTING:
            return plan
    raise KernelError(statement=plan.describe(), said=f"what was deleted {_ATTEMPTS} times is still listed")


def _delete(rtnetlink: _Rtnetlink, routing: Routing) -> None:
    for route in routing.routes:
        _change_route(rtnetlink, _RTM_DELROUTE, route)
    for rule in routing.rules:
        _change_rule(rtnetlink, _RTM_DELRULE, rule)


def _change_rule(rtnetlink: _Rtnetlink, kind: int, rule: PolicyRule | Stray) -> None:
    _ask(rtnetlink, kind, rule_message(rule), _shown(rule))


def _change_route(rtnetlink: _Rtnetlink, kind: int, route: LocalRoute | Stray) -> None:
    _ask(rtnetlink, kind, route_message(route), _shown(route))


@lru_cache(maxsize=256)
def _shown(what: PolicyRule | LocalRoute | Stray) -> str:
    return what.text if isinstance(what, Stray) else f"{what} proto {PROTOCOL}"


def _ask(rtnetlink: _Rtnetlink, kind: int, body: bytes, shown: str) -> None:
    deletes = kind in (_RTM_DELRULE, _RTM_DELROUTE)
    statement = _statement(shown, deletes=deletes)
    answer = rtnetlink.ask(kind, body, statement=statement, flags=0 if deletes else NLM_F_CREATE | NLM_F_EXCL)
    if answer.errno and not (deletes and answer.errno in _GONE_ALREADY):
        raise _refusal(statement, answer.errno, answer.said)


def _statement(shown: str, *, deletes: bool) -> str:
    return shown.replace(":", " del" if deletes else " add", 1)


def _refusal(statement: str, code: int, said: str) -> KernelError:
    if code == errno.EPERM:
        return PermissionMissing(statement=statement, said=said)
    if code == errno.EEXIST:
        return RouteTableTaken(
            statement=statement,
            said="the same is there already, of somebody else or of another Weir",
            hint="let rule_priority and route_table be free numbers; `weir migrate` takes over another agent's",
        )
    hint = "bring up lo: `ip link set lo up`" if code == errno.ENETDOWN else ""
    return KernelError(statement=statement, said=said, hint=hint)
