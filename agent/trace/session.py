"""One trace of a namespace, from the table that is written to the summary."""

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from agent.kernel.handle import Handle
from agent.kernel.rawnetlink import NETLINK_NETFILTER, RawNetlink
from agent.kernel.tablequery import TableName
from agent.kernel.tracing.events import Event, Type
from agent.kernel.tracing.listener import Listener
from agent.kernel.tracing.rules import Rules, read_rules, rule_texts
from agent.kernel.tracing.table import TracingTable
from agent.trace.connections import Connection, Gathering, Summary
from agent.trace.filter import Filter, tracing
from agent.trace.following import Follower

_OURS = ("weir-pod", "weir-host")
_LOOK = 0.1  # seconds between looks at the clock and at whether it is to end
_AGAIN = 1.0  # seconds between readings of rules that have changed, and of whether the namespace is still there


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What to trace, and for how long: until `seconds` are over or `count` connections were told of (None: any)."""

    filter: Filter
    seconds: float
    rate: int
    count: int | None = None


def trace(
    handle: Handle,
    asked: Asked,
    *,
    tell: Callable[[Connection], None],
    ready: Callable[[], None],
    stop: threading.Event,
) -> Summary:
    """Trace until it is over, and tell of each connection as it is whole; `ready` is called once tracing has begun.

    Nothing is left behind, however this ends. Raises `FeatureMissing` where tables can't be owned, `NamespaceMissing`
    where the namespace goes away meanwhile, `KernelError`.
    """
    started = time.monotonic()
    with ExitStack() as held:
        with handle.inside():
            listener = held.enter_context(Listener())
            netlink = held.enter_context(
                RawNetlink(NETLINK_NETFILTER, feature="nf_tables over netlink", option="CONFIG_NF_TABLES")
            )
            table = held.enter_context(
                TracingTable(lambda number: tracing(asked.filter, rate=asked.rate, number=number))
            )
        names = _Names(handle=handle, netlink=netlink)
        follower = Follower(begins=_Begins(table.name), last_table=table.name)
        gathering = Gathering(name=names.rule, interface=names.interface, both=asked.filter.way is None)
        summary = gathering.summary
        ready()
        checked = started
        while not stop.is_set() and time.monotonic() - started < asked.seconds and not _enough(summary, asked.count):
            select.select([listener], [], [], _LOOK)
            now = time.monotonic()
            if now - checked > _AGAIN:
                handle.netns.check()
                checked = now
            heard = listener.read()
            summary.lost += heard.lost
            for connection in _whole(follower, gathering, heard.events, now):
                if not _enough(summary, asked.count, before=True):
                    tell(connection)
        summary.seconds = time.monotonic() - started
        table.close()
        if not _enough(summary, asked.count):
            heard = listener.read()
            summary.lost += heard.lost
            for connection in _rest(follower, gathering, heard.events):
                if not _enough(summary, asked.count, before=True):
                    tell(connection)
        return summary


def _whole(follower: Follower, gathering: Gathering, events: tuple[Event, ...], now: float) -> Iterator[Connection]:
    for packet in follower.follow(events, now):
        yield from gathering.add(packet, now)
    yield from gathering.overdue(now)


def _rest(follower: Follower, gathering: Gathering, events: tuple[Event, ...]) -> Iterator[Connection]:
    now = time.monotonic()
    yield from _whole(follower, gathering, events, now)
    for packet in follower.rest():
        yield from gathering.add(packet, now)
    yield from gathering.overdue(float("inf"))


def _enough(summary: Summary, count: int | None, *, before: bool = False) -> bool:
    return count is not None and summary.connections - before >= count


@dataclass(frozen=True, slots=True)
class _Begins:
    """Tells the events of the rules that have packets traced: no other rules stand in their table."""

    table: str

    def __call__(self, event: Event) -> bool:
        return event.table == self.table and event.handle is not None and event.type is Type.RULE


@dataclass(slots=True, kw_only=True)
class _Names:
    """The rules and interfaces of a namespace by name, looked up as they are met."""

    handle: Handle
    netlink: RawNetlink
    _rules: Rules = field(default_factory=Rules)
    _texts: dict[TableName, dict[int, str]] = field(default_factory=dict)
    _read: float = -_AGAIN

    def rule(self, table: TableName, chain: str, handle: int) -> tuple[str, bool]:
        """Return a rule's slug or text (empty where it has gone), and whether it is Weir's."""
        found = self._rules.find(table, chain, handle)
        if found is None and time.monotonic() - self._read >= _AGAIN:
            self._rules, self._read = read_rules(self.netlink), time.monotonic()
            self._texts.clear()
            found = self._rules.find(table, chain, handle)
        if found is not None and found.comment and table.family == "inet" and table.name in _OURS:
            return found.comment, True
        if table not in self._texts:
            with self.handle.inside():
                self._texts[table] = rule_texts(table)
        return self._texts[table].get(handle, ""), False

    def interface(self, number: int) -> str:
        """Return an interface's name, or its number where it has gone."""
        try:
            with self.handle.inside():
                return socket.if_indextoname(number)
        except (OSError, UnicodeError):
            return str(number)
