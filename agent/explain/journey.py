"""The way of an imaginary packet through a namespace as it is now: every rule that it meets, the routes, its fate."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

from agent.doctor.ports import Holders, proxy_ports
from agent.explain.asked import Asked
from agent.explain.live import LEGACY, Live
from agent.explain.places import Decision, Place, read_listening
from agent.explain.start import Start
from agent.explain.words import PORTLESS, described, did, end
from agent.kernel.handle import Handle
from agent.kernel.policy_rules import Rtnetlink
from rulesets.capture import Capture
from rulesets.packet import Fate, Met, Packet, Verdict, looped, walk_together
from rulesets.vocabulary import Foreign, Hook, Protocol


class End(StrEnum):
    """What became of a packet."""

    CAPTURED = "captured"
    DELIVERED = "delivered"
    DIRECT = "direct"
    FORWARDED = "forwarded"
    REFUSED = "refused"
    DROPPED = "dropped"
    NO_ROUTE = "no route"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that a packet met: a rule, a chain's policy, or a routing decision (`table` is empty).

    `line` is the rule's number in its chain from 1, `handle` nft's; 0 is none. `known` is False for the rule of which
    nobody can tell from here.
    """

    hook: str
    table: str = ""
    chain: str = ""
    line: int = 0
    handle: int = 0
    slug: str = ""
    text: str
    did: str
    known: bool = True

    @property
    def place(self) -> str:
        """Where the rule stands, in words."""
        if not self.table:
            return "routing"
        name = self.table.removeprefix("table ")
        which = f"handle {self.handle}" if self.handle else f"rule {self.line}" if self.line else "policy"
        return f"{name}, {self.chain}, {which}{f' ({self.slug})' if self.slug else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Journey:
    """How one packet would fare. `said` is a sentence on its end; `notes` are what was taken for granted.

    `unread` are rules of others that couldn't be read at all: they may change everything.
    """

    asked: str
    packet: str
    end: End
    said: str
    steps: tuple[Step, ...] = ()
    arrives: str = ""
    mark: int = 0
    connection_mark: int = 0
    notes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    def document(self) -> dict[str, object]:
        """Return it as JSON can hold it."""
        return {**asdict(self), "end": str(self.end), "steps": [asdict(each) for each in self.steps]}


def travel(asked: Asked, handle: Handle, live: Live, capture: Capture, *, holders: Holders | None = None) -> Journey:
    """Return how a packet would fare in a namespace. Reads only. Raises `WeirError`, `ConfigError` for no interface."""
    with handle.inside(), Rtnetlink() as netlink:
        place = Place(netlink)
        start = Start(asked, place, capture)
        return _Travel(start, live, capture, holders or Holders()).journey()


