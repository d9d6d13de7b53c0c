"""`apply --confirm` and `confirm`, on the command's side."""

import contextlib
import os
import select
import sys
from typing import TYPE_CHECKING

from agent.cli import show
from agent.cli.options import Output
from agent.errors import Busy, ConfigError

if TYPE_CHECKING:
    from agent.confirm import Guarded
    from agent.targets import Target


def apply_guarded(chosen: "tuple[Target, ...]", seconds: float, output: Output) -> int:
    """Apply a target that undoes itself unless confirmed; return the exit code: 0 kept, 1 undone, 2 error."""
    from agent import confirm
    from agent.local_api import Client

    if len(chosen) != 1:
        raise ConfigError(f"--confirm: wants one target, and these are {len(chosen)}", hint="name one")
    target = chosen[0]
    client = Client()
    if client.is_there():
        known = client.status()["targets"]
        if isinstance(known, list) and any(each["netns"] == target.netns for each in known):
            raise Busy(
                f"target {target.name!r}: the daemon holds it, and would put back what is undone",
                hint="stop the daemon first, or change its file",
            )
    guarded = confirm.start(target, seconds)
    if guarded.report.state in ("failed", "waiting"):
        _show(guarded, output, kept=None)
        return 2 if guarded.report.state == "failed" else 1
    if output is Output.TEXT:
        show.line(guarded.report)
        print(
            f"undone in {seconds:g} s unless confirmed: press Enter, or run `weir confirm {_arguments(target)}`",
            flush=True,
        )
    kept = _wait(guarded, target)
    _show(guarded, output, kept=kept)
    return 0 if kept else 1


def confirm_target(target: "Target", output: Output) -> int:
    """Confirm what a guard holds; return the exit code."""
    from agent import confirm

    confirm.confirm(target)
    if output is Output.JSON:
        print('{"kept": true}')
    else:
        print(f"kept       {target.name}")
    return 0


def _wait(guarded: "Guarded", target: "Target") -> bool:
    """Wait for Enter on a terminal, or for the guard's word, whichever comes first."""
    from agent import confirm
    from agent.errors import TargetError

    inputs: list[int] = [guarded.ended]
    if sys.stdin is not None and sys.stdin.isatty():
        inputs.append(sys.stdin.fileno())
    readable, _, _ = select.select(inputs, [], [])
    if guarded.ended not in readable and os.read(sys.stdin.fileno(), 1024):
        with contextlib.suppress(TargetError):  # the time was over in this moment; the guard says so
            confirm.confirm(target)
    return guarded.wait()


def _show(guarded: "Guarded", output: Output, *, kept: bool | None) -> None:
    if output is Output.JSON:
        show.as_json((guarded.report,), **({} if kept is None else {"kept": kept}))
    elif kept is None:
        show.line(guarded.report)
        show.hint(guarded.report.hint)
    else:
        print("kept" if kept else "undone: it was not confirmed in time")


def _arguments(target: "Target") -> str:
    return f"--netns {target.netns}" if target.name == target.netns else target.name
