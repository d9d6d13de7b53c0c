"""``events``: 50,000 connections' beginnings and ends a second, heard and counted, with none lost."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from shutil import which

from agent.flows.listener import Listener
from agent.flows.scraping import Subject
from bench.flooding import BATCH
from bench.report import Goal, Report, again
from bench.sampling import Variant, interleaved
from bench.weir import CAPTURE, Worker, opened
from netns_tests.namespace import Namespace

ROUNDS = 5
RATE = 50_000
_PATIENCE = 60.0  # seconds for what was sent to be counted
WEIR, PEER = "Weir", "conntrack -E"


def run(rounds: int, seconds: float = 2.0) -> Report:
    """Take the samples: seconds of a processor for what comes in one second."""
    turns = max(1, int(RATE * seconds / (2 * BATCH)))
    lost: list[int] = []
    rates: list[float] = []
    with ExitStack() as stack:
        worker = stack.enter_context(Worker.started())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weir-bench-")))

        def weir(name: str) -> Variant:
            def sample() -> Mapping[str, float]:
                with Namespace.create("bench") as namespace:
                    handle, listener = opened(namespace), Listener(directory)
                    subject = Subject(name="bench", handle=handle, capture=CAPTURE)
                    try:
                        worker.run(lambda: listener.follow([subject]))
                        worker.run(listener.totals)  # it has begun
                        pid = listener.pid or 0
                        before = _processor(pid)
                        rates.append(_flooded(namespace, turns))
                        lost.append(_counted(worker, listener, 2 * BATCH * turns))
                        return {name: (_processor(pid) - before) / seconds}
                    finally:
                        worker.run(listener.close)
                        handle.close()

            return sample

        variants = [weir(WEIR), weir(again(WEIR))]
        if which("conntrack"):
            variants.append(lambda: {PEER: _peer(turns) / seconds})
        found = interleaved(variants, rounds)
    return Report(
        bench="events",
        about=f"a processor's time for {RATE} events of connections, which come in a second",
        subject=WEIR,
        results=tuple(found.values()),
        goals=(
            Goal(what="events lost", found=float(sum(lost)), wanted=0.0, unit="events"),
            Goal(what="of a processor, at that rate", found=found[WEIR].p50, wanted=0.6, unit="s"),
            Goal(
                what="events that came in a second", found=min(rates), wanted=0.9 * RATE, at_least=True, unit="events"
            ),
        ),
        twins=((WEIR, again(WEIR)),),
        notes=() if which("conntrack") else ("conntrack(8) isn't here to be compared with",),
    )


def _flooded(namespace: Namespace, turns: int) -> float:
    """Make and forget connections at the rate; return at which rate it went."""
    argv = [sys.executable, "-m", "bench.flooding", str(turns), str(RATE)]
    process = namespace.spawn(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    process.stdout.readline()
    process.stdin.write(b"\n")
    process.stdin.flush()
    return 2 * BATCH * turns / float(process.stdout.readline())


def _counted(worker: Worker, listener: Listener, events: int) -> int:
    """Return how many events were lost, once all have been counted or lost."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        totals = worker.run(listener.totals)["bench"]
        if sum(totals.events.values()) + totals.lost >= events:
            return totals.lost
        if time.monotonic() > deadline:
            raise RuntimeError(f"{events} events came, and this was counted: {totals.document()}")
        time.sleep(0.2)


def _peer(turns: int) -> float:
    """Return what conntrack(8) takes to print the same events to nowhere, with as large a buffer."""
    with Namespace.create("bench") as namespace:
        argv = ["conntrack", "-E", "-e", "NEW,DESTROY", "-b", str(2**25)]
        process = namespace.spawn(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        before = _processor(process.pid)
        _flooded(namespace, turns)
        last = -1.0
        while (now := _processor(process.pid)) != last:
            last = now
            time.sleep(0.3)
        return now - before


def _processor(pid: int) -> float:
    """Return the seconds of a processor that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