class _Travel:
    """One packet under way: what is met is written down in order, routes among rules."""

    def __init__(self, start: Start, live: Live, capture: Capture, holders: Holders) -> None:
        self._start, self._place, self._live, self._capture = start, start.place, live, capture
        self._holders = holders
        self._routes: list[tuple[int, str, Decision]] = []
        self._unrouted: Decision | None = None

    def journey(self) -> Journey:
        packet = self._start.packet
        steps: list[Step] = []
        first = self._start.first
        if first is not None:
            steps.append(_routed("output", first))
            if first.route.error:
                said = f"can't be sent: {first}"
                return self._end(packet, End.NO_ROUTE, said, steps)
        verdict = self._walk(packet, steps)
        if self._goes_back_in(verdict):
            verdict = self._walk(looped(verdict), steps, by_loopback=True)
        return self._told(verdict, steps)

    def _goes_back_in(self, verdict: Verdict) -> bool:
        last = verdict.packet
        return verdict.fate is Fate.ACCEPTED and last.hook is Hook.OUTPUT and last.out_interface == "lo"

    def _walk(self, packet: Packet, steps: list[Step], *, by_loopback: bool = False) -> Verdict:
        self._routes = []
        rulesets = tuple(each.ruleset for each in self._live.tables)
        verdict = walk_together(rulesets, packet, route=self._route)
        routes = iter(self._routes)
        due = next(routes, None)
        for at, met in enumerate(verdict.rules):
            while due is not None and due[0] <= at:
                steps.append(_routed(due[1], due[2]))
                due = next(routes, None)
            steps.append(self._met(met, by_loopback=by_loopback))
        while due is not None:
            steps.append(_routed(due[1], due[2]))
            due = next(routes, None)
        if verdict.stopped is not None:
            steps.append(self._met(verdict.stopped, by_loopback=by_loopback, stopped=verdict))
        return verdict

    def _route(self, verdict: Verdict) -> Packet | None:
        """Return the packet as the kernel's routing makes it go on; see `walk_together`."""
        packet = verdict.packet
        if packet.hook is Hook.OUTPUT:
            source = packet.source if self._place.is_own(packet.source) else None
            decision = self._place.outwards(packet.destination, source=source, mark=packet.mark)
        else:
            by = packet.in_interface
            decision = self._place.inwards(packet.destination, packet.source, by, mark=packet.mark)
        self._routes.append((len(verdict.rules), str(packet.hook), decision))
        if decision.route.error:
            self._unrouted = decision
            return None
        if packet.hook is Hook.OUTPUT:
            return replace(packet, destination_local=decision.local, out_interface=decision.interface)
        out = "" if decision.local else decision.interface
        return replace(packet, destination_local=decision.local, out_interface=out)

    def _met(self, met: Met, *, by_loopback: bool, stopped: Verdict | None = None) -> Step:
        table = self._live.tables[met.ruleset]
        rule = table.rule(met.chain, met.number)
        hook = f"{met.hook}{' by lo' if by_loopback else ''}"
        if rule is None:
            return Step(hook=hook, table=table.place, chain=met.chain, text="policy drop", did="is dropped")
        unknown = stopped is not None or isinstance(rule.action, Foreign)
        said = f"unknown from here: {stopped.unknown}" if stopped is not None else did(rule.action)
        return Step(
            hook=hook,
            table=table.place,
            chain=met.chain,
            line=met.number,
            handle=table.handle(met.chain, met.number),
            slug=rule.slug,
            text=table.text(rule),
            did=said,
            known=not unknown,
        )

    def _told(self, verdict: Verdict, steps: list[Step]) -> Journey:
        last, by = verdict.packet, f" by {steps[-1].place}" if steps and steps[-1].table else ""
        match verdict.fate:
            case Fate.UNKNOWN:
                return self._end(last, End.UNKNOWN, f"nobody can tell from here{by}: {verdict.unknown}", steps)
            case Fate.REFUSED:
                return self._end(last, End.REFUSED, f"is refused{by}", steps)
            case Fate.DROPPED if self._unrouted is not None:
                return self._end(last, End.NO_ROUTE, f"is dropped: {self._unrouted}", steps)
            case Fate.DROPPED:
                return self._end(last, End.DROPPED, f"is dropped{by}", steps)
            case _:
                pass
        if last.destination_local and (last.hook is Hook.PREROUTING or last.out_interface == "lo"):
            return self._delivered(verdict, steps)
        if last.hook is Hook.PREROUTING:
            return self._end(last, End.FORWARDED, f"is forwarded, out by {last.out_interface}: not captured", steps)
        mark = self._capture.proxy_mark
        own = " (it bears the proxy's mark)" if mark.matches(last.mark) else ""
        where = end(last.destination, 0 if last.protocol in PORTLESS else last.destination_port)
        said = f"goes out by {last.out_interface} to {where}, direct: not captured{own}"
        return self._end(last, End.DIRECT, said, steps)

    def _delivered(self, verdict: Verdict, steps: list[Step]) -> Journey:
        last = verdict.packet
        port = verdict.tproxy or last.destination_port
        where = end(last.destination, 0 if last.protocol in PORTLESS else port)
        settings = {number: name for name, number in proxy_ports(self._capture).items()}
        if last.protocol in PORTLESS:
            return self._end(last, End.DELIVERED, f"arrives at {where}: not captured", steps)
        wanted = "tcp" if last.protocol is Protocol.TCP else "udp"
        there = read_listening({port}, self._holders)
        found = [each for each in there if each.protocol == wanted and each.answers(last.destination)]
        who = found[0].who if found else ""
        answered = f"which {who} answers" if found else "where nothing listens: it is refused"
        if port in settings and (last.translation is not None or verdict.translated or settings[port] == "hbone_port"):
            said = f"is captured: it goes to the proxy at {where} ({settings[port]}), {answered}"
            return self._end(last, End.CAPTURED if found else End.REFUSED, said, steps)
        said = f"arrives at {where}, {answered}; not captured"
        return self._end(last, End.DELIVERED if found else End.REFUSED, said, steps)

    def _end(self, last: Packet, what: End, said: str, steps: Iterable[Step]) -> Journey:
        portless = last.protocol in PORTLESS
        return Journey(
            asked=str(self._start.asked),
            packet=described(self._start.packet),
            end=what,
            said=said,
            steps=tuple(steps),
            arrives=end(last.destination, 0 if portless else last.destination_port),
            mark=last.mark,
            connection_mark=last.connection_mark,
            notes=(*self._start.notes, *_ties(self._live)),
            unread=self._live.unread,
        )


def _routed(hook: str, decision: Decision) -> Step:
    mark = f" with mark {decision.mark:#x}" if decision.mark else ""
    return Step(hook=hook, text=str(decision), did=f"is routed{mark}", known=True)


def _ties(live: Live) -> Iterator[str]:
    """Say where it isn't told which of two chains comes first: legacy tables don't say when they were loaded."""
    legacy = [each for each in live.tables if each.place.endswith(LEGACY)]
    for each in live.tables:
        for other in legacy if not each.place.endswith(LEGACY) else ():
            pair = ((mine, theirs) for mine in each.ruleset.chains for theirs in other.ruleset.chains if theirs.rules)
            shared = [
                mine
                for mine, theirs in pair
                if mine.rules and (mine.hook, mine.priority) == (theirs.hook, theirs.priority)
            ]
            if shared:
                yield f"{other.place} is taken to be asked before {each.place} at priority {shared[0].priority}"
