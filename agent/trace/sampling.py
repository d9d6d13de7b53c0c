"""What the sampled connections of one target tell: how many rules their first packets met, and what decided."""

import time
from collections import Counter as Tally
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from agent.kernel.closing import Closing
from agent.kernel.handle import Handle
from agent.kernel.rawnetlink import NETLINK_NETFILTER, RawNetlink
from agent.kernel.tablequery import TableName
from agent.kernel.tracing.events import Event, Type
from agent.kernel.tracing.listener import Listener
from agent.kernel.tracing.rules import Rules, read_rules
from agent.trace.connections import DROPPED, UNDECIDED
from agent.trace.counting import rules_met
from agent.trace.following import Fate, Follower, Packet
from rulesets.pod import MANGLE_OUT, NAT_OUT, RAW_OUT
from rulesets.pod.sampling import INBOUND, OUTBOUND

_AGAIN = 1.0  # seconds between readings of the rules
_BUFFER = 1 << 20  # a node has many targets, and each samples little


@dataclass(slots=True, kw_only=True)
class Tallied:
    """What a target's samples came to since it is sampled: packets by how many rules they met, and by what decided.

    `lost` counts overflows of the socket, each of an unknown number of events.
    """

    rules: Tally[int] = field(default_factory=Tally)
    paths: Tally[str] = field(default_factory=Tally)
    lost: int = 0


class Sampler(Closing):
    """Hears of a target's sampled packets. It pins the namespace until `close`. Any one thread at a time."""

    def __init__(self, handle: Handle, table: str) -> None:
        """Listen in an open namespace in which Weir's table has this name. Raises `KernelError`, `NamespaceMissing`."""
        self.tallied = Tallied()
        self._table = TableName(family="inet", name=table)
        self._rules = Rules()
        self._read = -_AGAIN
        self._follower = Follower(begins=self._begins)
        with ExitStack() as held, handle.inside():
            self._listener = held.enter_context(Listener(buffer=_BUFFER))
            self._netlink = RawNetlink(NETLINK_NETFILTER, feature="nf_tables over netlink", option="CONFIG_NF_TABLES")
            held.pop_all()

    def fileno(self) -> int:
        """Return the descriptor to wait at."""
        return self._listener.fileno()

    def hear(self) -> None:
        """Take what is there, and what has ended by now; waits for nothing. Raises `KernelError`."""
        heard = self._listener.read()
        self.tallied.lost += heard.lost
        for packet in self._follower.follow(heard.events, time.monotonic()):
            self.tallied.rules[self._before(packet) + rules_met(packet, self._rules)] += 1
            self.tallied.paths[self._path(packet)] += 1

    def _begins(self, event: Event) -> bool:
        if event.handle is None or event.type is not Type.RULE:
            return False
        if (event.family, event.table) != (self._table.family, self._table.name):
            return False
        found = self._rules.find(self._table, event.chain, event.handle)
        if found is None and time.monotonic() - self._read >= _AGAIN:
            self._rules, self._read = read_rules(self._netlink), time.monotonic()
            found = self._rules.find(self._table, event.chain, event.handle)
        return found is not None and found.comment in (OUTBOUND, INBOUND)

    def _before(self, packet: Packet) -> int:
        """Return how many of Weir's rules a packet met before it was traced: all, for none there ends its chain."""
        chains = (RAW_OUT.name, MANGLE_OUT.name) if packet.first.chain == NAT_OUT.name else ()
        return sum(len(self._rules.chains.get((self._table, chain), ())) for chain in chains)

    def _path(self, packet: Packet) -> str:
        slugs = list(self._decided(packet))
        if packet.fate is Fate.DROPPED and packet.steps[-1].table != self._table:
            return DROPPED
        return slugs[-1] if slugs else UNDECIDED

    def _decided(self, packet: Packet) -> Iterator[str]:
        for step in packet.steps:
            if step.table == self._table and step.handle is not None and step.verdict >= 0:
                found = self._rules.find(step.table, step.chain, step.handle)
                if found is not None:
                    yield found.comment

    def close(self) -> None:
        """Let go of the namespace. Twice is once."""
        self._listener.close()
        self._netlink.close()
