"""``sampling``: what it costs to have one connection in a thousand traced, heard of and counted, in one thread."""

import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from agent.kernel.handle import Handle
from agent.trace.sampling import Sampler
from bench.report import Goal, Report, again
from bench.sampling import Result, Variant, interleaved
from bench.weir import CAPTURE, FRESH, RULES, Worker, opened
from netns_tests.namespace import Namespace
from rulesets import pod
from rulesets.diff import diff
from rulesets.model import Ruleset

ROUNDS = 100
ONE_IN = 1000
EXCHANGES, CONNECTIONS = 2000, 300  # a sample of either kind takes 20 to 40 ms
PLAIN, SAMPLED = "not sampled", f"1 in {ONE_IN} sampled"
# One rule anywhere on the machine that may trace has the kernel prepare for it in every chain of every namespace (a
# static key, net/netfilter/nf_tables_core.c): sampling less doesn't save that.
ELSEWHERE = "another namespace sampled"
_TRACES = "add table t; add chain t c; add rule t c meta nftrace set 1"
EXCHANGED, CONNECTED = "exchanges on a flow", "connections"
RULES_SAMPLED = pod.build(CAPTURE.changed({"sample": ONE_IN}))


def run(rounds: int) -> Report:
    """Take the samples, all in one namespace, whose rules are changed in between, and on one processor."""
    with ExitStack() as stack:
        stack.enter_context(_on_one_processor())
        namespace = stack.enter_context(Namespace.create("bench"))
        worker = stack.enter_context(Worker.started())
        handle = opened(namespace)
        stack.callback(handle.close)
        worker.run(lambda: handle.read(RULES.table))
        worker.run(lambda: handle.apply(FRESH))
        sampler = stack.enter_context(worker.run(lambda: Sampler(handle, RULES.table)))
        switch = _Rules(handle, worker)
        other = stack.enter_context(Namespace.create("bench"))
        traffic = {EXCHANGED: _exchanges(namespace, stack), CONNECTED: _connections(namespace, stack)}

        def variant(kind: str, name: str, rules: Ruleset) -> Variant:
            elsewhere = _TRACES if name == ELSEWHERE else "add table t; delete table t"

            def work() -> None:
                traffic[kind]()
                if rules is RULES_SAMPLED:
                    sampler.hear()

            def sample() -> Mapping[str, float]:
                # Whatever was in force, both come to be, and what the kernel puts off until then is done.
                switch.to(RULES_SAMPLED if rules is RULES else RULES)
                switch.to(rules)
                other.command("nft", elsewhere)
                traffic[kind]()
                # The thread's own time: of what others do meanwhile only the caches' state remains.
                started = time.thread_time()
                work()
                taken = time.thread_time() - started
                other.command("nft", "add table t; delete table t")
                return {f"{kind}, {name}": taken}

            return sample

        ways = ((PLAIN, RULES), (again(PLAIN), RULES), (SAMPLED, RULES_SAMPLED), (ELSEWHERE, RULES))
        found = interleaved([variant(kind, *way) for kind in traffic for way in ways], rounds)
        lost = sampler.tallied.lost
    return Report(
        bench="sampling",
        about=f"{EXCHANGES} exchanges of datagrams, and {CONNECTIONS} connections, by loopback in a captured namespace",
        subject=f"{EXCHANGED}, {SAMPLED}",
        results=tuple(found.values()),
        goals=tuple(
            Goal(what=f"{kind}, sampled against {name}", found=_share(found, kind, name), wanted=1.01)
            for kind in traffic
            for name in (PLAIN, ELSEWHERE)
        ),
        twins=tuple((f"{kind}, {PLAIN}", f"{kind}, {again(PLAIN)}") for kind in traffic),
        parts=frozenset(f"{CONNECTED}, {name}" for name, _ in ways),
        notes=(
            *(
                f"{kind}: sampled takes {_share(found, kind, PLAIN):.4f} of {PLAIN}, and"
                f" {_share(found, kind, ELSEWHERE):.4f} of {ELSEWHERE}; A/A {_noise(found, kind):.4f}"
                for kind in traffic
            ),
            f"events lost: {lost}",
        ),
    )


def _share(found: Mapping[str, Result], kind: str, name: str) -> float:
    """Return what sampling takes of what another variant takes, in the quieter moments: others only ever add."""
    names = (PLAIN, again(PLAIN)) if name == PLAIN else (name,)
    return _quiet(found, kind, SAMPLED) / statistics.mean(_quiet(found, kind, each) for each in names)


def _noise(found: Mapping[str, Result], kind: str) -> float:
    return _quiet(found, kind, PLAIN) / _quiet(found, kind, again(PLAIN))


def _quiet(found: Mapping[str, Result], kind: str, name: str) -> float:
    """Return the sample that a tenth of a variant's are below."""
    samples = sorted(found[f"{kind}, {name}"].samples)
    return samples[len(samples) // 10]


class _Rules:
    """The rules that are in force."""

    def __init__(self, handle: Handle, worker: Worker) -> None:
        self._handle, self._worker, self._now = handle, worker, RULES

    def to(self, rules: Ruleset) -> None:
        """Write these, if others are there."""
        if rules is not self._now:
            plan = diff(self._now, rules)
            self._worker.run(lambda: self._handle.apply(plan))
            self._now = rules


def _exchanges(namespace: Namespace, stack: ExitStack) -> Callable[[], None]:
    one, other = (stack.enter_context(namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
    for each in (one, other):
        each.bind(("127.0.0.1", 0))
    one.connect(other.getsockname())
    other.connect(one.getsockname())

    def exchange() -> None:
        for _ in range(EXCHANGES):
            one.send(b"x")
            other.recv(1)
            other.send(b"x")
            one.recv(1)

    exchange()  # from here on the flow is established
    return exchange


def _connections(namespace: Namespace, stack: ExitStack) -> Callable[[], None]:
    listener = stack.enter_context(namespace.socket(socket.AF_INET))
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    place = listener.getsockname()
    reset = b"\1\0\0\0\0\0\0\0"  # struct linger: on, 0 s; no port stays behind in TIME_WAIT

    def connect() -> None:
        for client in clients:
            client.connect(place)
            accepted, _ = listener.accept()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            accepted.close()
            client.close()

    def batch() -> None:
        clients[:] = namespace.run(lambda: [socket.socket() for _ in range(CONNECTIONS)])
        connect()

    clients: list[socket.socket] = []
    return batch


@contextmanager
def _on_one_processor() -> Iterator[None]:
    """Stay on one processor: a packet is then processed by whoever sends it, and one thread's time is all there is."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
