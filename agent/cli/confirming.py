"""`apply --confirm` and `confirm`, on the command's side."""

import contextlib
import os
import select
import shlex
import sys
from typing import TYPE_CHECKING

from agent.cli import show
from agent.cli.options import Output

if TYPE_CHECKING:
    from agent.confirm import Guarded
    from agent.targets import Target


def apply_guarded(target: "Target", seconds: float, output: Output) -> int:
    """Apply a target that undoes itself unless confirmed; return the exit code: 0 kept, 1 undone, 2 error."""
    from agent import confirm

    guarded = confirm.start(target, seconds)
    if not guarded.changed:
        _show(guarded, output, kept=None)
        return 2 if guarded.report.state == "failed" else 1 if guarded.report.state == "waiting" else 0
    if output is Output.TEXT:
        show.line(guarded.report)
        enter = "press Enter, or run " if _can_ask() else ""
        print(
            f"undone in {seconds:g} s unless confirmed: {enter}`weir confirm --netns {shlex.quote(target.netns)}`",
            flush=True,
        )
    kept = _wait(guarded, target)
    _show(guarded, output, kept=kept)
    return 0 if kept else 1


def confirm_target(target: "Target", output: Output) -> None:
    """Confirm what a guard holds."""
    from agent import confirm

    confirm.confirm(target)
    if output is Output.JSON:
        print('{"kept": true}')
    else:
        print(f"kept       {target.name}")


def _can_ask() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _wait(guarded: "Guarded", target: "Target") -> bool:
    """Wait for Enter on a terminal, or for the guard's word, whichever comes first."""
    from agent import confirm
    from agent.errors import TargetError

    inputs: list[int] = [guarded.ended]
    if _can_ask():
        inputs.append(sys.stdin.fileno())
    readable, _, _ = select.select(inputs, [], [])
    # A terminal that is at its end (Ctrl-D, a lost login) says nothing: that is no yes.
    if guarded.ended not in readable and os.read(sys.stdin.fileno(), 1024):
        with contextlib.suppress(TargetError):  # the time was over in this moment; the guard says so
            confirm.confirm(target)
    return guarded.wait()


def _show(guarded: "Guarded", output: Output, *, kept: bool | None) -> None:
    if output is Output.JSON:
        show.as_json((guarded.report,), **({} if kept is None else {"kept": kept}))
    elif kept is None:
        show.line(guarded.report)
        if guarded.report.state != "failed":
            show.hint(guarded.report.hint)
    else:
        print("kept" if kept else "undone: it was not confirmed in time")
