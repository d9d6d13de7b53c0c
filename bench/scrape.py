"""``scrape``: what it takes of a processor to read the connections of many namespaces, as Prometheus' question does."""

import resource
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack
from shutil import which

from agent.flows.kept import stats_of
from agent.flows.scraping import Scraping, Subject
from agent.kernel.handle import Handle
from agent.kernel.rawnetlink import NETLINK_NETFILTER
from bench import peers
from bench.flooding import messages
from bench.report import Goal, Report, again
from bench.sampling import Variant, interleaved
from bench.weir import CAPTURE, FRESH, Worker, opened
from netns_tests.namespace import Namespace

ROUNDS = 15
NAMESPACES = 500
FEWER = 10  # what forks gets fewer, and what it takes is counted as for all

WEIR, COUNTS = "Weir", "Weir, counts alone"
ONE_FORK, CONNTRACK = "one fork: nft -j list ruleset", "one fork: conntrack -S"


def run(rounds: int, namespaces: int = NAMESPACES) -> Report:
    """Take the samples, seconds of a processor, each of all namespaces; every one has rules and tracked connections."""
    with ExitStack() as stack:
        worker = stack.enter_context(Worker.started())
        made = [stack.enter_context(Namespace.create("bench")) for _ in range(namespaces)]
        subjects = []
        for each in made:
            handle = opened(each)
            stack.callback(handle.close)
            worker.run(lambda handle=handle: handle.apply(FRESH))  # type: ignore[misc]
            subjects.append(Subject(name=each.name, handle=handle, capture=CAPTURE))
            worker.run(lambda handle=handle: _connect(handle))  # type: ignore[misc]

        def weir(name: str) -> Variant:
            scraping = Scraping()

            def read() -> float:
                time.sleep(1.1)  # what was read a moment ago isn't read again
                started = time.thread_time()
                scraping.begin(subjects)
                while scraping.step():
                    pass
                assert len(scraping.readings()) == namespaces
                return time.thread_time() - started

            return lambda: {name: worker.run(read)}

        def counts() -> Mapping[str, float]:
            def read() -> float:
                started = time.thread_time()
                for each in subjects:
                    stats_of(each.handle)
                return time.thread_time() - started

            return {COUNTS: worker.run(read)}

        listed = made[: min(FEWER, namespaces)]
        scale = namespaces / len(listed)

        def forked(name: str, *argv: str) -> Variant:
            fork = peers.forks([(argv, b"")])

            def all_of_them() -> Mapping[str, float]:
                before = _spent()
                for each in listed:
                    fork(each)
                return {name: (_spent() - before) * scale}

            return all_of_them

        variants = [
            weir(WEIR),
            weir(again(WEIR)),
            counts,
            forked(ONE_FORK, "nft", "-j", "list", "ruleset"),
        ]
        if which("conntrack"):
            variants.append(forked(CONNTRACK, "conntrack", "-S"))
        found = interleaved(variants, rounds)
    return Report(
        bench="scrape",
        about=f"the connections of {namespaces} namespaces, in a processor's time",
        subject=WEIR,
        results=tuple(found.values()),
        goals=(
            Goal(what=f"{namespaces} namespaces", found=found[WEIR].p50 * 1e3, wanted=60 * namespaces / 500, unit="ms"),
            Goal(
                what="Weir against a fork of nft for each", found=found[WEIR].p50 / found[ONE_FORK].p50, wanted=1 / 60
            ),
        ),
        twins=((WEIR, again(WEIR)),),
        parts=frozenset({COUNTS}),
        notes=(f"forks: measured with {len(listed)} namespaces, counted for {namespaces}",),
    )


def _connect(handle: Handle) -> None:
    """Have conntrack know a few connections, so that their namespace is worth a look."""
    made, _ = messages(0, 4)
    with handle.inside(), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
        netlink.send(made)


def _spent() -> float:
    """Return the seconds of a processor that this process and those that it waited for have taken."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)
