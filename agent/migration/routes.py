"""The other agent's policy rules and routes taken over, deleted and given back: never a moment without them."""

from agent.errors import RouteTableTaken
from agent.kernel import routing
from agent.kernel.foreign_routing import ForeignRouting
from agent.kernel.handle import Handle
from agent.migration.old import Old
from rulesets.routing import NO_ROUTING, LocalRoute, PolicyRule, Routing, RoutingPlan
from rulesets.vocabulary import Family


def refuse_others(handle: Handle, old: Old, desired: Routing) -> None:
    """Raise `RouteTableTaken` where a table that is to be used holds routes of anybody but the other agent."""
    with handle.inside(), ForeignRouting() as foreign:
        _equal_routes(foreign, old, desired)


def take_over(handle: Handle, old: Old, desired: Routing) -> None:
    """Put Weir's rules beside equal ones of the other agent's, and Weir's routes in the place of equal ones.

    Raises `RouteTableTaken` where the table holds other routes, `KernelError` for what is refused.
    """
    with handle.inside(), ForeignRouting() as foreign:
        equal = _equal_routes(foreign, old, desired)
        foreign.add_rules(each for each in desired.rules if isinstance(each, PolicyRule))
        foreign.put_routes(equal)
        _apply(desired)


def delete_old(handle: Handle, old: Old, desired: Routing) -> None:
    """Delete what is left of the other agent's rules and routes. Weir's stay."""
    with handle.inside(), ForeignRouting() as foreign:
        foreign.delete_rules(old.rules)
        foreign.delete_routes(old.routes)
        _apply(desired)


def give_back(handle: Handle, old: Old) -> None:
    """Put the other agent's rules and routes back, each route in the place of Weir's equal one."""
    with handle.inside(), ForeignRouting() as foreign:
        foreign.add_rules(old.rules)
        foreign.put_routes(old.routes)


def delete_own(handle: Handle) -> None:
    """Delete what is left of Weir's rules and routes."""
    with handle.inside():
        routing.apply(RoutingPlan(actual=routing.read(), desired=NO_ROUTING))


def _equal_routes(foreign: ForeignRouting, old: Old, desired: Routing) -> tuple[LocalRoute, ...]:
    """Return the wanted routes that stand already, as the other agent's."""
    known = {(each.family, each.table) for each in old.routes}
    theirs = foreign.routes({each.table for each in old.routes})
    taken = {(each.family, each.table) for each in theirs} & known
    routes = tuple(each for each in desired.routes if isinstance(each, LocalRoute))
    for table in {each.table for each in routes}:
        left = [each for each in routing.read(table).others if (each.family, each.table) not in taken]
        if left:
            raise RouteTableTaken(
                statement=f"{'ip' if left[0].family is Family.IPV4 else 'ip -6'} route show table {table}",
                said=f"route table {table} holds routes that are neither Weir's nor {' and '.join(old.owners)}'s",
                hint="let route_table name a table that nobody uses",
            )
    return tuple(each for each in routes if (each.family, each.table) in taken)


def _apply(desired: Routing) -> None:
    routing.apply(RoutingPlan(actual=routing.read(), desired=desired))
