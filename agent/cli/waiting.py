"""The command that looks until it is so: wait."""

import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.options import (
    File,
    OneName,
    OneNetns,
    Output,
    OutputOption,
    Settings,
    add,
    need_root,
    one_target,
    seconds,
)
from agent.errors import NamespaceMissing, NotANamespace

if TYPE_CHECKING:
    from agent.cli.kernel import Opened
    from agent.report import Report
    from agent.targets import Target

INTERVAL = 0.1  # seconds between two looks


class Goal(StrEnum):
    """What can be waited for."""

    CAPTURED = "captured"
    ABSENT = "absent"


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    add(app, wait)


def wait(
    name: OneName = None,
    netns: OneNetns = None,
    file: File = None,
    settings: Settings = None,
    goal: Annotated[Goal, typer.Option("--for", help="What to wait for.")] = Goal.CAPTURED,
    timeout: Annotated[
        float,
        typer.Option("--timeout", min=0, callback=seconds, metavar="SECONDS", help="The longest time; 0 looks once."),
    ] = 30.0,
    output: OutputOption = Output.TEXT,
) -> None:
    """Wait until a target is captured, or free of Weir: for units that must not start before.

    Changes nothing: a daemon, or `weir apply`, does. A namespace that isn't there yet is waited for, too.
    """
    from dataclasses import replace

    from agent.cli import show
    from agent.cli.kernel import Opened
    from agent.targets import Absent

    need_root("wait")
    target = one_target("wait", name, netns, file, settings)
    if goal is Goal.ABSENT:
        target = replace(target, wish=Absent())
    deadline = time.monotonic() + timeout
    opened = Opened(target)
    try:
        while True:
            report = _look_once(target, opened)
            reached = report.captured if goal is Goal.CAPTURED else report.state == "removed"
            left = deadline - time.monotonic()
            if reached or left <= 0:
                break
            time.sleep(min(INTERVAL, left))
    finally:
        opened.close()
    if output is Output.JSON:
        show.as_json((report,), reached=reached)
    else:
        show.line(report, goal if reached else f"not {goal}")
    raise typer.Exit(not reached)


def _look_once(target: "Target", opened: "Opened") -> "Report":
    """Look at a target; one whose namespace isn't there is free of Weir, and not captured."""
    from agent.cli.look import look
    from agent.report import Report
    from agent.targets import Absent, State

    try:
        return opened.run(look)
    except (NamespaceMissing, NotANamespace) as error:
        state = State.REMOVED if isinstance(target.wish, Absent) else State.WAITING
        return Report(target=target.name, netns=target.netns, state=state, reason=str(error), hint=error.hint)
