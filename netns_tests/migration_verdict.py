"""What became of connections and queries while rules changed under them: the judge of `migration_load`.

It believes nobody alone: the clients say what they were answered, the servers whom they saw, the proxy's log what came
to it and how often, and taps what was on the wire.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from netns_tests.captured import Address, Captured
from netns_tests.hammer import CAPTURED, DIRECT, Attempt, Hammered
from netns_tests.migration_dns import Asked
from netns_tests.tap import Segment

__all__ = ["Verdict", "Way", "judge"]

MOST_SHOWN = 5
When = Callable[[float], str]


@dataclass(frozen=True, kw_only=True)
class Way:
    """What there is to know of the new connections of one family and direction.

    `arrived` are their first segments where they come into the pod, of those that come from elsewhere; `dialled` are
    those that leave the pod, or go to the application in it.
    """

    name: str
    outbound: bool
    hammered: Hammered
    logged: Sequence[Captured]
    arrived: Sequence[Segment]
    dialled: Sequence[Segment]


@dataclass(kw_only=True)
class Verdict:
    """How much there was, and each thing that went wrong, in words."""

    connections: dict[str, int] = field(default_factory=dict)
    queries: int = 0
    lost: list[str] = field(default_factory=list)
    uncaptured: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)

    @property
    def faults(self) -> str:
        """Return what went wrong, some of each kind; empty when all is well."""
        kinds = {"lost": self.lost, "uncaptured": self.uncaptured, "captured more than once": self.twice}
        return "\n".join(
            f"{len(found)} {kind}: " + "; ".join(found[:MOST_SHOWN]) for kind, found in kinds.items() if found
        )

    def __str__(self) -> str:
        counts = ", ".join(f"{number} {name}" for name, number in self.connections.items())
        return f"{counts}, {self.queries} queries\n{self.faults or 'nothing lost, uncaptured or captured twice'}"


def judge(
    ways: Iterable[Way],
    asked: Sequence[Asked],
    queries: Sequence[Captured],
    strays: Sequence[Captured],
    seen_by_dns_server: Sequence[Address],
    when: When,
) -> Verdict:
    """Return what became of everything; `when` says what was going on at a time."""
    verdict = Verdict()
    for way in ways:
        verdict.connections[way.name] = len(way.hammered.attempts)
        _judge_way(way, verdict, when)
    verdict.twice += [f"{each.client} came to the proxy without a redirect {when(each.time)}" for each in strays]
    verdict.queries = len(asked)
    _judge_queries(asked, queries, seen_by_dns_server, verdict, when)
    return verdict


def _judge_way(way: Way, verdict: Verdict, when: When) -> None:
    attempts = way.hammered.attempts
    for each in attempts:
        if each.result in way.hammered.failed:
            verdict.lost.append(f"{way.name} from {each.local} {each.result} {when(each.time)}")
        elif each.result == DIRECT:
            verdict.uncaptured.append(f"{way.name} from {each.local} seen by the server {when(each.time)}")
    unlogged, unknown = _apart(way)
    verdict.uncaptured += [
        f"{way.name} from {each.local} not seen by the proxy {when(each.time)}"
        for each in unlogged
        if each.result == CAPTURED
    ]
    verdict.twice += [f"{way.name} from {each.client} came to the proxy {when(each.time)}" for each in unknown]
    wrong = "inbound" if way.outbound else "outbound"
    verdict.twice += [
        f"{way.name} from {each.client} came to the {wrong} port {when(each.time)}"
        for each in way.logged
        if each.direction == wrong
    ]
    for place, segments in (("arrived", way.arrived), ("dialled", way.dialled)):
        distinct = {(each.source, each.sequence): each.time for each in segments}  # one that is sent again is the same
        beside = len(distinct) - len(way.logged)
        if beside > 0:
            last = when(max(distinct.values()))
            verdict.uncaptured.append(f"{way.name}: {beside} {place} on the wire past the proxy, {last}")


def _apart(way: Way) -> tuple[list[Attempt], list[Captured]]:
    """Return the attempts that the proxy has not seen, and what it has seen that was no attempt.

    Whoever failed early has no address of its own; and the kernel gives a redirected connection another port where its
    own is taken, by one that was redirected from elsewhere (nf_nat_core.c, get_unique_tuple): such are known by their
    time. So are those of a port that was used twice.
    """
    unlogged = dict.fromkeys(way.hammered.attempts)
    of_port: dict[Address, list[Attempt]] = {}
    for attempt in unlogged:
        of_port.setdefault(attempt.local, []).append(attempt)
    nameless = []
    for entry in way.logged:
        fits = [each for each in of_port.get(entry.client, ()) if _during(entry, each) and each in unlogged]
        if fits:
            del unlogged[fits[0]]
        else:
            nameless.append(entry)
    unknown = []
    for entry in nameless:
        fits = [each for each in unlogged if _during(entry, each)]
        if fits:
            del unlogged[fits[0]]
        else:
            unknown.append(entry)
    return list(unlogged), unknown


def _during(entry: Captured, attempt: Attempt) -> bool:
    return attempt.time <= entry.time <= attempt.time + attempt.seconds


def _judge_queries(
    asked: Sequence[Asked], logged: Sequence[Captured], seen: Sequence[Address], verdict: Verdict, when: When
) -> None:
    for each in asked:
        if each.result != "answered":
            verdict.lost.append(f"query {each.name} from {each.source} {each.result} {when(each.time)}")
    ports = {each.source[1] for each in asked}
    verdict.uncaptured += [f"a query from {each} seen by the server" for each in seen if each[1] in ports]
    count = Counter(each.name for each in logged)
    verdict.uncaptured += [
        f"query {each.name} not seen by the proxy {when(each.time)}"
        for each in asked
        if each.result == "answered" and not count[each.name]
    ]
    verdict.twice += [
        f"query {each.name} from {each.client} came to the proxy {when(each.time)}"
        for each in logged
        if count[each.name] > 1 or each.client[1] not in ports
    ]
