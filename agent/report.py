"""What a user is told of a target, as one value: the same from a command, from the daemon, as text and as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from agent.errors import WeirError
from agent.targets import Outcome, Rival, State, Target, TargetPlan

if TYPE_CHECKING:  # what it takes to look into a kernel is not needed to say what was seen
    from agent.inspection import Inspection
    from agent.streams import Stream
    from rulesets.model import Counter


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One target. `changes` are lines as a diff writes them; `seconds` is what it took.

    `kept` lists the streams that stay outside and `draining` those that a release waits for, where they were looked at;
    the counts are always given. `checks` are name, result and words; `counters` are rule, packets and bytes. `rivals`
    are rules of others that take captured traffic, or may; `owner` is whose the table is, where it is neither nobody's
    nor the daemon's.
    """

    target: str
    netns: str
    state: State
    reason: str
    hint: str = ""
    captured: bool = False
    changes: tuple[str, ...] = ()
    seconds: float = 0.0
    kept: tuple[str, ...] = ()
    kept_count: int = 0
    draining: tuple[str, ...] = ()
    captured_count: int = 0
    checks: tuple[tuple[str, bool, str], ...] = ()
    counters: tuple[tuple[str, int, int], ...] = ()
    rivals: tuple[Rival, ...] = ()
    owner: str = ""

    def document(self) -> dict[str, object]:
        """Return the report as JSON can hold it."""
        checks = [{"check": name, "holds": holds, "said": said} for name, holds, said in self.checks]
        counters = [{"rule": name, "packets": packets, "bytes": size} for name, packets, size in self.counters]
        rivals = [{"certain": each.certain, **asdict(each)} for each in self.rivals]
        return {**asdict(self), "state": str(self.state), "checks": checks, "counters": counters, "rivals": rivals}


def changes(plan: TargetPlan | None) -> tuple[str, ...]:
    """Return what a plan would change, line by line."""
    return tuple(plan.describe().splitlines()) if plan else ()


def of_outcome(outcome: Outcome) -> Report:
    """Return the report of a reconcile."""
    return Report(
        target=outcome.target.name,
        netns=outcome.target.netns,
        state=outcome.state,
        reason=outcome.reason,
        hint=outcome.hint,
        captured=outcome.captured,
        changes=changes(outcome.plan),
        seconds=outcome.seconds,
        kept_count=outcome.kept,
        captured_count=outcome.draining,
        rivals=outcome.rivals,
    )


def of_error(target: Target, error: WeirError) -> Report:
    """Return the report of a target that couldn't be looked at."""
    return Report(target=target.name, netns=target.netns, state=State.FAILED, reason=str(error), hint=error.hint)


def of_inspection(inspection: "Inspection") -> Report:
    """Return the report of a look at a target."""
    return Report(
        target=inspection.target.name,
        netns=inspection.target.netns,
        state=inspection.state,
        reason=inspection.reason,
        captured=inspection.captured_as_wanted,
        changes=changes(inspection.plan),
        kept=_lines(inspection.kept),
        kept_count=len(inspection.kept),
        draining=_lines(inspection.captured) if inspection.state is State.DRAINING else (),
        captured_count=len(inspection.captured),
        checks=tuple((each.name, each.holds, each.said) for each in inspection.checks),
        counters=_counted(inspection.counters),
        rivals=inspection.rivals,
        owner=inspection.owner,
    )


def parse(document: Mapping[str, object]) -> Report:
    """Return the report that a daemon sent. Raises `ValueError`, `KeyError` or `TypeError` for anything else."""

    def text(name: str) -> str:
        value = document[name]
        if not isinstance(value, str):
            raise TypeError(f"{name} is no text")
        return value

    def number(name: str) -> float:
        value = document[name]
        if not isinstance(value, int | float):
            raise TypeError(f"{name} is no number")
        return value

    lines = document["changes"]
    if not isinstance(lines, list):
        raise TypeError("changes are no list")
    return Report(
        target=text("target"),
        netns=text("netns"),
        state=State(text("state")),
        reason=text("reason"),
        hint=text("hint"),
        captured=document["captured"] is True,
        changes=tuple(map(str, lines)),
        seconds=float(number("seconds")),
        kept_count=int(number("kept_count")),
        captured_count=int(number("captured_count")),
    )


def _lines(streams: "tuple[Stream, ...]") -> tuple[str, ...]:
    """Return streams as lines, IPv4 first and by client, so that two looks can be compared."""

    def order(each: "Stream") -> tuple[int, ...]:
        ends = (each.source, each.destination)
        return (each.source.version, *map(int, ends), each.source_port, each.destination_port)

    return tuple(str(each) for each in sorted(streams, key=order))


def _counted(counters: "tuple[Counter, ...]") -> tuple[tuple[str, int, int], ...]:
    return tuple((each.name, each.packets, each.bytes) for each in counters if each.packets)
