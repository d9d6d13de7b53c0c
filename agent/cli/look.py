"""The commands that change nothing: render, diff, verify, status, wait."""

import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.options import File, Names, Netns, OneName, Output, OutputOption, Settings, need_root, targets
from agent.errors import ConfigError, WeirError

if TYPE_CHECKING:
    from agent.inspection import Inspection
    from agent.kernel.handle import Handle
    from agent.report import Report
    from agent.targets import Target

WAIT_INTERVAL = 0.2


class Format(StrEnum):
    """The two languages of nft."""

    NFT = "nft"
    JSON = "json"


class Goal(StrEnum):
    """What can be waited for."""

    CAPTURED = "captured"
    ABSENT = "absent"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (render, diff, verify, status, wait):
        app.command()(command)


def render(
    names: Names = None,
    netns: Netns = None,
    file: File = None,
    settings: Settings = None,
    format: Annotated[  # noqa: A002 (the option's name)
        Format, typer.Option("--format", help="nft's text, or the JSON that nft -j -f loads.")
    ] = Format.NFT,
) -> None:
    """Print the rules that a target is to have.

    Needs no root and looks at no namespace. Without a file, --set alone describes a capture:

        weir render --set dns=false --set 'exclude_outbound_networks=["10.0.0.0/8"]'

    The settings are those of the file: outbound_port, inbound_port, hbone_port, dns_port, dns, inbound, outbound,
    ingress, proxy_mark, proxy_user, connection_mark, probe_sources, virtual_interfaces, exclude_interfaces,
    {include,exclude}_{outbound,inbound}_{ports,networks}, families, established, kept_deadline, when_proxy_absent,
    uncapturable, route_table, rule_priority.
    """
    from agent.targets import Captured
    from rulesets import nft, pod

    alone = settings and not (names or netns or file)
    chosen = targets(None, ["settings"], None, settings) if alone else targets(names, netns, file, settings)
    if format is Format.JSON and len(chosen) > 1:
        raise ConfigError(f"--format json: wants one target, and these are {len(chosen)}", hint="name one")
    for target in chosen:
        if isinstance(target.wish, Captured):
            rules = pod.build(target.wish.capture, table=target.table)
            if len(chosen) > 1:
                print(f"# target {target.name}, netns {target.netns}")
            print(nft.render(rules) if format is Format.NFT else nft.render_json(rules), end="")


