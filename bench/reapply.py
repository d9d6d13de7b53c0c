"""``reapply``: all of a table's rules written anew, while streams go on."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from itertools import cycle

import nftables

from bench import peers
from bench.floor import Floor
from bench.report import Goal, Report, again
from bench.sampling import Variant, cold, interleaved, timed
from bench.weir import CAPTURE, FRESH, RULES, Worker, encoded, end_acknowledged, opened
from netns_tests.namespace import Namespace
from rulesets import nft, pod
from rulesets.capture import Capture
from rulesets.diff import diff
from rulesets.model import Ruleset

ROUNDS, TURN = 30, 6
ABOUT = "the default table written anew in one transaction, from Ruleset to acknowledged, on a kept socket"

WEIR, FLOOR = "Weir", "floor: C, same bytes"
IN_PROCESS, ONE_FORK = "libnftables, context kept", "one fork: nft -f -"
# It changes to and fro between two tables that differ in a port.
OTHER = pod.build(Capture.parse({"outbound_port": CAPTURE.outbound_port + 10}))
TURNS = (diff(RULES, OTHER), diff(OTHER, RULES))


def run(rounds: int) -> Report:
    """Take the samples. Each variant has a namespace of its own, where it wrote all that is there."""
    end = end_acknowledged()
    with ExitStack() as stack:
        worker = stack.enter_context(Worker.started())
        batches = encoded(FRESH, end=end), *(encoded(turn, end=end) for turn in TURNS)
        floors = [stack.enter_context(Floor.started(batches)) for _ in range(2)]

        def namespace() -> Namespace:
            return stack.enter_context(Namespace.create("bench"))

        variants = [
            _weir(WEIR, namespace(), worker, stack),
            _weir(again(WEIR), namespace(), worker, stack),
            _floor(FLOOR, namespace(), floors[0]),
            _floor(again(FLOOR), namespace(), floors[1]),
            _texts(IN_PROCESS, _context(namespace())),
            _texts(ONE_FORK, _fork(namespace())),
        ]
        found = interleaved(variants, rounds, turn=TURN)
    p50 = {name: each.p50 for name, each in found.items()}
    left_out = {cold(name) for name in found} - {cold(WEIR), cold(FLOOR)}
    return Report(
        bench="reapply",
        about=ABOUT,
        subject=WEIR,
        results=tuple(each for name, each in found.items() if name not in left_out),
        goals=(Goal(what="Weir against one fork", found=p50[WEIR] / p50[ONE_FORK], wanted=1 / 20),),
        twins=((WEIR, again(WEIR)), (FLOOR, again(FLOOR))),
        parts=frozenset({cold(WEIR), cold(FLOOR)}),
    )


def rewriting(ruleset: Ruleset) -> str:
    """Return what has nft write a table anew: as programs do that start it, whatever was there before."""
    table = f"table inet {ruleset.table}"
    return f"add {table}\nflush {table}\n{nft.render(ruleset)}"


def _weir(name: str, namespace: Namespace, worker: Worker, stack: ExitStack) -> Variant:
    handle = opened(namespace)
    stack.callback(handle.close)
    worker.run(lambda: handle.read(RULES.table))  # the daemon has looked before it writes
    worker.run(lambda: handle.apply(FRESH))
    turns = cycle(TURNS)

    def sample() -> Mapping[str, float]:
        turn = next(turns)
        return {name: worker.run(lambda: timed(lambda: handle.apply(turn))[0])}

    return sample


def _floor(name: str, namespace: Namespace, floor: Floor) -> Variant:
    floor.kept(namespace.path, 0)
    turns = cycle((1, 2))

    def sample() -> Mapping[str, float]:
        parts = floor.again(next(turns))
        return {name: parts["send"] + parts["answer"]}

    return sample


def _texts(name: str, load: Callable[[str], float]) -> Variant:
    load(rewriting(RULES))
    turns = cycle(rewriting(each) for each in (OTHER, RULES))
    return lambda: {name: load(next(turns))}


def _context(namespace: Namespace) -> Callable[[str], float]:
    context = namespace.run(nftables.Nftables)

    def load(text: str) -> float:
        seconds, (code, _, said) = timed(lambda: context.cmd(text))
        if code:
            raise RuntimeError(said)
        return seconds

    return load


def _fork(namespace: Namespace) -> Callable[[str], float]:
    return lambda text: peers.nft(text)(namespace)
