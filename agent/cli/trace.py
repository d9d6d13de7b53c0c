"""`weir trace`: connections as they come, and the rules that each meets."""

import json
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Unfinished
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli import pods
from agent.cli.options import File, OneNetns, Output, OutputOption, add, need_root, only, seconds, targets
from agent.errors import NamespaceMissing

if TYPE_CHECKING:
    from agent.targets import Target
    from agent.trace.connections import Connection, Summary
    from agent.trace.session import Asked

_INTERRUPTED = 130
_MOST_RATE = 10_000  # packets a second of a rule: Python decodes 100,000 events a second at best, ten to a packet


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    add(app, trace)


def trace(
    target: Annotated[str | None, typer.Argument(metavar="[TARGET]", hidden=True)] = None,
    filter: Annotated[  # noqa: A002 (the argument's name)
        list[str] | None, typer.Argument(metavar="[FILTER]...", hidden=True)
    ] = None,
    netns: OneNetns = None,
    file: File = None,
    time: Annotated[
        float, typer.Option("--for", metavar="SECONDS", min=0.1, help="How long to look.", callback=seconds)
    ] = 10.0,
    rate: Annotated[
        int,
        typer.Option("--rate", metavar="N", min=1, max=_MOST_RATE, help="Packets a second that are traced at most."),
    ] = 20,
    count: Annotated[
        int | None, typer.Option("--count", metavar="N", min=1, help="End after so many connections.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show live connections and the rules that each meets, in order, whosever they are.

    For a short time the kernel tells of the packets that open connections and fit the filter: each rule that matched,
    by the slug of Weir's or the text of others', each policy that decided, marks, translations and what came of it. The
    rule that asks for that stands in a table of its own, which goes with this process however that ends, and limits by
    itself how many packets are traced. Weir's own table is not touched.
    """
    from agent.trace.filter import parse
    from agent.trace.session import Asked

    need_root("trace")
    words = list(filter or ())
    if netns and target:
        words.insert(0, target)  # the namespace is named already, so the first word is the filter's
    wanted = parse(words)
    chosen = _chosen(None if netns else target, netns, file)
    asked = Asked(filter=wanted, seconds=time, rate=rate, count=count)
    summary, code = _run(chosen, asked, output)
    _end(summary, output)
    raise typer.Exit(code)


def _chosen(target: str | None, netns: list[str] | None, file: Path | None) -> "Target":
    if target is not None and pods.meant([target]):
        found = pods.target(pods.documents([target])[0])
        if found is None:
            raise NamespaceMissing(f"target {target!r}: the daemon knows no namespace of it yet")
        return found
    return only("trace", targets([target] if target else None, netns, file, None))


def _run(target: "Target", asked: "Asked", output: Output) -> "tuple[Summary, int]":
    """Return what it came to, and the exit code; the main thread stays where it is, and hears of Ctrl-C."""
    stop = threading.Event()
    worker = ThreadPoolExecutor(1, "kernel")
    running = worker.submit(_traced, target, asked, output, stop)
    try:
        return _waited(running), 0
    except KeyboardInterrupt:
        stop.set()
        return _waited(running), _INTERRUPTED
    finally:
        worker.shutdown(wait=False, cancel_futures=True)


def _waited(running: "Future[Summary]") -> "Summary":
    while True:
        try:
            return running.result(0.5)
        except Unfinished:
            if running.done():
                raise


def _traced(target: "Target", asked: "Asked", output: Output, stop: threading.Event) -> "Summary":
    from agent.kernel.handle import Handle
    from agent.kernel.netns import Netns
    from agent.trace.session import trace as run

    def tell(connection: "Connection") -> None:
        _tell(connection, output)

    def ready() -> None:
        if output is Output.TEXT:
            print(f"{target.name}: tracing for {asked.seconds:g} s, {asked.rate} packets a second at most", flush=True)

    handle = Handle(Netns(target.netns))
    try:
        return run(handle, asked, tell=tell, ready=ready, stop=stop)
    except NamespaceMissing as error:
        raise NamespaceMissing(f"target {target.name!r}: {error}", hint=error.hint) from None
    finally:
        handle.close()


def _tell(connection: "Connection", output: Output) -> None:
    from agent.trace.connections import document, lines

    if output is Output.JSON:
        print(json.dumps({"connection": document(connection)}), flush=True)
    else:
        print("\n" + "\n".join(lines(connection)), flush=True)


def _end(summary: "Summary", output: Output) -> None:
    if output is Output.JSON:
        print(json.dumps({"summary": summary.document()}), flush=True)
    else:
        print(f"\n{summary.text()}", flush=True)
