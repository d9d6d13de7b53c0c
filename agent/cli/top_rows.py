"""The rows of `weir top`: what two readings of the daemon's figures say of each target."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

from agent.cli.failing import clean

Document = Mapping[str, object]


class Sort(StrEnum):
    """What comes first: the most, or what is worst; of equal ones by name."""

    TARGET = "target"
    STATE = "state"
    CONNECTIONS = "connections"
    DIRECT = "direct"
    NEW = "new"
    PACKETS = "packets"
    INVALID = "invalid"
    DRIFTS = "drifts"
    APPLIES = "applies"
    OUTSIDE = "outside"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One target. Rates are per second, between two readings; None is what isn't known.

    `connections` are entries of connection tracking, `direct` those of them that don't go to the proxy, `invalid`
    packets that it could not place, `outside` streams from before the capture.
    """

    target: str
    netns: str
    state: str
    captured: bool
    connections: int | None
    direct: int | None
    new_per_second: float | None
    packets_per_second: float | None
    invalid: int | None
    drifts: int | None
    applies: int | None
    outside: int

    def document(self) -> dict[str, object]:
        """Return the row as JSON has it."""
        return asdict(self)


def rows(status: Document, before: Document | None) -> tuple[Row, ...]:
    """Return a row for each target, or each pod of a node of Kubernetes, in the daemon's order.

    `before` is an earlier status of the same daemon: without one there are no rates.
    """
    figures, at = _figures(status)
    earlier, since = _figures(before) if before is not None and before.get("pid") == status.get("pid") else ({}, at)
    seconds = at - since
    found = []
    for name, netns, state, captured, outside in _standing(status):
        now, then = figures.get(name, {}), earlier.get(name, {})
        found.append(
            Row(
                target=_plain(name),
                netns=_plain(netns),
                state=state,
                captured=captured,
                connections=_whole(now, "connections"),
                direct=_whole(now, "direct"),
                new_per_second=_rate(now, then, "new", seconds),
                packets_per_second=_rate(now, then, "packets", seconds),
                invalid=_whole(now, "invalid"),
                drifts=_whole(now, "drifts"),
                applies=_whole(now, "applies"),
                outside=outside,
            )
        )
    return tuple(found)


def ordered(found: Iterable[Row], sort: Sort, *, reverse: bool = False) -> list[Row]:
    """Return rows in order; what isn't known comes last, whichever way."""
    by_name = sorted(found, key=lambda row: row.target)
    if sort is Sort.TARGET:
        return by_name[::-1] if reverse else by_name
    known = [row for row in by_name if _key(row, sort) is not None]
    unknown = [row for row in by_name if _key(row, sort) is None]
    return [*sorted(known, key=lambda row: _key(row, sort) or 0, reverse=not reverse), *unknown]


def summary(found: Iterable[Row]) -> str:
    """Return how all stand, in one line."""
    found = tuple(found)
    captured = sum(row.captured for row in found)
    wanted = [row for row in found if row.state not in ("outside", "removed")]
    drifted = sum(bool(row.drifts) for row in found)
    return f"{captured} of {len(wanted)} captured, {len(wanted) - captured} not, {drifted} drifted"


_QUIET = ("outside", "removed", "unchanged", "applied")
_RATES = {Sort.NEW: "new_per_second", Sort.PACKETS: "packets_per_second"}


def figure(row: Row, sort: Sort) -> float | None:
    """Return what a column of numbers has of a row; None where it isn't known."""
    found: float | None = getattr(row, _RATES.get(sort, sort))
    return found


def _key(row: Row, sort: Sort) -> float | None:
    if sort is Sort.STATE:
        return 0.0 if row.captured else 1.0 + (row.state not in _QUIET) + (row.state == "failed")
    return figure(row, sort)


def _standing(status: Document) -> list[tuple[str, str, str, bool, int]]:
    """Return name, namespace, state, whether it is captured, and streams outside, of each target or pod."""
    pods, targets = status.get("pods"), status.get("targets")
    found = []
    if isinstance(pods, list):
        for each in pods:
            captured, report = each.get("captured") is True, each.get("target") or {}
            step = str(each.get("step", ""))
            state = "captured" if captured else "not served" if step == "captured" else step
            found.append((str(each.get("pod", "")), str(each.get("netns", "")), state, captured, _kept(report)))
        return found
    for each in targets if isinstance(targets, list) else ():
        captured = each.get("captured") is True
        state = "captured" if captured else str(each.get("state", ""))
        found.append((str(each.get("target", "")), str(each.get("netns", "")), state, captured, _kept(each)))
    return found


def _kept(report: Document) -> int:
    kept = report.get("kept_count")
    return kept if isinstance(kept, int) else 0


def _figures(status: Document) -> tuple[Mapping[str, Document], float]:
    found = status.get("figures")
    if not isinstance(found, dict) or not isinstance(found.get("targets"), dict):
        return {}, 0.0
    return found["targets"], float(found.get("at", 0.0))


def _whole(figures: Document, name: str) -> int | None:
    found = figures.get(name)
    return found if isinstance(found, int) else None


def _rate(now: Document, then: Document, name: str, seconds: float) -> float | None:
    """Return how fast a count grows; None where it isn't known twice, or has begun anew."""
    newest, before = _whole(now, name), _whole(then, name)
    if newest is None or before is None or seconds <= 0 or newest < before:
        return None
    return (newest - before) / seconds


def _plain(text: str) -> str:
    return clean(text).replace("\n", "\\n")
