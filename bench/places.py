"""Namespaces to measure in: made many at a time, used once, and gone before the next ones are made."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Self

from netns_tests.daemon import links, tie
from netns_tests.namespace import Namespace

_MAKERS = 4
_LONGEST_WAIT = 60.0
_REST = 0.05  # seconds; what the kernel puts off when a namespace has gone is over by then


class Supply:
    """Fresh namespaces, which are deleted with the process even when it is killed (`netns_tests.namespace`)."""

    def __init__(self, workers: ThreadPoolExecutor, watch: Namespace) -> None:
        self._workers = workers
        self._watch = watch
        self._fresh: list[Namespace] = []
        self._used: list[Namespace] = []

    @classmethod
    @contextmanager
    def opened(cls) -> Iterator[Self]:
        """Be able to make namespaces until the block ends."""
        with ThreadPoolExecutor(_MAKERS) as workers, Namespace.create("watch") as watch:
            supply = cls(workers, watch)
            try:
                yield supply
            finally:
                supply.clear()

    def next(self) -> Namespace:
        """Return a namespace that nobody has used, with `lo` up."""
        namespace = self._fresh.pop()
        self._used.append(namespace)
        return namespace

    def take(self, count: int) -> list[Namespace]:
        """Return as many of them."""
        return [self.next() for _ in range(count)]

    def ensure(self, count: int, batch: int) -> None:
        """Have at least `count` fresh ones; where there are fewer, let go of the used and make a `batch`."""
        if len(self._fresh) < count:
            self._let_go(self._used)
            self._used = []
            self._fresh += self._workers.map(Namespace.create, ["bench"] * max(batch, count))
            time.sleep(_REST)

    def clear(self) -> None:
        """Let go of all."""
        for namespace in (*self._used, *self._fresh):
            namespace.delete()
        self._used, self._fresh = [], []

    def _let_go(self, namespaces: list[Namespace]) -> None:
        """Delete namespaces and wait until the kernel has cleared them away, which it does later, one by one."""
        if not namespaces:
            return
        tie(self._watch, namespaces[-1:])
        for namespace in namespaces:
            namespace.delete()
        deadline = time.monotonic() + _LONGEST_WAIT
        while links(self._watch):  # the end of a link goes with the namespace of the other; the last one goes last
            if time.monotonic() > deadline:
                raise RuntimeError("a namespace was deleted and is still there: something holds it open")
            time.sleep(_REST)
