"""The command that watches: top."""

import os
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.options import Output, OutputOption, add, need_root, seconds
from agent.cli.top_rows import Row, Sort, ordered, rows, summary
from agent.errors import ConfigError, WeirError

if TYPE_CHECKING:
    from agent.local_api import Client


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    add(app, top)


def top(
    sort: Annotated[
        Sort, typer.Option("--sort", metavar="COLUMN", help=f"What comes first: {', '.join(Sort)}. A key changes it.")
    ] = Sort.STATE,
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    interval: Annotated[
        float,
        typer.Option(min=0.2, callback=seconds, metavar="SECONDS", help="Time between two frames."),
    ] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="One frame, as text; so it is, too, where the output is no terminal.")
    ] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Watch targets: which are captured, how many connections they have, how fast they change.

    Figures come from the running daemon; rates are between two frames, and --once waits for the second. On a node of
    Kubernetes the targets are its pods. CONN and DIRECT are connections that the kernel tracks and those of them that
    don't go to the proxy, INVALID packets that it could not place; a dash is what isn't known. NEW/s are connections
    that begin captured, PKT/s packets that met Weir's rules. DRIFT is how often others changed what Weir had written
    (the newest eight are remembered), APPLY how often it was written since the daemon has started.
    """
    from agent.local_api import Client

    need_root("top")
    client = Client()
    if not client.is_there():
        raise ConfigError("no daemon is running: nobody counts", hint="`systemctl start weir`, or `weir daemon`")
    if output is Output.JSON:
        _documents(client, sort, reverse=reverse, interval=interval, once=once)
    elif once or not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        _one_frame(client, sort, reverse=reverse, interval=interval)
    else:
        raise typer.Exit(_live(client, sort, reverse=reverse, interval=interval))


def _live(client: "Client", sort: Sort, *, reverse: bool, interval: float) -> int:
    from agent.cli.top_screen import watch
    from agent.cli.top_table import View

    readings = _Readings(client)
    readings.read()  # where the daemon has nothing to say, the terminal stays as it is

    def read() -> tuple[tuple[Row, ...], str]:
        try:
            return readings.read(), ""
        except WeirError:  # it may be starting again
            return readings.newest, "the daemon gives no answer"

    return watch(read, View(sort=sort, reverse=reverse), interval)


def _one_frame(client: "Client", sort: Sort, *, reverse: bool, interval: float) -> None:
    from agent.cli import show
    from agent.cli.top_table import cells, headings

    readings = _Readings(client)
    readings.read()
    time.sleep(interval)
    found = ordered(readings.read(), sort, reverse=reverse)
    print(summary(found))
    columns = headings(1000, max((len(row.target) for row in found), default=0))
    table = [(tuple(cell.strip() for cell in cells(row, columns)), _colour(row)) for row in found]
    show.aligned(tuple(heading for heading, _, _ in columns), table, right=tuple(range(2, len(columns))))


def _colour(row: Row) -> str:
    return "green" if row.captured else "yellow"


def _documents(client: "Client", sort: Sort, *, reverse: bool, interval: float, once: bool) -> None:
    """Print a document for each frame, each on a line; for ever, or until nobody reads."""
    import json

    readings = _Readings(client)
    readings.read()
    while True:
        time.sleep(interval)
        found = ordered(readings.read(), sort, reverse=reverse)
        document = {
            "at": round(time.time(), 3),
            "seconds": round(readings.seconds, 3),
            "targets": [row.document() for row in found],
        }
        try:
            print(json.dumps(document), flush=True)
        except BrokenPipeError:  # whoever reads has seen enough
            return
        if once:
            return


class _Readings:
    """The newest reading of the daemon's figures, and the one before."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._before: dict[str, object] | None = None
        self._at = time.monotonic()
        self.seconds = 0.0  # between the newest two
        self.newest: tuple[Row, ...] = ()

    def read(self) -> tuple[Row, ...]:
        """Read anew. Raises `DaemonError`."""
        status = self._client.status(figures=True)
        now = time.monotonic()
        self.seconds, self._at = now - self._at, now
        self.newest, self._before = rows(status, self._before), status
        return self.newest
