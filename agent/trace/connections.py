"""Traced packets as connections, with their rules by name: what a person reads, and what a document holds."""

from collections import Counter as Tally
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from agent.kernel.tablequery import TableName
from agent.kernel.tracing.events import Code
from agent.trace.following import SILENCE, Fate, Packet, Step
from agent.trace.headers import Ends, shown
from agent.words import counted, printable

_VERDICTS = {Code.RETURN: "return", Code.GOTO: "goto", Code.JUMP: "jump", Code.CONTINUE: "continue"}
_ENDED = {Code.DROP: "drop", Code.ACCEPT: "accept", Code.STOLEN: "stolen", Code.QUEUE: "queue"}
MOST_SEEN = 65536  # connections of which further packets are known to be of the same
DROPPED, UNDECIDED = "dropped-by-others", "no-rule"


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """A rule that a packet met, or a chain's policy (`rule` empty). `ours`: the rule is Weir's, and named by its slug.

    `mark` is the packet's mark where that had changed by then, else None.
    """

    table: str
    chain: str
    handle: int | None
    rule: str
    ours: bool
    verdict: str
    mark: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """A packet's way through this namespace. `began` is None where its headers can't be read; `became` as it ended."""

    way: str
    interface: str
    began: Ends | None
    became: Ends | None
    met: tuple[Met, ...]
    fate: Fate
    mark: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A connection's first packet: one leg, or two where it came back through loopback. `path` is what decided."""

    legs: tuple[Leg, ...]
    path: str


@dataclass(slots=True, kw_only=True)
class Summary:
    """What a trace came to. `lost` counts overflows of the socket, each of an unknown number of events."""

    connections: int = 0
    packets: int = 0
    paths: Tally[str] = field(default_factory=Tally)
    lost: int = 0
    seconds: float = 0.0

    def text(self) -> str:
        """Return it as one line."""
        paths = ", ".join(f"{number} {path}" for path, number in sorted(self.paths.items()))
        lost = f"; events were lost {self.lost} times: lower --rate" if self.lost else ""
        whole = f"{counted(self.connections, 'connection')}, {counted(self.packets, 'packet')} in {self.seconds:.1f} s"
        return f"{whole}{f': {paths}' if paths else ''}{lost}"

    def document(self) -> dict[str, object]:
        """Return it as a document."""
        return {
            "connections": self.connections,
            "packets": self.packets,
            "paths": dict(sorted(self.paths.items())),
            "lost": self.lost,
            "seconds": round(self.seconds, 3),
        }


@dataclass(slots=True, kw_only=True)
class Gathering:
    """Makes connections of packets. `name` names a rule, and tells whether it is Weir's; `interface` an interface.

    `both`: connections are traced both ways, so that what goes out by loopback is seen again.
    """

    name: Callable[[TableName, str, int], tuple[str, bool]]
    interface: Callable[[int], str]
    both: bool
    summary: Summary = field(default_factory=Summary)
    _waiting: dict[Ends, tuple[float, tuple[Leg, ...]]] = field(default_factory=dict)
    _seen: dict[Ends, None] = field(default_factory=dict)

    def add(self, packet: Packet, now: float) -> Iterator[Connection]:
        """Yield what a packet makes whole: a connection that was not yet told of."""
        self.summary.packets += 1
        leg = self._leg(packet)
        waiting = self._waiting.pop(leg.began, None) if leg.began is not None and leg.way == "in" else None
        if waiting is not None:
            self.summary.packets -= 1  # the same packet, once more
            yield from self._told((*waiting[1], leg))
        elif self._comes_back(packet, leg) and leg.became is not None:
            self._waiting[leg.became] = (now, (leg,))
        else:
            yield from self._told((leg,))

    def _comes_back(self, packet: Packet, leg: Leg) -> bool:
        by_loopback = bool(packet.left_by) and self.interface(packet.left_by) == "lo"
        return self.both and leg.way == "out" and leg.fate is Fate.ACCEPTED and by_loopback

    def overdue(self, now: float) -> Iterator[Connection]:
        """Yield connections that did not come back through loopback."""
        for ends, (since, legs) in list(self._waiting.items()):
            if now - since > SILENCE:
                del self._waiting[ends]
                yield from self._told(legs)

    def _told(self, legs: tuple[Leg, ...]) -> Iterator[Connection]:
        ends = legs[0].began
        if ends is not None:
            if ends in self._seen:
                return
            if len(self._seen) >= MOST_SEEN:
                self._seen.pop(next(iter(self._seen)))
            self._seen[ends] = None
        path = path_of(legs)
        self.summary.connections += 1
        self.summary.paths[path] += 1
        yield Connection(legs=legs, path=path)

    def _leg(self, packet: Packet) -> Leg:
        way = "out" if packet.first.chain.startswith("out") else "in"
        number = packet.out_interface if way == "out" else packet.in_interface
        return Leg(
            way=way,
            interface=self.interface(number) if number else "",
            began=packet.began,
            became=packet.became,
            met=tuple(self._met(packet)),
            fate=packet.fate,
            mark=packet.mark,
        )

    def _met(self, packet: Packet) -> Iterator[Met]:
        mark = packet.first.mark
        for step in packet.steps:
            changed = step.mark if step.mark != mark else None
            mark = step.mark
            if step.table.name.startswith("weir-trace-") or (step.handle is None and not step.policy):
                continue
            rule, ours = ("", False) if step.handle is None else self.name(step.table, step.chain, step.handle)
            yield Met(
                table=str(step.table),
                chain=step.chain,
                handle=step.handle,
                rule=rule,
                ours=ours,
                verdict=_verdict(step),
                mark=changed,
            )


