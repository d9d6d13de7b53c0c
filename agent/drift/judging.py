"""What a pass found, put beside what was heard: which of it is drift, of which kind, and by whom. Touches nothing."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from agent.drift import Culprit, Drift, Kind
from agent.drift.deeds import LINK, Deed, first_of
from agent.kernel.sockets import Listener
from agent.kernel.tablequery import TableName
from agent.targets import Rival, TargetPlan
from agent.words import counted, printable
from rulesets.diff import Plan
from rulesets.model import Ruleset
from rulesets.routing import LocalRoute, PolicyRule, Routing, RoutingPlan
from rulesets.vocabulary import Family

_WORDS = {Family.IPV4: "IPv4", Family.IPV6: "IPv6"}
_IPTABLES = {"ip": "iptables-nft", "ip6": "ip6tables-nft"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What a namespace had when the last pass ended: what the wish comes to there. Shared by like namespaces."""

    rules: Ruleset | None
    routing: Routing


def of_plan(plan: TargetPlan, before: Baseline, deeds: Iterable[Deed], *, now: float) -> tuple[Drift, ...]:
    """Return what has drifted since the last pass: not what is wanted otherwise since, nor what others have of theirs.

    `now` is in Unix seconds.
    """
    deeds = tuple(deeds)
    lost = _families(before.routing) - _families(plan.routing.desired)
    back = _families(plan.routing.desired) - _families(before.routing)
    found = [*_table(plan.rules.actual, before.rules, deeds, now)]
    if lost or back:
        said = [f"{_WORDS[family]} can't be captured any more: it is off, on lo at least" for family in sorted(lost)]
        said += [f"{_WORDS[family]} is back" for family in sorted(back)]
        found.append(Drift(kind=Kind.FAMILIES, said="; ".join(said), culprit=None, at=now))
    # The kernel takes away the routes of a family that goes.
    routing = RoutingPlan(actual=plan.routing.actual, desired=before.routing)
    found += _routing(routing, lost | back, deeds, now)
    return tuple(found)


def of_failure(table: TableName, deeds: Iterable[Deed], *, now: float) -> tuple[Drift, ...]:
    """Return what has become of our table by what was heard alone, after a pass that couldn't look or write."""
    deed = first_of(each for each in deeds if each.table == table)
    if deed is None:
        return ()
    kind, said = (Kind.TABLE_GONE, "is gone") if deed.gone else (Kind.TABLE_CHANGED, "was changed")
    return (Drift(kind=kind, said=f"table {table} {said}", culprit=deed.culprit, at=_at(deed, now)),)


def while_away(plan: TargetPlan, *, now: float) -> tuple[Drift, ...]:
    """Return what has drifted while no daemon ran, where the table isn't as the last one had written it."""
    said = "while no daemon ran"
    actual = plan.rules.actual
    if actual is None:
        table = TableName(family="inet", name=plan.rules.table)
        return (Drift(kind=Kind.TABLE_GONE, said=f"table {table} went {said}", culprit=None, at=now),)
    return (Drift(kind=Kind.TABLE_CHANGED, said=f"table inet {actual.table} was changed {said}", culprit=None, at=now),)


def of_listeners(
    before: Iterable[Listener], after: frozenset[Listener], ports: Mapping[str, int], *, now: float
) -> tuple[Drift, ...]:
    """Return which of the proxy's ports (by setting) nobody listens on any more, of those that somebody did."""
    gone = [each for each in before if each not in after]
    left = {(each.protocol, each.port) for each in after}
    said = []
    for setting, port in ports.items():
        for protocol in sorted({each.protocol for each in gone if each.port == port}):
            lacking = "" if (protocol, port) not in left else " by one of the ways it did"
            said.append(f"{protocol} port {port} ({setting}){lacking}")
    if not said:
        return ()
    words = f"nobody listens any more on {', '.join(said)}"
    return (Drift(kind=Kind.LISTENER_GONE, said=words, culprit=None, at=now),)


