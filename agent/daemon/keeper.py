"""`Keeper`: all targets of the daemon. The newest wish wins, be it the file's or a command's over the local socket."""

import asyncio
import json
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

from agent.daemon.slot import Slot
from agent.errors import TargetError
from agent.state import Records, write_whole
from agent.targets import Absent, Outcome, State, Target


class Keeper:
    """The targets, each in a slot of its own with a task of its own. To be used in the loop's thread."""

    def __init__(
        self,
        *,
        workers: Executor,
        records: Records,
        resync: float,
        drain: float,
        observe: Callable[[Outcome], None],
    ) -> None:
        """`resync` and `drain` are in seconds: between two looks without cause, and for targets that leave the file.

        `observe` is called with the outcome of each pass.
        """
        self._workers = workers
        self._records = records
        self._resync = resync
        self._drain = drain
        self._observe = observe
        self._slots: dict[str, Slot] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wanted: dict[str, Target] = {}
        self._removed = _Removed(records.directory / "removed.json")
        self._passed = asyncio.Condition()
        self._announcements: set[asyncio.Task[None]] = set()

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """The newest outcome of each target, in the targets' order; a target not looked at yet is WAITING."""
        return tuple(_outcome(slot) for slot in self._slots.values())

    @property
    def settled(self) -> bool:
        """Whether each target has been looked at once."""
        return all(slot.outcome is not None for slot in self._slots.values())

    def name_of(self, identity: str) -> str:
        """Return the name of the target that has this namespace open, or an empty text."""
        return next((name for name, slot in self._slots.items() if slot.identity == identity), "")

    def take(self, targets: Iterable[Target]) -> None:
        """Want these targets and no others. One that was wanted before and isn't now is released, and may drain."""
        self._wanted = {target.name: target for target in targets}
        self._removed.keep_only(self._wanted)
        for name, target in self._wanted.items():
            drain = self._removed.get(name)
            self._want(target if drain is None else replace(target, wish=Absent(drain=drain)))
        for name, slot in self._slots.items():
            if name not in self._wanted and not isinstance(slot.target.wish, Absent):
                slot.want(replace(slot.target, wish=Absent(drain=self._drain)))

    def resume(self) -> None:
        """Take up what an earlier daemon or command left half-done, or keeps and nobody wants any more."""
        taken = {slot.target.netns for slot in self._slots.values()}
        for record in self._records.all():
            if record.netns not in taken and (record.drain_until is not None or record.by_daemon):
                name = record.name if record.name not in self._slots else f"{record.name} ({record.netns})"
                self._want(Target(name=name, netns=record.netns, wish=Absent(drain=self._drain)))

    def apply(self, names: Iterable[str]) -> None:
        """Want the targets of the file again that `remove` took away."""
        for name in self._known(names):
            self._removed.drop(name)
            self._slots[name].want(self._wanted[name])

    def remove(self, names: Iterable[str], drain: float) -> None:
        """Want nothing in these targets until `apply`, also after a restart."""
        for name in self._known(names):
            self._removed.put(name, drain)
            self._slots[name].want(replace(self._wanted[name], wish=Absent(drain=drain)))

    def wake(self, netns: str) -> None:
        """Look at the target with this namespace name soon."""
        for slot in self._slots.values():
            if slot.target.netns == netns:
                slot.wake()

    def check_identities(self) -> None:
        """Look at every target soon whose name means another namespace by now."""
        for slot in self._slots.values():
            slot.check_identity()

    async def until(self, names: Iterable[str], holds: Callable[[Outcome], bool]) -> tuple[Outcome, ...]:
        """Wait until a pass for the newest wish of each target holds; return those outcomes."""
        slots = [self._slots[name] for name in self._known(names)]

        def all_hold() -> bool:
            return all(slot.up_to_date and slot.outcome is not None and holds(slot.outcome) for slot in slots)

        async with self._passed:
            await self._passed.wait_for(all_hold)
        return tuple(_outcome(slot) for slot in slots)

    async def close(self) -> None:
        """Stop keeping. Nothing in any namespace is changed."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _known(self, names: Iterable[str]) -> tuple[str, ...]:
        names = tuple(names)
        for name in names:
            if name not in self._wanted:
                raise TargetError(f"target {name!r}: the daemon's file has no such target")
        return names

    def _want(self, target: Target) -> None:
        slot = self._slots.get(target.name)
        if slot is not None:
            slot.want(target)
            return
        slot = Slot(target, workers=self._workers, records=self._records, resync=self._resync, done=self._after_pass)
        self._slots[target.name] = slot
        self._tasks[target.name] = asyncio.get_running_loop().create_task(slot.run(), name=f"target {target.name}")

    def _after_pass(self, slot: Slot) -> None:
        outcome = _outcome(slot)
        self._observe(outcome)
        gone = outcome.state in (State.REMOVED, State.UNCHANGED) and isinstance(outcome.target.wish, Absent)
        name = slot.target.name
        if gone and slot.up_to_date and name not in self._wanted:
            del self._slots[name]
            self._tasks.pop(name).cancel()
        announcement = asyncio.get_running_loop().create_task(self._announce())
        self._announcements.add(announcement)
        announcement.add_done_callback(self._announcements.discard)

    async def _announce(self) -> None:
        async with self._passed:
            self._passed.notify_all()


def _outcome(slot: Slot) -> Outcome:
    return slot.outcome or Outcome(target=slot.target, state=State.WAITING, reason="not looked at yet")


class _Removed:
    """The targets that `remove` took away, with their drain in seconds: kept in a file until `apply`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._drains: dict[str, float] = {str(k): float(v) for k, v in json.loads(path.read_text()).items()}
        except (OSError, ValueError, AttributeError, TypeError):
            self._drains = {}

    def get(self, name: str) -> float | None:
        return self._drains.get(name)

    def put(self, name: str, drain: float) -> None:
        self._drains[name] = drain
        self._write()

    def drop(self, name: str) -> None:
        if self._drains.pop(name, None) is not None:
            self._write()

    def keep_only(self, names: Iterable[str]) -> None:
        for name in self._drains.keys() - set(names):
            self.drop(name)

    def _write(self) -> None:
        write_whole(self._path, json.dumps(self._drains))
