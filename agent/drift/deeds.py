"""Deeds: who did what to the tables, rules and routes of one namespace since the last pass, by its notifications."""

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from agent.drift import Culprit
from agent.errors import KernelError
from agent.kernel import notifications
from agent.kernel.netns import Identity
from agent.kernel.notifications import Change, Commit, Routed
from agent.kernel.tablequery import TableName
from agent.words import printable

MOST = 64
"""Deeds that are remembered between two passes; of a storm the first are enough."""

LINK = "an interface changed"
_MOST_OPEN = 16  # tables of one transaction
_NOBODY = 0  # the port of what the kernel does by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """What one process did to one table in one transaction, or one netlink port to a rule, a route or an interface.

    `table` is None for the latter, whose `what` is in words. `gone`: the table went. `hooked`: chains came that the
    kernel calls. `helper` names an object that assigns a helper. `port` is the netlink socket's, 0 for the kernel;
    `at` in Unix seconds; `number` counts what was heard.
    """

    number: int
    at: float
    port: int
    culprit: Culprit | None = None
    table: TableName | None = None
    gone: bool = False
    hooked: bool = False
    helper: str = ""
    what: str = ""
    route_table: int = 0


class Deeds:
    """What was heard of one namespace. To be used in one thread; it is bounded, whatever is heard."""

    __slots__ = ("_last_ours", "_number", "_open", "found", "lost", "since")

    def __init__(self) -> None:
        self.found: list[Deed] = []
        self.lost = False  # whether something was told that nobody has read
        self.since = time.monotonic()  # when the first was heard
        self._open: dict[TableName, Deed] = {}
        self._number = self._last_ours = 0

    def hear_tables(self, told: bytes, *, ours: int) -> None:
        """Take a datagram of nf_tables. What the socket with port `ours` has done is no deed."""
        self._number += 1
        if notifications.port_of(told) == ours:
            self._last_ours = self._number
        elif len(self.found) < MOST:
            try:
                for each in notifications.of_tables(told):
                    if isinstance(each, Commit):
                        self._commit(each)
                    else:
                        self._change(each)
            except KernelError:
                self.lost = True

    def hear_routing(self, told: bytes, *, whose: Callable[[int], Culprit | None]) -> None:
        """Take a datagram of rtnetlink; `whose` finds the process of a port, if it can be found."""
        self._number += 1
        if len(self.found) >= MOST:
            return
        try:
            for each in notifications.of_routing(told):
                culprit = whose(each.port) if each.port != _NOBODY and each.what != "link" else None
                if culprit is None or culprit.pid != os.getpid():
                    self.found.append(self._routed(each, culprit))
        except KernelError:
            self.lost = True

    def lose(self) -> None:
        """Take it that something was told, and lost for want of room."""
        self._number += 1
        self.lost = True

    @property
    def mark(self) -> int:
        """How much was heard by now."""
        return self._number

    def end_pass(self, began: int, *, wrote: bool) -> bool:
        """Forget what a pass that began at a mark has seen to; tell whether anything is left, for the next one.

        What came while it went on may be later than its look, and stays; unless it was before the pass's own write.
        """
        done = max(began, self._last_ours) if wrote else began
        self.found = [each for each in self.found if each.number > (done if each.table is not None else began)]
        self.lost, self.since = False, time.monotonic()
        return bool(self.found or self._open)

    def _change(self, told: Change) -> None:
        before = self._open.get(told.table)
        if before is None:
            if len(self._open) >= _MOST_OPEN:
                return
            before = Deed(number=self._number, at=time.time(), port=told.port, table=told.table)
        self._open[told.table] = replace(
            before,
            gone=not told.added if told.what == "table" else before.gone,
            hooked=before.hooked or (told.added and told.hooked),
            helper=printable(told.name) if told.added and told.helper else before.helper,
        )

    def _commit(self, told: Commit) -> None:
        if self._open:
            culprit = culprit_of(told.process, told.name)
            for each in self._open.values():
                self.found.append(replace(each, number=self._number, culprit=culprit))
            self._open.clear()

    def _routed(self, told: Routed, culprit: Culprit | None) -> Deed:
        came = "came" if told.added else "went"
        return Deed(
            number=self._number,
            at=time.time(),
            port=told.port,
            culprit=culprit,
            what=LINK if told.what == "link" else f"a {told.what} {came}",
            route_table=told.table,
        )


def culprit_of(task: int, name: str) -> Culprit:
    """Return the process of a thread that the kernel has named; by the thread's number where it has ended."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        with open(f"/proc/{task}/comm", "rb") as comm:
            same = comm.read().rstrip(b"\n").decode(errors="backslashreplace") == name
        if same:  # else the number is another process's by now, or counts in another tree of processes
            with open(f"/proc/{task}/status", "rb") as status:
                task = int(next(line for line in status if line.startswith(b"Tgid:")).split()[1])
    return Culprit(pid=task, name=printable(name))


def by_port(port: int, namespace: Identity) -> Culprit | None:
    """Return the process whose first netlink socket has a port: its own number, if it is there, in that namespace."""
    with contextlib.suppress(OSError):
        with open(f"/proc/{port}/comm", "rb") as comm:
            name = comm.read().removesuffix(b"\n").decode(errors="backslashreplace")
        if _is_in(port, namespace):
            return Culprit(pid=port, name=printable(name))
    return None


def _is_in(process: int, namespace: Identity) -> bool:
    try:
        found = os.stat(f"/proc/{process}/ns/net")
    except FileNotFoundError:  # it has just ended, and nobody has asked how: it is in no namespace any more
        return True
    return (found.st_dev, found.st_ino) == (namespace.device, namespace.inode)


def first_of(deeds: Iterable[Deed]) -> Deed | None:
    """Return the earliest of some deeds whose culprit is known, else the earliest; None of none."""
    known = sorted(deeds, key=lambda each: (each.culprit is None, each.number))
    return known[0] if known else None
