"""Results as text for people or JSON for programs. The first line answers, the last says what to do."""

import json
import os
import sys
from collections.abc import Iterable
from typing import TextIO

import typer

from agent.cli.failing import clean
from agent.report import Report
from agent.targets import State
from agent.words import counted

MOST_STREAMS = 20
MOST_RIVALS = 10
_LONGEST_NAME = 80  # a name of the file has 63 at most; a path may have thousands
_COLOURS = {
    State.UNCHANGED: "green",
    State.APPLIED: "green",
    State.REMOVED: "green",
    State.WAITING: "yellow",
    State.DRAINING: "yellow",
    State.DEGRADED: "yellow",
    State.FAILED: "red",
}


def as_json(reports: Iterable[Report], **more: object) -> None:
    """Print reports as one JSON document."""
    print(json.dumps({"targets": [each.document() for each in reports], **more}, indent=2))


def line(report: Report, word: str = "", reason: str = "") -> None:
    """Print what a target came to: on one line, or for a failed one as an error, with what to do."""
    failed = report.state is State.FAILED
    stream = sys.stderr if failed else sys.stdout
    first, _, rest = clean(reason or report.reason).partition("\n")
    state = _painted(f"{word or report.state:<10}", _COLOURS[report.state], stream)
    print(f"{state} {name(report)}: {first}", file=stream)
    for each in rest.splitlines():
        print(f"  {each}", file=stream)
    if failed and report.hint:
        print(f"  {clean(report.hint)}", file=stream)


def name(report: Report) -> str:
    """Return how a target is called: by its name, and by its namespace where that is another one."""
    target, netns = map(_on_one_line, (report.target, report.netns))
    return target if target == netns else f"{target} (netns {netns})"


def _on_one_line(text: str) -> str:
    """Return a name as a line can hold it: without line ends, and cut where it is very long."""
    text = clean(text).replace("\n", "\\n")
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}..."


def hint(text: str) -> None:
    """Print what to do, after everything else."""
    if text:
        print(clean(text))


def changes(report: Report) -> None:
    """Print what would change in a target."""
    for each in report.changes:
        mark = each.strip()[:1] if each.startswith(" ") else ""
        colour = {"+": "green", "-": "red"}.get(mark, "")
        print(_painted(f"  {clean(each)}", colour, sys.stdout, bold=not colour))


def checks(report: Report) -> None:
    """Print what was checked in a target."""
    for check, holds, said in report.checks:
        mark = _painted("ok " if holds else "not", "green" if holds else "red", sys.stdout)
        print(f"  {mark} {check:<9} {clean(said)}")


def rivals(report: Report) -> None:
    """Print the rules of others that take captured traffic, or may; one alone is in the reason already."""
    if len(report.rivals) < 2:
        return
    for verb, some in (
        ("changed by rules of others", [each for each in report.rivals if each.certain]),
        ("perhaps changed by rules of others", [each for each in report.rivals if not each.certain]),
    ):
        if some:
            print(f"{name(report)}: {verb}")
            for each in some[:MOST_RIVALS]:
                print(clean(f"  {each}"))
            if len(some) > MOST_RIVALS:
                print(f"  and {len(some) - MOST_RIVALS} more; --output json lists all")


def streams(report: Report) -> None:
    """Print the streams that stay outside, and those that go on through the proxy while a release waits."""
    for heading, found in (("outside", report.kept), ("draining", report.draining)):
        if found:
            print(f"{name(report)}: {counted(len(found), 'stream')} {heading}")
            for each in found[:MOST_STREAMS]:
                print(f"  {each}")
            if len(found) > MOST_STREAMS:
                print(f"  and {len(found) - MOST_STREAMS} more; --output json lists all")


def table(reports: tuple[Report, ...]) -> None:
    """Print targets as a table; the reason comes last, since it may be long."""
    headings = ("TARGET", "NETNS", "STATE", "OUTSIDE", "CAPTURED", "REASON")
    aligned(headings, [(_row(each), _COLOURS[each.state]) for each in reports], coloured=2, right=(3, 4))


def aligned(
    headings: tuple[str, ...],
    rows: list[tuple[tuple[str, ...], str]],
    *,
    coloured: int = 1,
    right: tuple[int, ...] = (),
) -> None:
    """Print a table: each row with the colour of its `coloured` column, `right` the columns of numbers."""
    lines = [(headings, ""), *rows]
    widths = [max(len(row[at]) for row, _ in lines) for at in range(len(headings))]
    for number, (row, colour) in enumerate(lines):
        cells = [f"{cell:>{width}}" if at in right else f"{cell:<{width}}" for at, cell, width in _placed(row, widths)]
        cells[coloured] = _painted(cells[coloured], colour, sys.stdout, bold=not number)
        print("  ".join(cells).rstrip())


def _row(report: Report) -> tuple[str, ...]:
    state = "captured" if report.captured else str(report.state)
    counts = ("-", "-") if report.state is State.FAILED else (str(report.kept_count), str(report.captured_count))
    reason = clean(report.reason).replace("\n", ";")
    return (_on_one_line(report.target), _on_one_line(report.netns), state, *counts, reason)


def _placed(row: tuple[str, ...], widths: list[int]) -> list[tuple[int, str, int]]:
    return [
        (at, cell, width if at < len(row) - 1 else 0) for at, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def _painted(text: str, colour: str, stream: TextIO, *, bold: bool = False) -> str:
    """Return a text in a colour, where the stream is a terminal that has some (and see https://no-color.org)."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb" or not stream.isatty()
    return text if plain else typer.style(text, fg=colour or None, bold=bold or None)
