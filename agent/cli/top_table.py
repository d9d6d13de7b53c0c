"""How `weir top` looks: the columns that fit, and the rows that are in view."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.cli.top_rows import Row, Sort, figure, ordered, summary

if TYPE_CHECKING:  # rich takes 60 ms to import, and a page of help needs none of it
    from rich.text import Text

KEYS = {
    "t": Sort.TARGET,
    "s": Sort.STATE,
    "c": Sort.CONNECTIONS,
    "d": Sort.DIRECT,
    "n": Sort.NEW,
    "p": Sort.PACKETS,
    "i": Sort.INVALID,
    "f": Sort.DRIFTS,
    "a": Sort.APPLIES,
    "o": Sort.OUTSIDE,
}
# Heading, width, and what it is sorted by, the first to stay where room is short first.
_COLUMNS = (
    ("STATE", 10, Sort.STATE),
    ("CONN", 7, Sort.CONNECTIONS),
    ("NEW/s", 7, Sort.NEW),
    ("DRIFT", 5, Sort.DRIFTS),
    ("PKT/s", 8, Sort.PACKETS),
    ("INVALID", 7, Sort.INVALID),
    ("DIRECT", 7, Sort.DIRECT),
    ("APPLY", 5, Sort.APPLIES),
    ("OUTSIDE", 7, Sort.OUTSIDE),
)
_ORDER = ("STATE", "CONN", "DIRECT", "NEW/s", "PKT/s", "INVALID", "DRIFT", "APPLY", "OUTSIDE")
_LEAST_NAME, _MOST_NAME = 12, 60
AROUND = 3  # lines beside the rows: summary, headings, keys


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What of the rows is shown: in which order, and from which on. `width` and `height` are the terminal's."""

    sort: Sort
    reverse: bool = False
    top: int = 0
    width: int = 80
    height: int = 24

    @property
    def room(self) -> int:
        """How many rows there is room for."""
        return max(1, self.height - AROUND)


def headings(width: int, longest: int) -> tuple[tuple[str, int, Sort], ...]:
    """Return the columns that fit into a width beside names of this length; the name itself is the first."""
    name = min(max(longest, len("TARGET")), _MOST_NAME)
    left = width - min(name, _LEAST_NAME)
    chosen = []
    for column in _COLUMNS:
        if left >= column[1] + 2:
            left -= column[1] + 2
            chosen.append(column)
    chosen.sort(key=lambda column: _ORDER.index(column[0]))
    used = sum(column[1] + 2 for column in chosen)
    return (("TARGET", max(1, min(name, width - used)), Sort.TARGET), *chosen)


def cells(row: Row, columns: Iterable[tuple[str, int, Sort]]) -> list[str]:
    """Return a row's cells, each as wide as its column."""
    return [_cell(row, width, sort) for _, width, sort in columns]


def lines(found: tuple[Row, ...], view: View, note: str) -> "list[Text]":
    """Return the lines of a frame, none longer than the terminal is wide, and no more than it is high."""
    from rich.text import Text

    rows = ordered(found, view.sort, reverse=view.reverse)
    top = min(view.top, max(0, len(rows) - view.room))
    shown = rows[top : top + view.room]
    columns = headings(view.width, max((len(row.target) for row in rows), default=0))
    part = f", {top + 1} to {top + len(shown)} of {len(rows)}" if len(shown) < len(rows) else ""
    said = [Text(f"weir top: {summary(rows)}{part}{f'; {note}' if note else ''}", style="bold")]
    heading = Text()
    for at, (name, width, sort) in enumerate(columns):
        label = f"{name:<{width}}" if at < 2 and name in ("TARGET", "STATE") else f"{name:>{width}}"
        heading.append(label[:width], style="bold reverse" if sort is view.sort else "bold")
        heading.append("  ")
    said.append(heading)
    for row in shown:
        text = Text()
        for (name, _, _), cell in zip(columns, cells(row, columns), strict=True):
            text.append(cell, style=_style(row, name))
            text.append("  ")
        said.append(text)
    keys = f"q quit  r reverse  sort: {' '.join(f'{key} {sort}' for key, sort in KEYS.items())}"
    short = f"q quit  r reverse  sort: {' '.join(KEYS)}"
    said.append(Text(keys if len(keys) <= view.width else short, style="dim"))
    for each in said:
        each.truncate(view.width, overflow="crop")
    return said[: max(1, view.height)]


def _cell(row: Row, width: int, sort: Sort) -> str:
    if sort is Sort.TARGET:
        name = row.target if len(row.target) <= width else f"{row.target[: max(0, width - 1)]}~"
        return f"{name:<{width}}"
    if sort is Sort.STATE:
        return f"{row.state:<{width}}"[:width]
    value = figure(row, sort)
    rate = sort in (Sort.NEW, Sort.PACKETS) and value is not None and value < 1000
    return f"{f'{value:.1f}' if rate else _short(value, width):>{width}}"


def _short(value: float | None, width: int) -> str:
    """Return a number in a width, with a thousand's letter where it is longer."""
    if value is None:
        return "-"
    text = f"{value:.0f}"
    for letter in "kMGT":
        if len(text) <= width:
            break
        value /= 1000
        text = f"{value:.0f}{letter}"
    return text


def _style(row: Row, heading: str) -> str:
    if heading == "STATE":
        quiet = row.state in ("outside", "removed")
        return "green" if row.captured else "" if quiet else "red" if row.state == "failed" else "yellow"
    return "yellow" if (heading == "DRIFT" and row.drifts) or (heading == "INVALID" and row.invalid) else ""
