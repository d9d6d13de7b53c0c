"""``scale``: a node that starts with all of its pods there already."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from agent.kernel import routing
from agent.kernel.handle import Handle
from bench import peers
from bench.floor import Floor, whole
from bench.places import Supply
from bench.report import Goal, Report, again
from bench.sampling import Variant, interleaved, timed
from bench.weir import FRESH, ROUTES, encoded, end_acknowledged, opened, routing_messages
from netns_tests.namespace import Namespace

ROUNDS = 7
NAMESPACES = 500
FORKED = 25  # the forked sequence is this slow: it gets fewer, and what it takes is counted as for all
ABOUT = f"{NAMESPACES} namespaces from nothing, rules and routes"

ONE, TWO, FOUR, FLOOR = "Weir, 1 worker", "Weir, 2 workers", "Weir, 4 workers", "floor: C, same bytes"
RULES_ONE, RULES_TWO = "Weir, rules alone, 1 worker", "Weir, rules alone, 2 workers"
C_ONE, C_TWO = "C, 1 process, asked by a pipe", "C, 2 processes, asked by pipes"
THREE_FORKS = "three forks: Istio with nft"


def run(rounds: int, namespaces: int = NAMESPACES, forked: int = FORKED) -> Report:
    """Take the samples, each of all namespaces."""
    batches = (encoded(FRESH, end=end_acknowledged()),)
    with (
        Supply.opened() as supply,
        Floor.started(batches, routing_messages()) as floor,
        Floor.started(batches, routing_messages()) as second,
    ):
        variants = [
            _weir(ONE, 1, supply, namespaces),
            _weir(again(ONE), 1, supply, namespaces),
            _weir(TWO, 2, supply, namespaces),
            _weir(FOUR, 4, supply, namespaces),
            _weir(RULES_ONE, 1, supply, namespaces, routes=False),
            _weir(RULES_TWO, 2, supply, namespaces, routes=False),
            lambda: {FLOOR: sum(map(whole, floor.each([each.path for each in supply.take(namespaces)])))},
            _processes(C_ONE, [floor], supply, namespaces),
            _processes(C_TWO, [floor, second], supply, namespaces),
            lambda: {THREE_FORKS: _forked(supply.take(forked)) * namespaces / forked},
        ]
        needed = 9 * namespaces + forked
        found = interleaved(variants, rounds, before=lambda: supply.ensure(needed, needed), warm_up=min(rounds - 1, 1))
    p50 = {name: each.p50 for name, each in found.items()}
    return Report(
        bench="scale",
        about=ABOUT.replace(str(NAMESPACES), str(namespaces)),
        subject=ONE,
        results=tuple(found.values()),
        goals=(
            Goal(what="Weir against three forks, 1 worker", found=p50[ONE] / p50[THREE_FORKS], wanted=1 / 40),
            Goal(what="how much faster 2 workers are than 1", found=p50[ONE] / p50[TWO], wanted=1.7, at_least=True),
            Goal(what="the same, rules alone", found=p50[RULES_ONE] / p50[RULES_TWO], wanted=1.7, at_least=True),
        ),
        twins=((ONE, again(ONE)),),
        parts=frozenset((RULES_ONE, RULES_TWO, C_ONE, C_TWO)),
        notes=(
            f"three forks: measured with {forked} namespaces, counted for {namespaces}; routes as Weir makes them",
            f"four workers, as the daemon has them, are {p50[ONE] / p50[FOUR]:.2f} times as fast as one",
            f"two processes in C are {p50[C_ONE] / p50[C_TWO]:.2f} times as fast as one",
        ),
    )


def _processes(name: str, floors: Sequence[Floor], supply: Supply, count: int) -> Variant:
    def sample() -> Mapping[str, float]:
        paths = [each.path for each in supply.take(count)]
        shares = [paths[number :: len(floors)] for number in range(len(floors))]
        with ThreadPoolExecutor(len(floors)) as pool:
            seconds, _ = timed(
                lambda: list(pool.map(lambda each: each[0].each(each[1]), zip(floors, shares, strict=True)))
            )
        return {name: seconds}

    return sample


def _weir(name: str, workers: int, supply: Supply, count: int, *, routes: bool = True) -> Variant:
    def sample() -> Mapping[str, float]:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda _: None, range(workers)))  # the threads are there, as in the daemon
            namespaces = supply.take(count)
            seconds, handles = timed(lambda: list(pool.map(_captured if routes else _with_rules, namespaces)))
            for handle in handles:
                handle.close()
        return {name: seconds}

    return sample


def _with_rules(namespace: Namespace) -> Handle:
    handle = opened(namespace)
    handle.apply(FRESH)
    return handle


def _captured(namespace: Namespace) -> Handle:
    """Write routes and rules, in the order in which the daemon does."""
    handle = opened(namespace)
    with handle.inside():
        routing.apply(ROUTES)
    handle.apply(FRESH)
    return handle


def _forked(namespaces: Sequence[Namespace]) -> float:
    write = peers.forks(peers.THREE_FORKS)
    return sum(write(each) + each.run(_routed) for each in namespaces)


def _routed() -> float:
    started = time.perf_counter()
    routing.apply(ROUTES)
    return time.perf_counter() - started
