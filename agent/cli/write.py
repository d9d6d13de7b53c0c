"""The commands that change a namespace: apply, remove, confirm. Where a daemon holds a target, it is asked to."""

from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.options import (
    File,
    Names,
    Netns,
    OneName,
    OneNetns,
    Output,
    OutputOption,
    Settings,
    add,
    daemons_file,
    need_root,
    one_target,
    only,
    seconds,
    targets,
)
from agent.errors import Busy, ConfigError, TargetError

if TYPE_CHECKING:
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
            callback=seconds,
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
    from agent.cli.look import differences
    from agent.cli.migrate import refuse_half_migrated

    need_root("apply")
    if dry_run and confirm is not None:
        raise ConfigError(
            f"apply: --dry-run beside --confirm {confirm:g}: what changes nothing needs no confirming",
            hint="leave one of them out",
        )
    if dry_run:
        raise typer.Exit(differences(names, netns, file, settings, output))
    chosen = targets(names, netns, file, settings)
    refuse_half_migrated(chosen)
    holding = held(chosen)
    if confirm is not None:
        target = only("apply --confirm", chosen)
        if holding:
            raise Busy(
                f"target {target.name!r}: --confirm {confirm:g}: the daemon holds it, and would undo the undoing",
                hint="stop the daemon first, or change its file",
            )
        from agent.cli.confirming import apply_guarded

        raise typer.Exit(apply_guarded(target, confirm, output))
    theirs = daemons_file() if holding else None
    other_file = file is not None and theirs is not None and file.resolve() != theirs.resolve()
    if holding and (settings or other_file):
        given = f"--set {settings[0]}" if settings else f"--file {file}"
        name = next(iter(holding.values()))
        raise ConfigError(
            f"target {name!r}: {given}: the daemon holds it, and takes its settings from its file",
            hint="change the file, which the daemon then reads again",
        )
    from agent.cli.changing import applied

    reports = applied(chosen, holding)
    _finish(reports, output, undone={"waiting", "draining"})


def remove(
    names: Names = None,
    netns: Netns = None,
    file: File = None,
    drain: Annotated[
        float,
        typer.Option(
            "--drain", min=0, callback=seconds, metavar="SECONDS", help="Let captured streams go on for so long."
        ),
    ] = 0.0,
    all: Annotated[  # noqa: A002 (the option's name)
        bool, typer.Option("--all", help="Every namespace on this machine that has something of Weir, known or not.")
    ] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Release targets: new connections go direct at once, captured streams end or drain, nothing is left.

    Without --drain, or when its time is over, the sockets of captured streams are destroyed, so that both ends see an
    error rather than a hang. A target of a running daemon stays released until `weir apply`. What a killed command
    leaves undone, the next one or the daemon finishes; --all also what an agent that was uninstalled has left on a node
    of Kubernetes.
    """
    from agent.cli.changing import removed, swept
    from agent.cli.held import held
    from agent.cli.migrate import refuse_half_migrated

    need_root("remove")
    if not (names or netns or all):
        raise ConfigError("remove: wants targets, --netns, or --all", hint="`weir status` lists the targets")
    if all and (names or netns):
        named = f"target {names[0]!r}" if names else f"--netns {(netns or [''])[0]!r}"
        raise ConfigError(f"remove: {named} beside --all, which means every namespace", hint="leave one of them out")
    chosen = _everywhere() if all else targets(names, netns, file, None)
    refuse_half_migrated(chosen)
    reports = removed(chosen, held(chosen), drain)
    reports += swept() if all else ()  # last: while a pod has rules, the plugin may be asked for it
    # Somebody may have applied it meanwhile.
    undone = {"waiting", "draining", "degraded", "applied"}
    _finish(reports, output, undone=undone, nothing="nothing of Weir is in any namespace")


def confirm(
    name: OneName = None, netns: OneNetns = None, file: File = None, output: OutputOption = Output.TEXT
) -> None:
    """Keep what `weir apply --confirm` wrote. Works from any login."""
    from agent.cli.confirming import confirm_target

    need_root("confirm")
    confirm_target(one_target("confirm", name, netns, file, None), output)


def _finish(reports: "tuple[Report, ...]", output: Output, *, undone: set[str], nothing: str = "") -> None:
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
    raise typer.Exit(2 if "failed" in states else 1 if states & undone else 0)


def _everywhere() -> "tuple[Target, ...]":
    """Return a target for every namespace that has a table, rules or routes of Weir's, the node's own included."""
    from agent.cli.kernel import with_handles
    from agent.kernel.netns import everywhere
    from agent.observed import has_traces
    from agent.targets import HOST, Absent, Target

    places = [HOST, *(str(netns) for netns in everywhere().values())]
    candidates = tuple(Target(name=place, netns=place, wish=Absent()) for place in places)
    found = []
    for target, traces in with_handles(candidates, lambda target, handle: has_traces(handle, target)):
        # A namespace that went in this moment, with its last process, holds nothing; one that can't be read is tried
        # all the same, so that it is reported.
        if not isinstance(traces, TargetError) and traces:
            found.append(target)
    return tuple(found)
