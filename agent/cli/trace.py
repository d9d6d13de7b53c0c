"""`weir trace`: connections as they come, and the rules that each meets; or the time that those take."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Unfinished
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from agent.cli import pods, trace_time
from agent.cli.options import File, OneNetns, Output, OutputOption, add, need_root, only, seconds, targets
from agent.errors import NamespaceMissing

if TYPE_CHECKING:
    from agent.targets import Target
    from agent.trace.connections import Connection, Summary
    from agent.trace.session import Asked

T = TypeVar("T")

_INTERRUPTED = 130
_SECONDS, _RATE = 10.0, 20
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
        float | None,
        typer.Option(
            "--for",
            metavar="SECONDS",
            min=0.1,
            help=f"How long to look: {_SECONDS:g} by default, {trace_time.SECONDS:g} with --time.",
            callback=seconds,
            show_default=False,
        ),
    ] = None,
    rate: Annotated[
        int | None,
        typer.Option(
            "--rate",
            metavar="N",
            min=1,
            max=_MOST_RATE,
            help=f"Packets a second that are traced at most: {_RATE} by default.",
            show_default=False,
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", metavar="N", min=1, help="End after so many connections.")
    ] = None,
    timed: Annotated[
        bool, typer.Option("--time", help="Measure instead how long packets are in each of Weir's chains.")
    ] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show live connections and the rules that each meets, in order, whosever they are.

    For a short time the kernel tells of the packets that open connections and fit the filter: each rule that matched,
    by the slug of Weir's or the text of others', each policy that decided, marks, translations and what came of it. The
    rule that asks for that stands in a table of its own, which goes with this process however that ends, and limits by
    itself how many packets are traced. Weir's own table is not touched.

    With --time every packet is measured for a moment, by two BPF programs before and behind each of Weir's chains.
    They go with this process, too. What stands just there of others is measured with it, and named.
    """
    from agent.trace.filter import parse
    from agent.trace.session import Asked

    need_root("trace")
    words = list(filter or ())
    if netns and target:
        words.insert(0, target)  # the namespace is named already, so the first word is the filter's
    if timed:
        trace_time.refuse(words, rate=rate, count=count)
    wanted = parse(words)
    chosen = _chosen(None if netns else target, netns, file)
    if timed:
        measured = trace_time.SECONDS if time is None else time
        timing, code = _run(lambda stop: trace_time.timed(chosen, measured, output, stop))
        trace_time.tell(timing, output)
    else:
        asked = Asked(filter=wanted, seconds=time or _SECONDS, rate=rate or _RATE, count=count)
        summary, code = _run(lambda stop: _traced(chosen, asked, output, stop))
        _end(summary, output)
    raise typer.Exit(code)


def _chosen(target: str | None, netns: list[str] | None, file: Path | None) -> "Target":
    if target is not None and pods.meant([target]):
        found = pods.target(pods.documents([target])[0])
        if found is None:
            raise NamespaceMissing(f"target {target!r}: the daemon knows no namespace of it yet")
        return found
    return only("trace", targets([target] if target else None, netns, file, None))


def _run(work: Callable[[threading.Event], T]) -> tuple[T, int]:
    """Return what it came to, and the exit code; the main thread stays where it is, and hears of Ctrl-C."""
    stop = threading.Event()
    worker = ThreadPoolExecutor(1, "kernel")
    running = worker.submit(work, stop)
    try:
        return _waited(running), 0
    except KeyboardInterrupt:
        stop.set()
        return _waited(running), _INTERRUPTED
    finally:
        worker.shutdown(wait=False, cancel_futures=True)


def _waited(running: Future[T]) -> T:
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
