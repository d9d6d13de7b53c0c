"""The command that looks until it is so: wait."""

import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.options import File, Netns, OneName, Output, OutputOption, Settings, add, need_root, one_target
from agent.errors import NamespaceMissing, NotANamespace, WeirError

if TYPE_CHECKING:
    from agent.inspection import Inspection
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
    netns: Netns = None,
    file: File = None,
    settings: Settings = None,
    goal: Annotated[Goal, typer.Option("--for", help="What to wait for.")] = Goal.CAPTURED,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0, metavar="SECONDS", help="The longest time; 0 looks once.")
    ] = 30.0,
    output: OutputOption = Output.TEXT,
) -> None:
    """Wait until a target is captured, or free of Weir: for units that must not start before.

    Changes nothing: a daemon, or `weir apply`, does. A namespace that isn't there yet is waited for, too.
    """
    from dataclasses import replace

    from agent.cli import show
    from agent.targets import Absent

    need_root("wait")
    target = one_target("wait", name, netns, file, settings)
    if goal is Goal.ABSENT:
        target = replace(target, wish=Absent())
    deadline = time.monotonic() + timeout
    while True:
        report = _look_once(target)
        reached = report.captured if goal is Goal.CAPTURED else report.state == "removed"
        left = deadline - time.monotonic()
        if reached or left <= 0:
            break
        time.sleep(min(INTERVAL, left))
    if output is Output.JSON:
        show.as_json((report,), reached=reached)
    else:
        show.line(report, goal if reached else f"not {goal}")
    raise typer.Exit(not reached)


def _look_once(target: "Target") -> "Report":
    """Look at a target; one whose namespace isn't there is free of Weir, and not captured."""
    from agent import report
    from agent.cli.kernel import with_handles
    from agent.inspection import inspect
    from agent.report import Report
    from agent.state import Records
    from agent.targets import Absent, State

    records = Records()
    ((_, found),) = with_handles((target,), lambda target, handle: inspect(target, handle, records))
    if isinstance(found, NamespaceMissing | NotANamespace):
        state = State.REMOVED if isinstance(target.wish, Absent) else State.WAITING
        return Report(target=target.name, netns=target.netns, state=state, reason=str(found), hint=found.hint)
    if isinstance(found, WeirError):
        raise found
    looked: Inspection = found
    return report.of_inspection(looked)
