"""``drift``: from somebody's flush of the rules in one of many namespaces until they are there again."""

import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import nftables

from agent.errors import KernelError
from agent.kernel.notifications import Change, of_tables
from agent.kernel.subscription import subscribed_to_rules
from bench.places import Supply
from bench.report import Goal, Report, again
from bench.sampling import Result, Variant, interleaved
from netns_tests.daemon import PROXY, Daemon, listening, targets
from netns_tests.namespace import Namespace

ROUNDS = 100
NAMESPACES = 100
FLUSHES = 1000
WEIR, MONITOR = "weir daemon", "nft monitor in each, and a forked nft -f"
_PATIENCE = 60.0  # seconds
_BETWEEN = 0.002  # seconds between two flushes of a storm, which else is over before anything is there to be flushed
_CALM = 0.25  # seconds between two damages: a target that was repaired rests for a tenth


def run(rounds: int, namespaces: int = NAMESPACES, flushes: int = FLUSHES) -> Report:
    """Take the samples: each is one flush, in a namespace chosen at random."""
    with ExitStack() as stack:
        supply = stack.enter_context(Supply.opened())
        supply.ensure(2 * namespaces, 2 * namespaces)
        ours, theirs = supply.take(namespaces), supply.take(namespaces)
        daemon = stack.enter_context(_daemon(ours))
        stack.enter_context(_monitor(ours[0], theirs))
        chance = random.Random(0)
        variants = [
            _variant(WEIR, ours, chance),
            _variant(again(WEIR), ours, chance),
            _variant(MONITOR, theirs, chance),
        ]
        found = interleaved(variants, rounds, warm_up=1)
        passes, seconds, cpu = _storm(daemon, ours[0], flushes)
    every = Result(name=WEIR, samples=found[WEIR].samples + found[again(WEIR)].samples)
    p99 = sorted(every.samples)[math.ceil(len(every.samples) * 0.99) - 1]
    return Report(
        bench="drift",
        about=f"from a flush of the rules in one of {namespaces} namespaces until they are there again",
        subject=WEIR,
        results=tuple(found.values()),
        goals=(
            Goal(what="repaired, p99", found=p99 * 1e3, wanted=200, unit="ms"),
            Goal(what=f"{WEIR} against {MONITOR}", found=every.p50 / found[MONITOR].p50, wanted=2),
            Goal(what=f"passes a second in a storm of {flushes} flushes", found=passes / seconds, wanted=12, unit="/s"),
        ),
        twins=((WEIR, again(WEIR)),),
        notes=(
            "it is detected sooner than repaired, so that the p99 holds for that as well",
            f"a storm of {flushes} flushes: {seconds:.2f} s, {passes:.0f} passes, {cpu:.2f} s of the daemon's CPU",
        ),
    )


@contextmanager
def _daemon(namespaces: Sequence[Namespace]) -> Iterator[Daemon]:
    """Have a daemon keep these, whose tables it doesn't own."""
    with ExitStack() as stack:
        for namespace in namespaces:
            for each in listening(namespace, *PROXY):
                stack.callback(each.close)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weir-bench-")))
        made = Daemon(directory, targets(namespaces), "--resync", "3600", "--no-own")
        daemon = stack.enter_context(made).start()
        daemon.eventually(lambda: set(daemon.states().values()) == {"unchanged"}, "all are captured", _PATIENCE)
        yield daemon


@contextmanager
def _monitor(like: Namespace, namespaces: Sequence[Namespace]) -> Iterator[None]:
    """Have the peer keep the table that one namespace has in these."""
    with tempfile.NamedTemporaryFile("w", prefix="weir-bench-") as file:
        file.write(like.command("nft", "-s", "list", "table", "inet", "weir-pod"))
        file.flush()
        for each in namespaces:
            each.command("nft", "-f", file.name)
        argv = [sys.executable, "-m", "bench.monitoring"]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(" ".join([file.name, *(each.name for each in namespaces)]) + "\n")
            process.stdin.flush()
            try:
                assert process.stdout.readline() == "ready\n"
                yield
            finally:
                process.terminate()


def _variant(name: str, namespaces: Sequence[Namespace], chance: random.Random) -> Variant:
    def sample() -> Mapping[str, float]:
        time.sleep(_CALM)
        return {name: chance.choice(namespaces).run(_repaired)}

    return sample


def _repaired() -> float:
    """Flush the calling thread's namespace; return the seconds from then until Weir's table is there again."""
    with subscribed_to_rules() as changes:
        changes.settimeout(_PATIENCE)
        began = time.perf_counter()
        code, _, said = nftables.Nftables().cmd("flush ruleset")
        assert code == 0, said
        while True:
            try:
                told = of_tables(changes.recv(65536))
            except KernelError:
                continue
            if any(isinstance(each, Change) and each.what == "table" and each.added for each in told):
                return time.perf_counter() - began


def _storm(daemon: Daemon, namespace: Namespace, flushes: int) -> tuple[float, float, float]:
    """Flush one namespace again and again; return the daemon's passes, the seconds, and its seconds of CPU."""

    def passes() -> float:
        return sum(value for (name, _), value in daemon.metrics().items() if name == "weir_passes_total")

    def flush() -> None:
        context = nftables.Nftables()
        for _ in range(flushes):
            context.cmd("flush ruleset")
            time.sleep(_BETWEEN)

    before, cpu, began = passes(), daemon.cpu(), time.monotonic()
    namespace.run(flush)
    seconds = time.monotonic() - began
    after = passes()
    daemon.eventually(lambda: daemon.state("t0") == "unchanged", "it is captured again", _PATIENCE)
    return after - before, seconds, daemon.cpu() - cpu