def path_of(legs: tuple[Leg, ...]) -> str:
    """Return what decided: the slug of Weir's last rule with a verdict, or that somebody dropped it, or nobody did."""
    last = legs[-1].met[-1:] if legs[-1].fate is Fate.DROPPED else ()
    if last and not last[0].ours:
        return DROPPED
    ours = [each.rule for leg in legs for each in leg.met if each.ours and each.verdict in ("accept", "drop")]
    return ours[-1] if len(legs) == 1 and ours else ours[0] if ours else UNDECIDED


def _verdict(step: Step) -> str:
    if step.verdict in (Code.JUMP, Code.GOTO):
        return f"{_VERDICTS[Code(step.verdict)]} {step.target}"
    if step.verdict in list(_VERDICTS):
        return _VERDICTS[Code(step.verdict)]
    low = step.verdict & 0xFF
    return _ENDED[Code(low)] if step.verdict >= 0 and low in list(_ENDED) else str(step.verdict)


def lines(connection: Connection) -> Iterator[str]:
    """Yield a connection's block of text."""
    for number, leg in enumerate(connection.legs):
        began = str(leg.began) if leg.began is not None else "a packet without headers that can be read"
        by = f" by {printable(leg.interface)}" if leg.interface else ""
        yield f"{'  then ' if number else ''}{began}, {leg.way}{by}"
        for met in leg.met:
            yield f"    {_line(met)}"
        yield from (f"    {each}" for each in _changes(leg))
    last = connection.legs[-1]
    mark = f", mark {last.mark:#x}" if last.mark else ""
    yield f"  {last.fate}: {connection.path}{mark}"


def _line(met: Met) -> str:
    place = printable(f"{met.table} {met.chain}")
    mark = "" if met.mark is None else f", mark {met.mark:#x}"
    if met.handle is None:
        return f"{place}: policy {met.verdict}{mark}"
    rule = printable(met.rule) if met.rule else f"rule with handle {met.handle}"
    return f"{place}: {rule}: {printable(met.verdict)}{mark}"


def _changes(leg: Leg) -> Iterator[str]:
    began, became = leg.began, leg.became
    if began is None or became is None:
        return
    for what, old, new in (
        ("source", (began.source, began.source_port), (became.source, became.source_port)),
        ("destination", (began.destination, began.destination_port), (became.destination, became.destination_port)),
    ):
        if old != new:
            yield f"translated: {what} is {shown(*new)}, was {shown(*old)}"


def document(connection: Connection) -> dict[str, object]:
    """Return a connection as a document."""
    return {
        "path": connection.path,
        "fate": str(connection.legs[-1].fate),
        "mark": connection.legs[-1].mark,
        "legs": [
            {
                "way": leg.way,
                "interface": leg.interface,
                "packet": _ends_document(leg.began),
                "became": _ends_document(leg.became),
                "met": [
                    {
                        "table": met.table,
                        "chain": met.chain,
                        "handle": met.handle,
                        "rule": met.rule,
                        "ours": met.ours,
                        "verdict": met.verdict,
                        "mark": met.mark,
                    }
                    for met in leg.met
                ],
            }
            for leg in connection.legs
        ],
    }


def _ends_document(ends: Ends | None) -> dict[str, object] | None:
    if ends is None:
        return None
    return {
        "protocol": ends.protocol,
        "source": str(ends.source),
        "source_port": ends.source_port,
        "destination": str(ends.destination),
        "destination_port": ends.destination_port,
    }
