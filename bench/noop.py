"""``noop``: looking whether anything has changed, where nothing has."""

from collections.abc import Mapping
from contextlib import ExitStack

import nftables

from bench import peers
from bench.report import Goal, Report, again
from bench.sampling import Variant, interleaved, timed
from bench.weir import FRESH, RULES, Worker, opened
from netns_tests.namespace import Namespace

ROUNDS = 60
NAMESPACES = 500
FEWER = 5  # what lists all rules gets fewer, and what it takes is counted as for all

WEIR, GENERATION = "Weir", "Weir, generation alone"
IN_PROCESS, ONE_FORK = "libnftables, context kept", "one fork: nft -j list table"
_LIST = f"list table inet {RULES.table}"


def run(rounds: int, namespaces: int = NAMESPACES) -> Report:
    """Take the samples, each of all namespaces."""
    with ExitStack() as stack:
        worker = stack.enter_context(Worker.started())
        made = [stack.enter_context(Namespace.create("bench")) for _ in range(namespaces)]
        handles = [opened(each) for each in made]
        for handle in handles:
            stack.callback(handle.close)
            worker.run(lambda handle=handle: (handle.read(RULES.table), handle.apply(FRESH)))  # type: ignore[misc]
            assert handle.look(RULES.table) == RULES

        def weir(name: str) -> Variant:
            def look() -> None:
                for handle in handles:
                    handle.look(RULES.table)

            return lambda: {name: worker.run(lambda: timed(look)[0])}

        def generations() -> None:
            for handle in handles:
                handle.generation()

        listed = made[: min(FEWER, namespaces)]
        scale = namespaces / len(listed)
        contexts = [each.run(nftables.Nftables) for each in listed]

        def lists() -> Mapping[str, float]:
            return {IN_PROCESS: timed(lambda: [each.cmd(_LIST) for each in contexts])[0] * scale}

        fork = peers.forks([(("nft", "-j", *_LIST.split()), b"")])
        variants = [
            weir(WEIR),
            weir(again(WEIR)),
            lambda: {GENERATION: worker.run(lambda: timed(generations)[0])},
            lists,
            lambda: {ONE_FORK: sum(map(fork, listed)) * scale},
        ]
        found = interleaved(variants, rounds)
    most = 10 * namespaces / NAMESPACES
    return Report(
        bench="noop",
        about=f"{namespaces} looks at namespaces that are as wanted",
        subject=WEIR,
        results=tuple(found.values()),
        goals=(Goal(what=f"{namespaces} looks", found=found[WEIR].p50 * 1e3, wanted=most, unit="ms"),),
        twins=((WEIR, again(WEIR)),),
        parts=frozenset({GENERATION}),
        notes=(f"libnftables and nft: measured with {len(listed)} namespaces, counted for {namespaces}",),
    )
