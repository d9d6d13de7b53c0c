"""`weir doctor`: what is wrong with this node and its targets, why it matters and what to do."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
            "--cni-conf-dir", metavar="FOLDER", readable=False, help="Where the runtime reads networks; /etc/cni/net.d."
        ),
    ] = None,
    cni_bin_dir: Annotated[
        Path | None,
        typer.Option("--cni-bin-dir", metavar="FOLDER", readable=False, help="Where plugins are; /opt/cni/bin."),
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Examine this node, and targets: what is in the way of a capture, why it matters, what to do.

    Changes nothing. The kernel's features are tried in a namespace that is thrown away. Without a target the node is
    examined, and the targets of the file or the daemon where there are some. Without root it checks what it can, and
    says what it couldn't.
    """
    from agent.doctor import Node, examine
    from agent.doctor.chain import CONFIGURATIONS, PROGRAMS

    chosen = _chosen(names, netns, file, settings)
    node = Node(
        machine=lambda: _machine(len(chosen)),
        configurations=cni_conf_dir or CONFIGURATIONS,
        programs=cni_bin_dir or PROGRAMS,
    )
    found = examine(chosen, node)
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
        return targets(names, netns, file, settings)
    if settings:  # which are of the node itself, then
        return targets(None, ["host"], None, settings)
    return ()


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
