"""Streams that are open while a pod's rules change, and must not notice."""

import contextlib
import os
from typing import Self

from netns_tests.enrolling import every_way
from netns_tests.patience import slow
from netns_tests.stream import Stream
from netns_tests.tap import Tap
from netns_tests.world import Host, World

__all__ = ["LASTING", "LONG", "Streams"]

LONG = bool(os.environ.get("WEIR_LONG"))
LASTING = 60.0 if LONG else 15.0  # seconds
SECONDS = slow(3.0)
BUSY = 0.02  # seconds between two blocks


class Streams:
    """Streams each way over both families, some busy and some idle. Use it in a `with` block, then `finish` them."""

    def __init__(self, world: World, pod: Host, *, captured: bool) -> None:
        """Say what they are to be: those opened under somebody's rules are captured, those from before are direct."""
        self._world, self._pod, self._captured = world, pod, captured
        self._stack = contextlib.ExitStack()
        self._streams: list[Stream] = []
        self._tap: Tap

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for interval in (BUSY, None):
                self._streams += every_way(stack, self._world, self._pod, interval=interval)
            wrong = [each.local for each in self._streams if each.captured is not self._captured]
            assert not wrong, f"not {'captured' if self._captured else 'direct'} to begin with: {wrong}"
            ports = [port for each in self._streams for port in (each.local[1], each.target[1])]
            self._tap = stack.enter_context(Tap(self._pod, "eth0", only_from=ports))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def fare(self, seconds: float = SECONDS) -> dict[str, str]:
        """Return how those fare that are not alive, by their ends; empty when all are."""
        outcomes = {f"{each.local} to {each.target}": each.outcome(seconds) for each in self._streams}
        return {ends: outcome for ends, outcome in outcomes.items() if outcome != "alive"}

    def escaped(self) -> list[str]:
        """Return whose segments left the pod as they were, although the proxy carries them."""
        found = []
        for each in self._streams if self._captured else ():
            # What its client sends goes to the proxy, and what its application answers is for the proxy's own socket.
            for source, target in ((each.local, each.target), (each.target, each.seen)):
                if self._tap.payload(source=source, target=target) and source[0] in (self._pod.v4, self._pod.v6):
                    found.append(f"{source} to {target}")
        return found

    def finish(self, seconds: float = SECONDS) -> None:
        """End all in order: every byte that was sent has arrived within some seconds, and none past the proxy."""
        wrong = self.fare(seconds) or self.escaped()
        assert not wrong, wrong
        for each in self._streams:
            each.finish()
