"""The policy rules and local routes beside a pod's table, as values.

Replies to connections that the proxy opened in a client's name must come back to it: they carry the connection mark,
the rule sends the marked to a table of their own, and the one route there delivers everything locally.
"""

from dataclasses import dataclass, field
from functools import lru_cache

from rulesets.capture import Capture
from rulesets.vocabulary import Family, Mark


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRule:
    """One ``ip rule``: packets with this mark are routed by this table."""

    family: Family
    mark: Mark
    table: int
    priority: int

    def __str__(self) -> str:
        ip = "ip" if self.family is Family.IPV4 else "ip -6"
        return f"{ip} rule: from all fwmark {self.mark} priority {self.priority} lookup {self.table}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRoute:
    """One ``ip route``: every address is delivered to this namespace, by `lo`."""

    family: Family
    table: int

    def __str__(self) -> str:
        everything = "ip route: local 0.0.0.0/0" if self.family is Family.IPV4 else "ip -6 route: local ::/0"
        return f"{everything} dev lo table {self.table}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stray:
    """A rule or a route that carries Weir's protocol number, and that Weir doesn't make: somebody changed one.

    `message` is what is sent to delete it or to bring it back, as the kernel listed it. `copy` numbers equal ones.
    """

    family: Family
    text: str
    message: bytes
    copy: int = 1

    def __str__(self) -> str:
        return self.text if self.copy == 1 else f"{self.text} (once more: {self.copy})"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class OtherRoutes:
    """That somebody else, known by a protocol number (``proto`` in `ip route`), has routes in a table."""

    family: Family
    table: int
    protocol: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """All of Weir's rules and routes in one namespace, each a set in effect: sorted, without duplicates.

    `others` is what was seen of others in the table that Weir is to use: it makes no difference, but that Weir adds
    nothing there.
    """

    rules: tuple[PolicyRule | Stray, ...] = ()
    routes: tuple[LocalRoute | Stray, ...] = ()
    others: tuple[OtherRoutes, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(sorted(set(self.rules), key=str)))
        object.__setattr__(self, "routes", tuple(sorted(set(self.routes), key=str)))

    @property
    def strays(self) -> "Routing":
        """What Weir doesn't make."""
        if not any(isinstance(each, Stray) for each in (*self.rules, *self.routes)):
            return NO_ROUTING
        return Routing(
            rules=tuple(each for each in self.rules if isinstance(each, Stray)),
            routes=tuple(each for each in self.routes if isinstance(each, Stray)),
        )

    def together(self, other: "Routing") -> "Routing":
        """Return what Weir makes of both. Strays are left out: they can stand where something else has to go."""
        both = Routing(rules=(*self.rules, *other.rules), routes=(*self.routes, *other.routes))
        return _without(both, both.strays)


NO_ROUTING = Routing()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingPlan:
    """From `actual` to `desired`. False when they are equal."""

    actual: Routing
    desired: Routing

    def __bool__(self) -> bool:
        return self.actual != self.desired

    @property
    def added(self) -> Routing:
        """What is missing."""
        return _without(self.desired, self.actual)

    @property
    def removed(self) -> Routing:
        """What is too much."""
        return _without(self.actual, self.desired)

    def describe(self) -> str:
        """Return the differences, a line each; empty when there are none."""
        removed = [f"  - {each}" for each in (*self.removed.rules, *self.removed.routes)]
        added = [f"  + {each}" for each in (*self.added.rules, *self.added.routes)]
        return "\n".join(["rules and routes", *removed, *added]) if self else ""


@lru_cache(maxsize=256)
def build(capture: Capture, families: tuple[Family, ...]) -> Routing:
    """Return the rules and routes of a capture in a namespace that has these families.

    There are none where only outbound is captured: then the proxy opens no connection in another's name.
    """
    if not capture.inbound:
        return NO_ROUTING
    used = tuple(family for family in families if family in capture.captured_families)
    return Routing(
        rules=tuple(
            PolicyRule(
                family=family,
                mark=capture.connection_mark,
                table=capture.route_table,
                priority=capture.rule_priority,
            )
            for family in used
        ),
        routes=tuple(LocalRoute(family=family, table=capture.route_table) for family in used),
    )


def _without(these: Routing, those: Routing) -> Routing:
    if NO_ROUTING in (these, those):
        return these
    return Routing(
        rules=tuple(each for each in these.rules if each not in those.rules),
        routes=tuple(each for each in these.routes if each not in those.routes),
    )
