"""The command that stays: daemon."""

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.options import add, need_root, seconds
from agent.observe import DEFAULT_LISTEN
from agent.sources import DEFAULT_FILE


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    add(app, daemon)


def daemon(
    file: Annotated[
        Path, typer.Option("--file", "-f", metavar="FILE", help="The target file, which is watched.")
    ] = DEFAULT_FILE,
    listen: Annotated[
        str,
        typer.Option(
            metavar="WHERE",
            help="Where /metrics, /healthz and /readyz are: ADDRESS:PORT on loopback, unix:/PATH, or none.",
        ),
    ] = DEFAULT_LISTEN,
    workers: Annotated[int, typer.Option(min=1, max=4, help="Threads that enter namespaces.")] = 2,
    resync: Annotated[
        float,
        typer.Option(
            min=1, callback=seconds, metavar="SECONDS", help="Time between two looks at a target where nothing changed."
        ),
    ] = 60.0,
    drain: Annotated[
        float,
        typer.Option(
            min=0,
            callback=seconds,
            metavar="SECONDS",
            help="Time for the captured streams of a target that left the file.",
        ),
    ] = 60.0,
    own: Annotated[
        bool,
        typer.Option(
            "--own/--no-own",
            help="Own the tables, so that nobody else can change them while the daemon runs (Linux 6.9 and later).",
        ),
    ] = True,
) -> None:
    """Keep the file's targets captured while everything around them changes.

    Watches the file (and reads it again on SIGHUP; a bad one changes nothing), namespaces that come and go, and what
    others do to rules and routes. Commands reach it on a unix socket in /run/weir (WEIR_RUN_DIR). Stopping it leaves
    traffic as it is: rules stay, and the next start takes them over.
    """
    need_root("daemon")
    import logging

    from agent.daemon.run import Settings, run
    from agent.observe.endpoints import parse_listen

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    settings = Settings(
        file=file.absolute(), listen=parse_listen(listen), workers=workers, resync=resync, drain=drain, own=own
    )
    run(settings)
