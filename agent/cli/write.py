"""The commands that change a namespace: apply, remove, confirm. Where a daemon holds a target, it is asked to."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.options import (
    File,
    Names,
    Netns,
    OneName,
    Output,
    OutputOption,
    Settings,
    add,
    need_root,
    one_target,
    only,
    targets,
)
from agent.errors import Busy, ConfigError, TargetError, WeirError

if TYPE_CHECKING:
    from agent.kernel.handle import Handle
    from agent.report import Report
    from agent.targets import Target


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    add(app, apply, remove, confirm)


def apply(
    names: Names = None,
    netns: Netns = None,
    file: File = None,
    settings: Settings = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    confirm: Annotated[
        float | None,
        typer.Option(
            "--confirm",
            min=1,
            metavar="SECONDS",
            help="Undo everything after so many seconds unless confirmed, also when this command or the login dies.",
        ),
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Capture targets: write what differs, in one transaction each, and read it back.

    Connections that are open go on (established = "keep"). Where a running daemon holds a target, it does the work.
    """
    from agent.cli.held import held
    from agent.cli.look import diff

    need_root("apply")
    if dry_run:
        diff(names, netns, file, settings, output)
    chosen = targets(names, netns, file, settings)
    holding = held(chosen)
    if holding and settings:
        name = next(iter(holding))
        raise ConfigError(
            f"target {name!r}: --set {settings[0]}: the daemon holds it, and takes its settings from its file",
            hint="change the file, which the daemon then reads again",
        )
    if confirm is not None:
        from agent.cli.confirming import apply_guarded

        target = only("apply --confirm", chosen)
        if holding:
            raise Busy(
                f"target {target.name!r}: --confirm {confirm:g}: the daemon holds it, and would undo the undoing",
                hint="stop the daemon first, or change its file",
            )
        raise typer.Exit(apply_guarded(target, confirm, output))
    _finish(_written(chosen, holding, "apply", 0.0), output)


def remove(
    names: Names = None,
    netns: Netns = None,
    file: File = None,
    drain: Annotated[
        float, typer.Option("--drain", min=0, metavar="SECONDS", help="Let captured streams go on for so long.")
    ] = 0.0,
    all: Annotated[  # noqa: A002 (the option's name)
        bool, typer.Option("--all", help="Every namespace on this machine that has something of Weir, known or not.")
    ] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Release targets: new connections go direct at once, captured streams end or drain, nothing is left.

    Without --drain, or when its time is over, the sockets of captured streams are destroyed, so that both ends see an
    error rather than a hang. A target of a running daemon stays released until `weir apply`. What a killed command
    leaves undone, the next one or the daemon finishes.
    """
    from agent.cli.held import held

    need_root("remove")
    if not (names or netns or all):
        raise ConfigError("remove: wants targets, --netns, or --all", hint="`weir status` lists the targets")
    if all and (names or netns):
        named = f"target {names[0]!r}" if names else f"--netns {(netns or [''])[0]!r}"
        raise ConfigError(f"remove: {named} beside --all, which means every namespace", hint="leave one of them out")
    chosen = _everywhere() if all else targets(names, netns, file, None)
    _finish(_written(chosen, held(chosen), "remove", drain), output, nothing="nothing of Weir is in any namespace")


def confirm(name: OneName = None, netns: Netns = None, file: File = None, output: OutputOption = Output.TEXT) -> None:
    """Keep what `weir apply --confirm` wrote. Works from any login."""
    from agent.cli.confirming import confirm_target

    need_root("confirm")
    confirm_target(one_target("confirm", name, netns, file, None), output)


def _written(chosen: "tuple[Target, ...]", holding: dict[str, str], verb: str, drain: float) -> "tuple[Report, ...]":
    """Have each target written by the daemon where it holds it, and here otherwise; return the reports in order."""
    from dataclasses import replace

    from agent.local_api import Client
    from agent.targets import Absent

    reports: dict[str, Report] = {}
    if holding:
        names = tuple(dict.fromkeys(holding.values()))
        done = Client().apply(names) if verb == "apply" else Client().remove(names, drain)
        by_name = {each.target: each for each in done}
        reports |= {ours: by_name[theirs] for ours, theirs in holding.items()}
    ours = tuple(target for target in chosen if target.name not in holding)
    if verb == "remove":
        ours = tuple(replace(target, wish=Absent(drain=drain)) for target in ours)
    reports |= {each.target: each for each in _reconciled(ours)}
    return tuple(reports[target.name] for target in chosen)


def _reconciled(chosen: "tuple[Target, ...]") -> "list[Report]":
    from agent import report
    from agent.cli.kernel import with_handles
    from agent.reconcile import reconcile
    from agent.state import Records
    from agent.targets import Outcome, State

    if not chosen:
        return []
    records = Records()

    def write(target: "Target", handle: "Handle") -> Outcome:
        outcome = reconcile(target, handle, records)
        while outcome.state is State.DRAINING:
            time.sleep(outcome.again or 0.0)
            outcome = reconcile(target, handle, records)
        return outcome

    return [
        report.of_error(target, outcome) if isinstance(outcome, WeirError) else report.of_outcome(outcome)
        for target, outcome in with_handles(chosen, write)
    ]


def _finish(reports: "tuple[Report, ...]", output: Output, nothing: str = "") -> None:
    from agent.cli import show

    if output is Output.JSON:
        show.as_json(reports)
    else:
        for each in reports:
            show.line(each)
        if not reports and nothing:
            show.hint(nothing)
        for hint in dict.fromkeys(each.hint for each in reports if each.state != "failed"):
            show.hint(hint)
    states = {str(each.state) for each in reports}
    raise typer.Exit(2 if "failed" in states else 1 if states & {"waiting", "draining"} else 0)


def _everywhere() -> "tuple[Target, ...]":
    """Return a target for every namespace that has a table, rules or routes of Weir's, the node's own included."""
    from agent.cli.kernel import with_handles
    from agent.kernel.netns import everywhere
    from agent.observed import has_traces
    from agent.targets import HOST, Absent, Target

    places = [HOST, *(str(netns) for netns in everywhere().values())]
    candidates = tuple(Target(name=place, netns=place, wish=Absent()) for place in places)
    found = []
    for target, traces in with_handles(candidates, lambda target, handle: has_traces(handle, target.table)):
        # A namespace that went in this moment, with its last process, holds nothing; one that can't be read is tried
        # all the same, so that it is reported.
        if not isinstance(traces, TargetError) and traces:
            found.append(target)
    return tuple(found)
