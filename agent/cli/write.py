"""The commands that change a namespace: apply, remove, confirm. Where a daemon holds a target, it is asked to."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.options import File, Names, Netns, OneName, Output, OutputOption, Settings, need_root, targets
from agent.errors import ConfigError, TargetError, WeirError

if TYPE_CHECKING:
    from agent.kernel.handle import Handle
    from agent.report import Report
    from agent.targets import Target


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (apply, remove, confirm):
        app.command()(command)


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

    Streams that are open go on (established = "keep"). A target that a running daemon holds is left to the daemon.

    Exit codes: 0 all is as wanted, 1 a target waits (for its proxy, say), 2 error.
    """
    from agent.cli.look import diff

    need_root("apply")
    if dry_run:
        diff(names, netns, file, settings, output)
    chosen = targets(names, netns, file, settings)
    if confirm is not None:
        from agent.cli.confirming import apply_guarded

        raise typer.Exit(apply_guarded(chosen, confirm, output))
    _finish(_written(chosen, "apply", 0.0), output)


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
    error rather than a hang. In a running daemon the wish lasts until `weir apply`. A killed command is taken up by the
    next one, or by the daemon.

    Exit codes: 0 nothing is left, 2 error.
    """
    need_root("remove")
    if not (names or netns or all):
        raise ConfigError("remove: wants targets, --netns, or --all", hint="`weir status` lists the targets")
    if all and (names or netns):
        raise ConfigError("remove: --all means every namespace, so no target can be named beside it")
    chosen = _everywhere() if all else targets(names, netns, file, None)
    _finish(_written(chosen, "remove", drain), output, nothing="nothing of Weir is in any namespace")


def confirm(name: OneName = None, netns: Netns = None, file: File = None, output: OutputOption = Output.TEXT) -> None:
    """Keep what `weir apply --confirm` wrote. Works from any login.

    Exit codes: 0 kept, 2 error: nothing waits to be confirmed.
    """
    from agent.cli.confirming import confirm_target

    need_root("confirm")
    chosen = targets([name] if name else None, netns, file, None)
    if len(chosen) != 1:
        raise ConfigError(f"confirm: wants one target, and these are {len(chosen)}", hint="name one")
    raise typer.Exit(confirm_target(chosen[0], output))


def _written(chosen: "tuple[Target, ...]", verb: str, drain: float) -> "tuple[Report, ...]":
    """Have each target written by the daemon where it holds it, and here otherwise; return the reports in order."""
    from dataclasses import replace

    from agent.local_api import Client
    from agent.targets import Absent

    client = Client()
    held = _held(chosen, client) if client.is_there() else {}
    reports: dict[str, Report] = {}
    if held:
        names = tuple(held.values())
        done = client.apply(names) if verb == "apply" else client.remove(names, drain)
        by_name = {each.target: each for each in done}
        reports |= {ours: by_name[theirs] for ours, theirs in held.items()}
    ours = tuple(target for target in chosen if target.name not in held)
    if verb == "remove":
        ours = tuple(replace(target, wish=Absent(drain=drain)) for target in ours)
    reports |= {each.target: each for each in _reconciled(ours, forgive=len(chosen) > 1)}
    return tuple(reports[target.name] for target in chosen)


def _held(chosen: "tuple[Target, ...]", client: object) -> dict[str, str]:
    """Return, for each target whose namespace a daemon holds, the daemon's name for it."""
    from agent.kernel.netns import Netns as Where
    from agent.kernel.netns import identify
    from agent.local_api import Client

    assert isinstance(client, Client)  # noqa: S101 (for the type checker; importing it above would be slow)
    status = client.status()["targets"]
    by_netns = {each["netns"]: each["target"] for each in status} if isinstance(status, list) else {}
    held = {}
    for target in chosen:
        identity = identify(Where(target.netns).path)
        name = by_netns.get(target.netns) or (client.holder(str(identity)) if identity else "")
        if name:
            held[target.name] = name
    return held


def _reconciled(chosen: "tuple[Target, ...]", *, forgive: bool) -> "list[Report]":
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

    found = []
    for target, outcome in with_handles(chosen, write):
        if not isinstance(outcome, WeirError):
            found.append(report.of_outcome(outcome))
        elif forgive:
            found.append(report.of_error(target, outcome))
        else:
            raise outcome
    return found


def _finish(reports: "tuple[Report, ...]", output: Output, nothing: str = "") -> None:
    from agent.cli import show

    if output is Output.JSON:
        show.as_json(reports)
    else:
        for each in reports:
            show.line(each)
        if not reports and nothing:
            show.hint(nothing)
        for hint in dict.fromkeys(each.hint for each in reports):
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
        if isinstance(traces, TargetError):
            continue  # its last process ended in this moment, and the namespace with it
        if isinstance(traces, WeirError):
            raise traces
        if traces:
            found.append(target)
    return tuple(found)