def of_rivals(
    before: Iterable[Rival], after: Iterable[Rival], deeds: Iterable[Deed], *, legacy_moved: bool, now: float
) -> tuple[Drift, ...]:
    """Return the rules of others that take from the target, or may, and didn't before: of those that have just come.

    One whose table nobody has touched came by Weir's own change, or was there when the daemon began: no drift.
    """
    told: dict[Kind, Drift] = {}
    known, deeds = set(before), tuple(deeds)
    for each in after:
        if each in known:
            continue
        if "iptables-legacy" in each.place or "ip6tables-legacy" in each.place:
            if legacy_moved:
                told.setdefault(Kind.LEGACY_RULES, Drift(kind=Kind.LEGACY_RULES, said=str(each), culprit=None, at=now))
        elif deed := _deed_of(each, deeds):
            drift = Drift(kind=Kind.FOREIGN_CHAIN, said=str(each), culprit=deed.culprit, at=_at(deed, now))
            told.setdefault(Kind.FOREIGN_CHAIN, drift)
    return tuple(told.values())


def of_objects(deeds: Iterable[Deed], *, now: float) -> tuple[Drift, ...]:
    """Return helpers of connection tracking that came into tables: what they expect is not asked for at nat chains."""
    return tuple(
        Drift(
            kind=Kind.HELPER,
            said=printable(f"ct helper {each.helper} in table {each.table}: what it expects goes past the proxy"),
            culprit=each.culprit,
            at=_at(each, now),
        )
        for each in deeds
        if each.helper
    )


def _deed_of(rival: Rival, deeds: tuple[Deed, ...]) -> Deed | None:
    def its(each: Deed) -> bool:
        if each.table is None:
            return False
        place = _IPTABLES.get(each.table.family)
        return rival.place.startswith(f"table {each.table}") or (place is not None and rival.place.startswith(place))

    whole = rival.place == "rules of others"  # of several tables together
    return first_of(each for each in deeds if each.table is not None and (whole or its(each)))


def _table(actual: Ruleset | None, before: Ruleset | None, deeds: tuple[Deed, ...], now: float) -> Iterator[Drift]:
    if before is None or actual == before:
        return
    table = TableName(family="inet", name=before.table)
    touched = [each for each in deeds if each.table == table]
    if actual is None:
        deed = first_of(each for each in touched if each.gone) or first_of(touched)
        yield Drift(kind=Kind.TABLE_GONE, said=f"table {table} is gone", culprit=_who(deed), at=_at(deed, now))
        return
    deed = first_of(touched)
    said = f"table {table} was changed: {_in_short(Plan(actual=before, desired=actual))}"
    yield Drift(kind=Kind.TABLE_CHANGED, said=said, culprit=_who(deed), at=_at(deed, now))


def _in_short(plan: Plan) -> str:
    """Say what happened to a table in a line: the first difference, and how many there are more."""
    changes = plan.changes()
    if not changes:
        return "something foreign in it"
    first = changes[0]
    more = f" (and {counted(len(changes) - 1, 'line')} more)" if len(changes) > 1 else ""
    return f"{first.where}: {first.kind} {printable(first.what)}{more}"


def _routing(plan: RoutingPlan, but: frozenset[Family], deeds: tuple[Deed, ...], now: float) -> Iterator[Drift]:
    if not plan:
        return
    pairs = (
        (Kind.POLICY_RULE, "rule", plan.added.rules, plan.removed.rules),
        (Kind.ROUTE, "route", plan.added.routes, plan.removed.routes),
    )
    for kind, what, lacking, odd in pairs:
        gone = [f"{each} is gone" for each in lacking if each.family not in but]
        came = [f"{each} was put there" for each in odd if each.family not in but]
        if gone or came:
            did = [f"a {what} went"] * bool(gone) + [f"a {what} came"] * bool(came)  # Weir's own repair is the opposite
            deed = first_of(each for each in deeds if each.what in did)
            said = "; ".join(map(printable, (*gone, *came)))
            yield Drift(kind=kind, said=f"{said}{_by(deed, deeds)}", culprit=_who(deed), at=_at(deed, now))


def _by(deed: Deed | None, deeds: tuple[Deed, ...]) -> str:
    if deed is not None and deed.culprit is not None:
        return ""
    if deed is not None and deed.port:
        return f" (by netlink port {deed.port}, whose process is not found)"
    return " (by the kernel, as an interface changed)" if any(each.what == LINK for each in deeds) else ""


def _who(deed: Deed | None) -> Culprit | None:
    return None if deed is None else deed.culprit


def _at(deed: Deed | None, now: float) -> float:
    return now if deed is None else deed.at


def _families(routing: Routing) -> frozenset[Family]:
    made = (each for each in (*routing.rules, *routing.routes) if isinstance(each, PolicyRule | LocalRoute))
    return frozenset(each.family for each in made)
