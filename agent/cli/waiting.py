"""The command that looks until it is so: wait."""

import time
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli import pods
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
from agent.errors import ConfigError, NamespaceMissing, NotANamespace

if TYPE_CHECKING:
    from agent.cli.kernel import Opened
    from agent.report import Report
    from agent.targets import Target

INTERVAL = 0.1  # seconds between two looks
POD_INTERVAL = 0.5  # of a pod: the daemon tells of all pods of its node each time


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
    if name is not None and pods.meant((name,)):
        _refuse_beside_pods(netns, file, settings)
        looked: Callable[[], Report] = partial(_look_at_pod, name)
        close: Callable[[], None] = _nothing
        interval = POD_INTERVAL
    else:
        target = one_target("wait", name, netns, file, settings)
        if goal is Goal.ABSENT:
            target = replace(target, wish=Absent())
        opened = Opened(target)
        looked, close, interval = partial(_look_once, target, opened), opened.close, INTERVAL
    deadline = time.monotonic() + timeout
    try:
        while True:
            report = looked()
            reached = report.captured if goal is Goal.CAPTURED else report.state == "removed"
            left = deadline - time.monotonic()
            if reached or left <= 0:
                break
            time.sleep(min(interval, left))
    finally:
        close()
    if output is Output.JSON:
        show.as_json((report,), reached=reached)
    else:
        show.line(report, goal if reached else f"not {goal}")
    raise typer.Exit(not reached)


def _refuse_beside_pods(netns: list[str] | None, file: Path | None, settings: list[str] | None) -> None:
    if netns or file is not None or settings:
        raise ConfigError("wait: a pod is captured as the daemon says: leave out --netns, --file and --set")


def _nothing() -> None:
    """Close nothing: each look at a pod opens its namespace anew, since that may be another one."""


def _look_at_pod(name: str) -> "Report":
    """Look at a pod with the daemon's word; one that it doesn't know (yet, or any more) is free of Weir."""
    from agent.cli.look import looked_at_pods
    from agent.report import Report
    from agent.targets import State

    try:
        return looked_at_pods(pods.documents((name,)))[1][0]
    except pods.UnknownPodError as error:
        return Report(target=name, netns="-", state=State.REMOVED, reason=str(error), hint=error.hint)


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
