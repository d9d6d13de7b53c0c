"""Results as text for people or JSON for programs. The first line answers, the last says what to do."""

import json
import sys
from collections.abc import Iterable

import typer

from agent.report import Report
from agent.targets import State

MOST_STREAMS = 20
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


def line(report: Report, word: str = "") -> None:
    """Print what a target came to, on one line."""
    state = typer.style(f"{word or report.state:<10}", fg=_COLOURS[report.state])
    typer.echo(f"{state} {_name(report)}: {report.reason}")


def _name(report: Report) -> str:
    return report.target if report.target == report.netns else f"{report.target} (netns {report.netns})"


def hint(text: str) -> None:
    """Print what to do, after everything else."""
    if text:
        typer.echo(text)


def changes(report: Report) -> None:
    """Print what would change in a target."""
    for each in report.changes:
        mark = each.strip()[:1]
        colour = {"+": "green", "-": "red"}.get(mark) if each.startswith(" ") else None
        typer.echo(typer.style(f"  {each}", fg=colour, bold=colour is None))


def checks(report: Report) -> None:
    """Print what was checked in a target."""
    for name, holds, said in report.checks:
        mark = typer.style("ok " if holds else "not", fg="green" if holds else "red")
        typer.echo(f"  {mark} {name:<9} {said}")


def streams(report: Report) -> None:
    """Print the streams that stay outside, and how many go on through the proxy while a release waits."""
    kept = report.kept
    for each in kept[:MOST_STREAMS]:
        typer.echo(f"    kept outside: {each}")
    if len(kept) > MOST_STREAMS:
        typer.echo(f"    and {len(kept) - MOST_STREAMS} more; --output json lists all")
    if report.state is State.DRAINING:
        for each in report.draining[:MOST_STREAMS]:
            typer.echo(f"    draining: {each}")


def table(reports: tuple[Report, ...]) -> None:
    """Print targets as a table: as wide as the terminal, or as it needs where there is none."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("TARGET", "NETNS", "STATE", "KEPT", "CAPTURED", "REASON"):
        shown.add_column(heading, overflow="fold", justify="right" if heading in ("KEPT", "CAPTURED") else "left")
    for each in reports:
        state = f"[{_COLOURS[each.state]}]{each.state}[/]"
        shown.add_row(each.target, each.netns, state, str(each.kept_count), str(each.captured_count), each.reason)
    Console(width=None if sys.stdout.isatty() else 200, soft_wrap=not sys.stdout.isatty()).print(shown)
