"""`NodeTable`: the node's table in the kernel, element by element. For worker threads, which wait for the kernel.

A table that an earlier agent left is taken over with all that is in it, in the very transaction that changes it. From
then on a pod is some elements that come or go. Where somebody else has changed the table meanwhile, as a kernel without
owned tables lets everybody, the whole of it is written anew, in one transaction too: no probe finds it empty.
"""

import socket
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from agent.drift import Culprit
from agent.drift.deeds import culprit_of
from agent.errors import KernelError, PermissionMissing, TableHeld, TargetError
from agent.kernel import notifications
from agent.kernel.handle import Handle
from agent.kernel.netns import Netns
from agent.kernel.subscription import subscribed_to_rules
from agent.targets import HOST
from rulesets import host
from rulesets.diff import Plan, diff
from rulesets.host import HOST_TABLE, NAT_POST, Probes
from rulesets.model import Element, ElementValue, Ruleset
from rulesets.netlink import OWNED
from rulesets.vocabulary import Address

# One element of one of the table's sets: the set's name, and the value.
Place = tuple[str, ElementValue]

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port id
_NAME = HOST_TABLE.encode() + b"\0"


class NodeTable:
    """The table as it was last written, and the handle by which it is. Any thread may use it: it locks."""

    def __init__(self, *, flags: tuple[str, ...] | None, sources: tuple[Address, ...], netns: str = HOST) -> None:
        """`flags` are those of the table (`Handle`), `sources` what probes leave with. Nothing happens yet."""
        self.owned = flags == OWNED
        self._flags = flags
        self._netns = Netns(netns)
        self._empty = host.build(Probes(sources=sources))
        self._lock = threading.Lock()
        self._handle: Handle | None = None
        self._elements: dict[Place, str] | None = None  # as written, each with its owner; None before that
        self._changes: socket.socket | None = None
        self._suspect = 0  # the port of who changed the table, until the kernel tells whose it is
        self.culprit: Culprit | None = None  # of the newest change by others

    def change(self, wishes: Mapping[Place, str | None]) -> None:
        """Have each of these elements be a pod's, by its uid, or nobody's (None), and leave all others as they are.

        When it returns the kernel has acknowledged it. Raises as `Handle` does, and `TargetError` where the table
        captures the node's own traffic.
        """
        with self._lock:
            if self._elements is None:
                self._write_whole(lambda found: _after(found, wishes))
                return
            differ = {place: uid for place, uid in wishes.items() if self._elements.get(place) != uid}
            try:
                self._write_elements(self._elements, differ)
            except (PermissionMissing, TableHeld):
                raise
            except KernelError:  # the table is not as it was written, or the answer was lost
                wanted = _after(self._elements, differ)
                self._write_whole(lambda _: wanted)
                return
            # In place: a copy of a thousand elements would take as long as the kernel does.
            for place, uid in differ.items():
                if uid is None:
                    del self._elements[place]
                else:
                    self._elements[place] = uid

    def fill(self, wanted: Mapping[Place, str]) -> None:
        """Have just these elements, in one transaction, whatever is there. Raises as `change` does."""
        with self._lock:
            self._write_whole(lambda _: wanted)

    def mend(self) -> str:
        """Read the table, and have it as it was written; return what was amiss, empty if nothing. Raises as `change`.

        Nothing is done before the first change.
        """
        with self._lock:
            written = self._elements
            return "" if written is None else self._write_whole(lambda _: written).describe()

    def remove(self) -> None:
        """Delete the table, whoever's elements there are. One that captures the node's own traffic is not ours."""
        with self._lock:
            handle = self._opened()
            actual = handle.read(HOST_TABLE)
            if actual is not None and not _captures(actual):
                handle.apply(diff(actual, None))
            self._elements = None

    def close(self) -> None:
        """Let go of the table, which stays as it is. Twice is once."""
        with self._lock:
            if self._changes is not None:
                self._changes.close()
            if self._handle is not None:
                self._handle.close()
            self._handle = self._changes = self._elements = None

    @property
    def changes(self) -> socket.socket | None:
        """A socket that tells what changes in the node's tables; None where nobody else can change this one."""
        return self._changes

    def touched_by_others(self, told: bytes) -> bool:
        """Tell whether a datagram of `changes` is about this table, and not of our own doing.

        Looked for as bytes: on a node others change their tables all the time, by thousands of elements.
        """
        if self._handle is None:
            return False
        if _NAME not in told:
            if self._suspect and notifications.port_of(told) == self._suspect:
                self._note_culprit(told)
            return False
        ours, at = self._handle.port, 0
        while at + _HEADER.size <= len(told):
            length, _, _, _, port = _HEADER.unpack_from(told, at)
            if port != ours and _NAME in told[at : at + length]:
                self._suspect = port
                return True
            at += max(_HEADER.size, length + 3 & ~3)
        return False

    def _note_culprit(self, told: bytes) -> None:
        """Take the process from the message that ends a transaction, where it is one."""
        with suppress(KernelError):
            for each in notifications.of_tables(told):
                if isinstance(each, notifications.Commit):
                    self.culprit, self._suspect = culprit_of(each.process, each.name), 0

    def _opened(self) -> Handle:
        if self._handle is None:
            handle = Handle(self._netns, flags=self._flags)
            try:
                if not self.owned:
                    with handle.inside():
                        self._changes = subscribed_to_rules()
            except BaseException:
                handle.close()
                raise
            self._handle = handle
        return self._handle

    def _write_elements(self, before: Mapping[Place, str], differ: Mapping[Place, str | None]) -> None:
        if differ:
            self._opened().change_elements(
                HOST_TABLE,
                taken=host.sets_of(_element(place, "") for place in differ if place in before),
                added=host.sets_of(_element(place, uid) for place, uid in differ.items() if uid is not None),
            )

    def _write_whole(self, choose: Callable[[Mapping[Place, str]], Mapping[Place, str]]) -> Plan:
        """Have what is chosen of what is found, in one transaction; return what was changed."""
        handle = self._opened()
        actual = handle.read(HOST_TABLE)
        if actual is not None and _captures(actual):
            raise TargetError(
                f"netns = {self._netns.text!r}: table inet {HOST_TABLE} captures the node's own traffic, so that there"
                " is no room for the probes of its pods",
                hint="release the node first: `weir remove --netns host`",
            )
        wanted = dict(choose(_elements_in(actual)))
        desired = replace(self._empty, sets=host.sets_of(_element(place, uid) for place, uid in wanted.items()))
        plan = diff(actual, desired)
        if plan:
            handle.apply(plan)
        else:
            handle.hold(desired)
        self._elements = wanted
        return plan


def _after(before: Mapping[Place, str], wishes: Mapping[Place, str | None]) -> dict[Place, str]:
    both: dict[Place, str | None] = {**before, **wishes}
    return {place: uid for place, uid in both.items() if uid is not None}


def _element(place: Place, owner: str) -> tuple[str, Element]:
    name, value = place
    return name, Element(value=value, comment=owner)


def _elements_in(found: Ruleset | None) -> dict[Place, str]:
    sets = () if found is None else found.sets
    ours = {each.name: each.key for each in host.sets_of(())}
    return {
        (each.name, element.value): element.comment
        for each in sets
        if ours.get(each.name) == each.key and not each.interval
        for element in each.elements
    }


def _captures(found: Ruleset) -> bool:
    """Tell whether it is the table of a node that is captured itself, as `weir apply` makes it, without probe sets."""
    no_probes = not any(found.find_set(each.name) for each in host.sets_of(()))
    return no_probes and any(each.name != NAT_POST.name for each in found.chains)
