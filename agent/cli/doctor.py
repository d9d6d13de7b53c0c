"""`weir doctor`: what is wrong with this node and its targets, why it matters and what to do."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli import pods
from agent.cli.options import File, Names, Netns, Output, OutputOption, Settings, add, targets
from agent.errors import WeirError

if TYPE_CHECKING:
    from agent.doctor import Diagnosis, Finding
    from agent.doctor.machine import Machine
    from agent.targets import Target

_COLOURS = {"error": "red", "warning": "yellow", "unchecked": "yellow", "note": ""}


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    add(app, doctor)


def doctor(
    names: Names = None,
    netns: Netns = None,
    file: File = None,
    settings: Settings = None,
    cni_conf_dir: Annotated[
        Path | None,
        typer.Option(
            "--cni-conf-dir",
            envvar="CNI_CONF_DIR",
            metavar="FOLDER",
            readable=False,
            show_envvar=True,
            help="Where the runtime reads networks; else /etc/cni/net.d.",
        ),
    ] = None,
    cni_bin_dir: Annotated[
        Path | None,
        typer.Option(
            "--cni-bin-dir",
            envvar="CNI_BIN_DIR",
            metavar="FOLDER",
            readable=False,
            show_envvar=True,
            help="Where plugins are; else /opt/cni/bin.",
        ),
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Examine this node, and targets: what is in the way of a capture, why it matters, what to do.

    Changes nothing. The kernel's features are tried in a namespace that is thrown away. Without a target the node is
    examined, and the targets of the file or the daemon where there are some. Pods of Kubernetes are examined where they
    are named. Without root it checks what it can, and says what it couldn't.
    """
    from agent.doctor import Node, examine
    from agent.doctor.chain import CONFIGURATIONS, PROGRAMS

    waiting: tuple[Finding, ...] = ()
    if pods.meant(names) and not netns:
        chosen, waiting = _pods(names or [], settings)
    else:
        chosen = _chosen(names, netns, file, settings)
    node = Node(
        machine=lambda: _machine(len(chosen)),
        configurations=cni_conf_dir or CONFIGURATIONS,
        programs=cni_bin_dir or PROGRAMS,
    )
    found = examine(chosen, node).with_findings(waiting)
    if output is Output.JSON:
        print(json.dumps(_document(found), indent=2))
    else:
        _print(found)
    raise typer.Exit(found.code)


def _chosen(
    names: list[str] | None, netns: list[str] | None, file: Path | None, settings: list[str] | None
) -> "tuple[Target, ...]":
    from agent.cli.options import daemons_file
    from agent.sources import DEFAULT_FILE

    if names or netns or file or daemons_file() or DEFAULT_FILE.exists():
        return targets(names, netns, file, settings, empty=True)
    if settings:  # which are of the node itself, then
        return targets(None, ["host"], None, settings)
    return ()


def _pods(names: list[str], settings: list[str] | None) -> "tuple[tuple[Target, ...], tuple[Finding, ...]]":
    """Return the pods that can be examined as targets, and what the daemon says of those that aren't captured."""
    from agent.cli.options import settings_given, with_settings
    from agent.doctor import Finding, Level

    documents = pods.documents(names)
    found = [each for each in map(pods.target, documents) if each is not None]
    said = tuple(
        Finding(
            check="pod",
            where=pods.called(each),
            level=Level.NOTE if pods.text(each, "step") == "outside" else Level.WARNING,
            what=f"{pods.text(each, 'step')}: {pods.text(each, 'reason')}",
            why="its connections don't go to the proxy; its namespace is examined for as long as it is to be captured",
            do=pods.text(each, "hint") or f"`weir status {pods.called(each)}` shows who decided, and what it waits for",
        )
        for each in documents
        if each.get("captured") is not True
    )
    return with_settings(tuple(found), settings_given(settings)), said


def _machine(count: int) -> "Machine":
    from agent.daemon.saved import files_naming_our_tables
    from agent.doctor import machine
    from agent.local_api import Client
    from agent.migration.journal import Journal
    from agent.state import run_directory

    client = Client()
    try:
        daemon = client.process() if client.is_there() else 0
    except WeirError:
        daemon = 0
    return machine.read(
        daemon=daemon or 0,
        targets=count,
        saved=files_naming_our_tables(),
        unfinished=Journal(run_directory()).unfinished(),
    )


def _document(found: "Diagnosis") -> dict[str, object]:
    from agent.doctor import Level

    return {
        "findings": [each.document() for each in found.findings],
        "errors": found.count(Level.ERROR),
        "warnings": found.count(Level.WARNING),
        "unchecked": found.count(Level.UNCHECKED),
        "notes": found.count(Level.NOTE),
        "examined": list(found.examined),
        "checks": found.checks,
    }


def _print(found: "Diagnosis") -> None:
    from agent.cli.failing import clean
    from agent.doctor import Level
    from agent.words import counted

    numbers = [
        counted(found.count(Level.ERROR), "error"),
        counted(found.count(Level.WARNING), "warning"),
        *([f"{found.count(Level.UNCHECKED)} unchecked"] if found.count(Level.UNCHECKED) else []),
        counted(found.count(Level.NOTE), "note"),
    ]
    others = len(found.examined) - 1
    whole = "the node" + (f" and {counted(others, 'target')}" if others else "")
    good = "" if found.code else "all is well: "
    print(f"{good}{', '.join(numbers)} in {counted(found.checks, 'check')} of {whole}")
    for each in found.findings:
        print()
        _one(each)
    unroot = f"; as root, `sudo weir doctor` checks the rest (this is user {os.geteuid()})" if os.geteuid() else ""
    if found.findings:
        first = found.findings[0]
        last = f"first: {first.command or first.do}" if found.code else "nothing has to be done"
        print(clean(f"\n{last}{unroot}"))


def _one(finding: "Finding") -> None:
    from agent.cli.failing import clean

    level = f"{finding.level:<9}"
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb" or not sys.stdout.isatty()
    head = level if plain else typer.style(level, fg=_COLOURS[finding.level] or None)
    print(head, clean(f"{finding.where}: {finding.check}: {finding.what}").replace("\n", " "))
    for text in (finding.why, finding.do, f"$ {finding.command}" if finding.command else ""):
        if text:
            print(f"          {clean(text)}")