def diff(
    names: Names = None,
    netns: Netns = None,
    file: File = None,
    settings: Settings = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show what apply would change. Writes nothing.

    Exit codes: 0 nothing would change, 1 something would, 2 error.
    """
    from agent.cli import show

    need_root("diff")
    reports = _inspected(targets(names, netns, file, settings))
    differing = [each for each in reports if each.changes]
    if output is Output.JSON:
        show.as_json(reports)
    else:
        for each in reports:
            if each.changes:
                show.line(each, "differs")
                show.changes(each)
            elif not _failed(each):
                show.line(each, "same")
            else:
                show.line(each)
        show.hint(f"`weir apply {_named(differing, netns)}` makes it so" if differing else "")
    raise typer.Exit(2 if any(map(_failed, reports)) else bool(differing))


def verify(
    names: Names = None,
    netns: Netns = None,
    file: File = None,
    settings: Settings = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Check that targets are captured: rules, routes, listeners, families.

    Exit codes: 0 all captured, 1 one is not, 2 error.
    """
    from agent.cli import show

    need_root("verify")
    reports = _inspected(targets(names, netns, file, settings))
    missing = [each for each in reports if not each.captured]
    if output is Output.JSON:
        show.as_json(reports)
    else:
        for each in reports:
            show.line(each, "captured" if each.captured else "")
            show.checks(each)
        if any(each.changes for each in missing):
            show.hint(f"`weir diff {_named(missing, netns)}` shows what is missing")
    raise typer.Exit(2 if any(map(_failed, reports)) else bool(missing))


def status(
    names: Names = None,
    netns: Netns = None,
    file: File = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show how targets stand: state and reason, streams kept outside, streams that a release waits for.

    What is shown is observed now in the kernel; a running daemon adds why it waits or fails. Without a file and a
    target, the targets of the running daemon are shown. Exit code 0, or 2 when a target could not be looked at.
    """
    from agent.cli import show
    from agent.local_api import Client

    need_root("status")
    client = Client()
    daemon = client.status() if client.is_there() else None
    reports = tuple(_explained(each, daemon) for each in _inspected(targets(names, netns, file, None)))
    if output is Output.JSON:
        show.as_json(reports, daemon=daemon)
    else:
        good = sum(each.captured for each in reports)
        print(f"{good} of {len(reports)} targets captured; {_daemon_words(daemon)}")
        show.table(reports)
        for each in reports:
            show.streams(each)
    raise typer.Exit(2 if any(map(_failed, reports)) else 0)


def wait(
    name: OneName = None,
    netns: Netns = None,
    file: File = None,
    settings: Settings = None,
    goal: Annotated[Goal, typer.Option("--for", help="What to wait for.")] = Goal.CAPTURED,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait at most.")] = 30.0,
    output: OutputOption = Output.TEXT,
) -> None:
    """Wait until a target is captured, or free of Weir: for units that must not start before.

    Changes nothing: a daemon, or `weir apply`, does. Exit codes: 0 it is so, 1 the time was over, 2 error.
    """
    from dataclasses import replace

    from agent.cli import show
    from agent.targets import Absent

    need_root("wait")
    chosen = targets([name] if name else None, netns, file, settings)
    if len(chosen) != 1:
        raise ConfigError(f"wait: wants one target, and these are {len(chosen)}", hint="name one")
    target = chosen[0] if goal is Goal.CAPTURED else replace(chosen[0], wish=Absent())
    deadline = time.monotonic() + timeout
    while True:
        report = _look_once(target, patient=True)
        reached = report.captured if goal is Goal.CAPTURED else report.state == "removed"
        if reached or time.monotonic() >= deadline:
            break
        time.sleep(min(WAIT_INTERVAL, max(0.0, deadline - time.monotonic())))
    if output is Output.JSON:
        show.as_json((report,), reached=reached)
    else:
        show.line(report, goal if reached else f"not {goal}")
    raise typer.Exit(not reached)


def _look_once(target: "Target", *, patient: bool) -> "Report":
    """Look at a target; one whose namespace isn't there is free of Weir, and not captured."""
    from agent.errors import NamespaceMissing, NotANamespace
    from agent.report import Report
    from agent.targets import Absent, State

    try:
        return _reports(_looks((target,)), forgive=not patient)[0]
    except (NamespaceMissing, NotANamespace) as error:
        state = State.REMOVED if isinstance(target.wish, Absent) else State.WAITING
        return Report(target=target.name, netns=target.netns, state=state, reason=str(error), hint=error.hint)


def _inspected(chosen: "tuple[Target, ...]") -> "tuple[Report, ...]":
    return _reports(_looks(chosen), forgive=len(chosen) > 1)


def _looks(chosen: "tuple[Target, ...]") -> "list[tuple[Target, Inspection | WeirError]]":
    from agent.cli.kernel import with_handles
    from agent.inspection import inspect
    from agent.state import Records

    records = Records()

    def look(target: "Target", handle: "Handle") -> "Inspection":
        return inspect(target, handle, records)

    return with_handles(chosen, look)


def _reports(looks: "list[tuple[Target, Inspection | WeirError]]", *, forgive: bool) -> "tuple[Report, ...]":
    """Return the reports; an error is one too where others are to be shown beside it, and is raised otherwise."""
    from agent import report

    found = []
    for target, look in looks:
        if not isinstance(look, WeirError):
            found.append(report.of_inspection(look))
        elif forgive:
            found.append(report.of_error(target, look))
        else:
            raise look
    return tuple(found)


def _failed(report: "Report") -> bool:
    return report.state == "failed"


def _named(reports: "list[Report]", netns: list[str] | None) -> str:
    """Return the arguments that mean these targets, for a command to paste."""
    if netns:
        return " ".join(f"--netns {each.netns}" for each in reports)
    return " ".join(each.target for each in reports)


def _explained(report: "Report", daemon: dict[str, object] | None) -> "Report":
    """Add what the daemon says of a target that isn't as it wants it."""
    from dataclasses import replace

    known = daemon.get("targets") if daemon else None
    for each in known if isinstance(known, list) else ():
        if each["target"] == report.target and each["netns"] == report.netns and not report.captured:
            return replace(report, state=type(report.state)(each["state"]), reason=each["reason"], hint=each["hint"])
    return report


def _daemon_words(daemon: dict[str, object] | None) -> str:
    if daemon is None:
        return "no daemon is running"
    error = daemon.get("file_error")
    return f"the daemon ({daemon.get('pid')}) keeps them" + (f"; its file is bad: {error}" if error else "")
