"""Brackets around priorities of hooks: two programs each, in both families, as long as this process wants and lives."""

import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

from agent.errors import KernelError
from agent.kernel.bpf import call
from agent.kernel.bpf.programs import BUCKETS, KEY, NOTE, VALUE, Maps, entering, leaving
from agent.kernel.closing import Closing

_FAMILIES = (2, 10)  # NFPROTO_IPV4, NFPROTO_IPV6: a link is of one
_NOTES = 16384  # packets that are on their way at once, or were dropped in between: 1.5 MB
_STEPS = 64  # priorities that are tried where others stand
_UNDER_WAY = 0.01  # seconds that packets between two programs are given to come out
_MOST = 16  # brackets of a namespace at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A bracket to be set: the number of a hook (NF_INET_...) and the priority that it is to stand around.

    An `empty` one stands around nothing, at the first two neighbouring priorities from there down that nobody has.
    """

    hook: int
    priority: int
    empty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a bracket has counted.

    `entered` packets came, of which `packets` got to the end, in `nanoseconds` together; `times` is how many of them
    are in each bucket (`programs.least`). `unnoted` are those of which no note could be kept, for want of room.
    """

    entered: int
    unnoted: int
    packets: int
    nanoseconds: int
    times: tuple[int, ...]


class Brackets(Closing):
    """Brackets in the namespace of the thread that makes them, until `close`, or until this process ends in any way.

    They count from `start` to `stop`. `spans` are the priorities at which their programs stand, in the order in which
    they were wanted. What stands between is measured, whosever it is.
    """

    def __init__(self, wanted: Sequence[Wanted]) -> None:
        """Set them. Raises `FeatureMissing`, `PermissionMissing`, `KernelError`; then none is set."""
        if len(wanted) > _MOST:
            raise KernelError(statement="bpf(BPF_LINK_CREATE)", said=f"{len(wanted)} brackets are more than {_MOST}")
        self._held: list[int] = []
        self._links: list[int] = []
        self._count = len(wanted)
        try:
            self._maps = self._made()
            self.spans = tuple(self._set(number, each) for number, each in enumerate(wanted))
        except BaseException:
            self.close()
            raise

    def _made(self) -> Maps:
        gate = call.new_map(call.BPF_MAP_TYPE_ARRAY, key=4, value=8, entries=1, name="weir_gate")
        self._held.append(gate)
        notes = call.new_map(call.BPF_MAP_TYPE_HASH, key=KEY, value=NOTE, entries=_NOTES, name="weir_notes")
        self._held.append(notes)
        figures = call.new_map(
            call.BPF_MAP_TYPE_PERCPU_ARRAY, key=4, value=VALUE, entries=max(1, self._count), name="weir_figures"
        )
        self._held.append(figures)
        return Maps(gate=gate, notes=notes, figures=figures)

    def _set(self, number: int, wanted: Wanted) -> tuple[int, int]:
        first = call.program(entering(number, self._maps), "weir_first")
        self._held.append(first)
        last = call.program(leaving(number, self._maps), "weir_last")
        self._held.append(last)
        if wanted.empty:
            return self._set_empty(wanted, first, last)
        end = self._stand(last, wanted, range(wanted.priority + 1, wanted.priority + 1 + _STEPS))
        begin = self._stand(first, wanted, range(wanted.priority - 1, wanted.priority - 1 - _STEPS, -1))
        return begin, end

    def _set_empty(self, wanted: Wanted, first: int, last: int) -> tuple[int, int]:
        for begin in range(wanted.priority, wanted.priority - _STEPS, -1):
            behind = _links(last, wanted.hook, begin + 1)
            if behind is None:
                continue
            self._links += behind
            before = _links(first, wanted.hook, begin)
            if before is not None:
                self._links += before
                return begin, begin + 1
            for _ in behind:
                os.close(self._links.pop())
        raise _crowded(wanted)

    def _stand(self, program: int, wanted: Wanted, priorities: range) -> int:
        for priority in priorities:
            links = _links(program, wanted.hook, priority)
            if links is not None:
                self._links += links
                return priority
        raise _crowded(wanted)

    def start(self) -> None:
        """Have every packet measured that comes from this moment on."""
        call.set_value(self._maps.gate, 0, 1)

    def stop(self) -> None:
        """Measure no packet that comes later, and take the programs away: 10 ms. Twice is once."""
        if self._links:
            call.set_value(self._maps.gate, 0, 0)
            time.sleep(_UNDER_WAY)
        self._take_away()

    def figures(self) -> tuple[Figures, ...]:
        """Return what each bracket has counted until now, in the order in which they were wanted."""
        return tuple(self._read(number) for number in range(self._count))

    def _read(self, number: int) -> Figures:
        each = [struct.unpack(f"={VALUE // 8}Q", value) for value in call.values(self._maps.figures, number, VALUE)]
        entered, unnoted, packets, nanoseconds, *times = (sum(column) for column in zip(*each, strict=True))
        return Figures(
            entered=entered, unnoted=unnoted, packets=packets, nanoseconds=nanoseconds, times=tuple(times[:BUCKETS])
        )

    def _take_away(self) -> None:
        while self._links:
            os.close(self._links.pop())

    def close(self) -> None:
        """Take everything away. Twice is once."""
        self._take_away()
        while self._held:
            os.close(self._held.pop())


def _links(program: int, hook: int, priority: int) -> list[int] | None:
    """Return the program's links at a priority, one for each family; None where something stands there in either."""
    found: list[int] = []
    try:
        for family in _FAMILIES:
            made = call.link(program, family=family, hook=hook, priority=priority)
            if made is None:
                break
            found.append(made)
    finally:
        if len(found) < len(_FAMILIES):
            for each in found:
                os.close(each)
    return found if len(found) == len(_FAMILIES) else None


def _crowded(wanted: Wanted) -> KernelError:
    return KernelError(
        statement=f"bpf(BPF_LINK_CREATE, hook {wanted.hook}, priority {wanted.priority})",
        said=f"something stands at each of the {_STEPS} priorities beside it, so no program can",
    )
