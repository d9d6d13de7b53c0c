"""Events of the kernel put together as packets: what each was, which rules it met, and what became of it.

The kernel's number for a packet is that of its memory, and comes again with the next one that is put there. So a packet
begins with the rule that had it traced, and ends with a verdict, in the last chain, or when nothing more is heard.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from agent.kernel.tablequery import TableName
from agent.kernel.tracing.events import Code, Event, Type
from agent.trace.headers import Ends, ends_of

SILENCE = 1.0
"""Seconds after which a packet that nothing more is heard of has ended: the kernel traces one within microseconds."""

MOST_STEPS, MOST_OPEN = 256, 1024
"""Rules that a packet can have met, and packets that can be on their way: more is nothing that the kernel tells."""

_QUEUED = 0xFF  # the low byte of a verdict; what it is queued for stands above


class Fate(StrEnum):
    """What became of a packet, as far as rules decide it: one that isn't seen again the kernel dropped between them."""

    ACCEPTED = "accepted"
    DROPPED = "dropped"
    TAKEN = "taken"
    UNSEEN = "not seen again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A rule that a packet met, or the end of a chain (`handle` None); `policy`: the chain's policy decided.

    `verdict` and `target` are the event's; `mark` is the packet's then.
    """

    table: TableName
    chain: str
    handle: int | None
    verdict: int
    target: str
    policy: bool
    mark: int


@dataclass(slots=True, kw_only=True)
class Packet:
    """A traced packet. `began` and `became` are its ends at first and when last seen; None where nobody can tell.

    Interfaces are those at first, and the one that it left by in the end, by number, 0 for none. `first` is the rule
    that had it traced: no step of its own.
    """

    first: Step
    began: Ends | None
    became: Ends | None
    in_interface: int
    out_interface: int
    left_by: int
    at: float
    steps: list[Step] = field(default_factory=list)
    fate: Fate = Fate.UNSEEN

    @property
    def mark(self) -> int:
        """The packet's mark when it was last seen."""
        return self.steps[-1].mark if self.steps else self.first.mark


@dataclass(slots=True, kw_only=True)
class Follower:
    """Puts events together. `begins` tells whether an event is that of a rule that has packets traced.

    `last_table` is the table whose chains without rules are the end of a packet's way; empty where there is none.
    """

    begins: Callable[[Event], bool]
    last_table: str = ""
    _open: dict[int, Packet] = field(default_factory=dict)

    def follow(self, events: Iterable[Event], now: float) -> Iterator[Packet]:
        """Yield packets that have ended, in the order in which they did. `now` is in seconds, of any clock."""
        for event in events:
            yield from self._follow(event, now)
            if len(self._open) > MOST_OPEN:
                yield self._open.pop(next(iter(self._open)))
        for number, packet in [each for each in self._open.items() if now - each[1].at > SILENCE]:
            del self._open[number]
            yield packet

    def rest(self) -> Iterator[Packet]:
        """Yield the packets that have not ended."""
        yield from self._open.values()
        self._open.clear()

    def _follow(self, event: Event, now: float) -> Iterator[Packet]:
        step = _step(event)
        ends = ends_of(event.network, event.transport)
        packet = self._open.get(event.packet)
        if self.begins(event):
            # A second rule that has the same packet traced begins nothing.
            if packet is not None and not packet.steps and packet.first.chain == event.chain and ends is None:
                return
            if packet is not None:
                yield packet
            self._open[event.packet] = Packet(
                first=step,
                began=ends,
                became=ends,
                in_interface=event.in_interface,
                out_interface=event.out_interface,
                left_by=event.out_interface,
                at=now,
            )
            return
        if packet is None:
            return  # one that somebody else has traced, or whose beginning was lost
        packet.at = now
        if ends is not None:
            packet.began, packet.became = packet.began or ends, ends
        packet.in_interface = packet.in_interface or event.in_interface
        packet.out_interface = packet.out_interface or event.out_interface
        packet.left_by = event.out_interface or packet.left_by
        packet.steps.append(step)
        fate = self._fate(event)
        if fate is not None or len(packet.steps) >= MOST_STEPS:
            packet.fate = fate or packet.fate
            del self._open[event.packet]
            yield packet

    def _fate(self, event: Event) -> Fate | None:
        if event.verdict == Code.DROP:
            return Fate.DROPPED
        if event.verdict > 0 and event.verdict & _QUEUED in (Code.STOLEN, Code.QUEUE):
            return Fate.TAKEN
        last = event.type is Type.POLICY and event.table == self.last_table and event.chain.endswith("-last")
        return Fate.ACCEPTED if last else None


def _step(event: Event) -> Step:
    return Step(
        table=TableName(family=event.family, name=event.table),
        chain=event.chain,
        handle=event.handle,
        verdict=event.verdict,
        target=event.target,
        policy=event.type is Type.POLICY,
        mark=event.mark,
    )
