"""`Keeper`: all targets of the daemon. The newest wish wins, be it the file's or a command's over the local socket."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from agent.daemon import pace, passes
from agent.daemon.pace import Rhythm
from agent.daemon.refusing import decided_elsewhere, leaving
from agent.daemon.removed import Removed
from agent.daemon.slot import Slot
from agent.daemon.threads import Threads
from agent.daemon.watching import Told
from agent.drift import Drift
from agent.errors import DaemonError
from agent.kernel.netns import Identity, Netns, identify
from agent.state import Record, Records
from agent.targets import Absent, Outcome, State, Target
from rulesets.model import Counter

log = logging.getLogger("weir")
_TOLD_CHECKS = 10  # of the runtime one hears when a pod's namespace ends, so that this often it is looked up


class Keeper:
    """The targets, each namespace in a slot of its own with a task of its own. To be used in the loop's thread."""

    def __init__(
        self,
        *,
        threads: Threads,
        flags: tuple[str, ...] | None,
        records: Records,
        rhythm: Rhythm,
        drain: float,
        observe: Callable[[Outcome], None],
        observe_read_back: Callable[[Outcome], None],
        ended: Callable[[str], None] = lambda _name: None,
        told: Told | None = None,
    ) -> None:
        """`drain` is in seconds, for targets that leave the file.

        `observe` is called with the outcome of each pass, `observe_read_back` when what it wrote was read back, `ended`
        with the name of a target that is kept no more. `flags` are those of the tables (`Handle`). `told` hears of
        drift.
        """
        self._records = records
        self._drain = drain
        self._observe = observe
        self._observe_read_back = observe_read_back
        self._name_ended = ended
        self._slots: dict[str, Slot] = {}  # by the namespace, as written
        holders: dict[Identity, Slot] = {}
        self._slot = partial(
            Slot, threads=threads, flags=flags, records=records, rhythm=rhythm, holders=holders, told=told
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._wanted: dict[str, Target] = {}
        self._removed = Removed(records.directory / "removed.json")
        self._passed = asyncio.Condition()
        self._announcements: set[asyncio.Task[None]] = set()
        self._begun = self._closed = False
        self._checks = 0

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """The newest outcome of each target, in the targets' order; a target not looked at yet is WAITING."""
        return tuple(_outcome(slot) for slot in self._slots.values())

    @property
    def counted(self) -> tuple[tuple[Outcome, tuple[Counter, ...]], ...]:
        """The newest outcome of each target with the counters of its rules, as they were last read."""
        return tuple((_outcome(slot), slot.counters) for slot in self._slots.values())

    def drifts(self, name: str) -> tuple[Drift, ...]:
        """Return the newest drifts of a target by its name, the last of them last; none where it isn't known."""
        return next((slot.drifts for slot in self._slots.values() if slot.target.name == name), ())

    @property
    def drifted(self) -> tuple[tuple[Outcome, tuple[Drift, ...]], ...]:
        """The newest outcome of each target with its newest drifts."""
        return tuple((_outcome(slot), slot.drifts) for slot in self._slots.values())

    @property
    def slots(self) -> tuple[Slot, ...]:
        """What keeps each target, in the targets' order."""
        return tuple(self._slots.values())

    @property
    def settled(self) -> bool:
        """Whether each target has been looked at once."""
        return self._begun and all(slot.outcome is not None for slot in self._slots.values())

    def name_of(self, identity: str) -> str:
        """Return the name of the target that means this namespace, or an empty text."""
        return next((slot.target.name for slot in self._slots.values() if slot.holds(identity)), "")

    def take(self, targets: Iterable[Target]) -> None:
        """Want these targets and no others. One that was wanted before and isn't now is released, and may drain."""
        wanted = {target.name: target for target in targets}
        self._removed.keep_only(wanted)
        self._wanted = wanted
        self._begun = True
        before, self._slots = self._slots, {}
        for name, target in self._wanted.items():
            drain = self._removed.get(name)
            newest = target if drain is None else replace(target, wish=Absent(drain=drain))
            known = before.pop(target.netns, None)
            if known is None or known.retired:
                self._start(newest)
            else:
                self._slots[target.netns] = known
                known.want(newest)
        meant = self._meant()
        for netns, slot in before.items():
            if identify(Netns(netns).file) in meant:
                slot.retire()  # a target of the file means the same namespace by another name
            else:
                self._slots[netns] = slot
                wish = slot.target.wish if isinstance(slot.target.wish, Absent) else Absent(drain=self._drain)
                if not slot.leaving or slot.target.name in self._wanted:
                    slot.want(Target(name=self._unused(slot.target), netns=netns, wish=wish), leaving=True)

    def put(self, target: Target, *, leaving: bool = False) -> None:
        """Want a target that is in no file, in the place of another wish for its namespace; a pass begins at once.

        One that is `leaving` is kept no longer when nothing is left in its namespace.
        """
        slot = self._slots.get(target.netns)
        if slot is None or slot.retired:
            slot = self._start(target)
            slot.leaving = leaving
        else:
            slot.want(target, leaving=leaving)
        slot.told = True

    def retire(self, netns: str) -> None:
        """Keep a namespace no longer that is about to end: nothing in it is changed, and nothing of it remembered."""
        slot = self._slots.pop(netns, None)
        if slot is not None:
            slot.forgets = True
            slot.retire()

    def remembers(self, identity: Identity, cookie: int) -> bool:
        """Tell whether rules were put into a namespace, by what is remembered over a restart."""
        return self._records.read(identity, cookie) is not None

    def resume(self, spared: Callable[[Record], bool] = lambda _record: False) -> None:
        """Take up what an earlier daemon or command left half-done, or keeps and nobody wants any more.

        Not what is `spared`: somebody else takes it up.
        """
        meant = self._meant()
        for record in self._records.all():
            if spared(record):
                continue
            if record.netns in self._slots or identify(Netns(record.netns).file) in meant:
                continue
            if record.drain_until is not None or record.by_daemon:
                drain = self._drain if record.drain is None else record.drain
                target = Target(name=record.name, netns=record.netns, wish=Absent(drain=drain))
                self._start(replace(target, name=self._unused(target))).leaving = True

    def refused(self, names: Iterable[str]) -> tuple[Outcome, ...]:
        """Return why a command can't change these targets: those that were `put`, for somebody else decides."""
        return tuple(decided_elsewhere(slot) for slot in self._known(names).values() if slot.told)

    def apply(self, names: Iterable[str]) -> tuple[Outcome, ...]:
        """Want the targets of the file again that `remove` took away; return why for those that can't be wanted.

        Names that are not known are passed over.
        """
        refused = []
        for name, slot in self._known(names).items():
            if name in self._wanted:
                self._removed.drop(name)
                slot.want(self._wanted[name])
            else:
                refused.append(leaving(slot))
        return tuple(refused)

    def remove(self, names: Iterable[str], drain: float) -> None:
        """Want nothing in these targets until `apply`, also after a restart; those that leave do so with this drain.

        Names that are not known are passed over.
        """
        for name, slot in self._known(names).items():
            leaves = name not in self._wanted
            if not leaves:
                self._removed.put(name, drain)
            target = slot.target if leaves else self._wanted[name]
            slot.want(replace(target, wish=Absent(drain=drain)), leaving=leaves)

    def wake(self, netns: str | None) -> None:
        """Look at the target with this namespace name soon; None is all of them."""
        for slot in self._slots.values():
            if netns is None or slot.target.netns == netns:
                slot.wake()

    def check_identities(self) -> None:
        """Look at every target soon whose name means another namespace by now; of many at some, each time others."""
        self._checks += 1
        crowd = max(1, len(self._slots) // pace.CROWD)
        for number, slot in enumerate(self._slots.values()):
            if (number + self._checks) % (_TOLD_CHECKS if slot.told else crowd) == 0:
                slot.check_identity()

    async def until(self, names: Iterable[str], holds: Callable[[Outcome], bool]) -> tuple[Outcome, ...]:
        """Wait until a pass that began after this call holds for each target; return those outcomes.

        Names that are not known are passed over. Raises `DaemonError` when the daemon stops before.
        """
        waiting = [(slot, slot.asked) for slot in self._known(names).values()]

        def all_hold() -> bool:
            return self._closed or all(
                slot.retired or (slot.answered >= asked and slot.outcome is not None and holds(slot.outcome))
                for slot, asked in waiting
            )

        async with self._passed:
            await self._passed.wait_for(all_hold)
        if self._closed:
            raise DaemonError("the daemon is stopping", hint="the next one takes up what it left half-done")
        return tuple(_outcome(slot) for slot, _ in waiting)

    async def until_settled(self) -> None:
        """Wait until each target has been looked at once."""
        async with self._passed:
            await self._passed.wait_for(lambda: self.settled or self._closed)

    async def close(self) -> None:
        """Stop keeping. Nothing in any namespace is changed."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._announce()

    def _known(self, names: Iterable[str]) -> dict[str, Slot]:
        """Return the slots that have these names: of targets of the file, or of such that leave."""
        by_name = {slot.target.name: slot for slot in self._slots.values()}
        return {name: by_name[name] for name in names if name in by_name}

    def _meant(self) -> set[Identity]:
        """Return the namespaces that the file's targets mean at this moment."""
        found = (identify(Netns(target.netns).file) for target in self._wanted.values())
        return {identity for identity in found if identity is not None}

    def _unused(self, target: Target) -> str:
        """Return the name of a target that leaves; with its namespace where the name means another one by now."""
        return f"{target.name} ({target.netns})" if target.name in self._wanted else target.name

    def _start(self, target: Target) -> Slot:
        slot = self._slot(target, done=self._after_pass, read_back=self._after_read_back)
        self._slots[target.netns] = slot
        task = asyncio.get_running_loop().create_task(slot.run(), name=f"target {target.name}", context=passes.apart())
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, slot))
        return slot

    def _ended(self, slot: Slot, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if self._slots.get(slot.target.netns) is slot:
            del self._slots[slot.target.netns]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("%s is kept no longer", task.get_name(), exc_info=error)
        if not self._known([slot.target.name]):
            self._name_ended(slot.target.name)
            passes.forget(slot.target.name)
        if not self._closed:
            self._tell()

    def _after_pass(self, slot: Slot) -> None:
        passes.report(_outcome(slot), self._observe)
        self._tell()

    def _after_read_back(self, slot: Slot) -> None:
        passes.report(_outcome(slot), self._observe_read_back)
        self._tell()

    def _tell(self) -> None:
        announcement = asyncio.get_running_loop().create_task(self._announce())
        self._announcements.add(announcement)
        announcement.add_done_callback(self._announcements.discard)

    async def _announce(self) -> None:
        async with self._passed:
            self._passed.notify_all()


def _outcome(slot: Slot) -> Outcome:
    return slot.outcome or Outcome(target=slot.target, state=State.WAITING, reason="not looked at yet")
