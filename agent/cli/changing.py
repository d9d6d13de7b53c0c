"""Having targets changed: by the daemon where it holds them, here otherwise, both at the same time."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import NoReturn

import typer

from agent import report
from agent.cli.failing import tell
from agent.cli.kernel import with_handles
from agent.errors import DaemonError, WeirError
from agent.kernel.handle import Handle
from agent.local_api import Client
from agent.reconcile import read_back, reconcile
from agent.report import Report
from agent.state import Records
from agent.targets import HOST, Absent, Outcome, State, Target

_SHORTEST = 0.05  # seconds between two looks at streams that drain


def applied(chosen: tuple[Target, ...], holding: Mapping[str, str]) -> tuple[Report, ...]:
    """Have targets captured; return how each fared. `holding` are the daemon's names for those it holds, by netns."""
    try:
        return _changed(chosen, holding, Client().apply)
    except KeyboardInterrupt:
        _interrupted("what is half-done, the next weir command or the daemon finishes")


def removed(chosen: tuple[Target, ...], holding: Mapping[str, str], drain: float) -> tuple[Report, ...]:
    """Have targets released; return when nothing is left in them, as `applied`."""
    wanted = tuple(replace(target, wish=Absent(drain=drain)) for target in chosen)
    try:
        return _changed(wanted, holding, partial(Client().remove, drain=drain))
    except KeyboardInterrupt:
        goes_on = "the drain goes on" if drain else "the release is half-done"
        _interrupted(f"{goes_on}: the next weir command or the daemon finishes it")


def swept() -> tuple[Report, ...]:
    """Finish what an agent's uninstall has left on the node beside namespaces; return how that went, if anything."""
    from agent.pods import leavings

    def told(state: State, reason: str, hint: str = "") -> Report:
        return Report(target="cni-plugin", netns=HOST, state=state, reason=reason, hint=hint)

    if Client().is_there():
        return ()  # an agent that is here keeps the plugin in place
    left = leavings.sweep()
    if left:
        hint = "then run `weir remove --all` again"
        return tuple(told(State.FAILED, each, hint) for each in left)
    if left is None:
        return ()
    return (told(State.REMOVED, "the plugin, its entry and its credentials are taken off the node"),)


def _changed(
    chosen: tuple[Target, ...], holding: Mapping[str, str], ask: Callable[[tuple[str, ...]], tuple[Report, ...]]
) -> tuple[Report, ...]:
    answer = _in_background(partial(ask, tuple(dict.fromkeys(holding.values())))) if holding else None
    reports = _reconciled(tuple(target for target in chosen if target.netns not in holding))
    if answer is not None:
        reports |= _answered(answer, [target for target in chosen if target.netns in holding], holding)
    return tuple(reports[target.netns] for target in chosen)


def _in_background(ask: Callable[[], tuple[Report, ...]]) -> "Future[tuple[Report, ...]]":
    thread = ThreadPoolExecutor(1, "daemon")
    try:
        return thread.submit(ask)
    finally:
        thread.shutdown(wait=False)


def _answered(
    answer: "Future[tuple[Report, ...]]", held: list[Target], holding: Mapping[str, str]
) -> dict[str, Report]:
    """Return the daemon's reports by our targets' netns; for each that it has none of, why."""
    try:
        by_name = {each.target: each for each in answer.result()}
        error: WeirError = DaemonError("the daemon let go of it in this moment", hint="run the command again")
    except WeirError as came:
        by_name, error = {}, came
    return {each.netns: by_name.get(holding[each.netns]) or report.of_error(each, error) for each in held}


def _reconciled(chosen: tuple[Target, ...]) -> dict[str, Report]:
    """Make one pass over all targets, so that all begin at once; then more over those that drain, until none does."""
    records = Records()

    def write(target: Target, handle: Handle) -> Outcome:
        return read_back(reconcile(target, handle, records), handle)

    reports: dict[str, Report] = {}
    left, first = chosen, True
    while left:
        draining, again = [], []
        for target, outcome in with_handles(left, write, progress=first):
            if isinstance(outcome, WeirError):
                reports[target.netns] = report.of_error(target, outcome)
                continue
            reports[target.netns] = report.of_outcome(outcome)
            if outcome.state is State.DRAINING:
                draining.append(target)
                again.append(outcome.again or 0.0)
        left, first = tuple(draining), False
        if left:
            time.sleep(max(_SHORTEST, min(again)))
    return reports


def _interrupted(what: str) -> NoReturn:
    tell(WeirError(f"interrupted: {what}"))
    raise typer.Exit(130) from None
