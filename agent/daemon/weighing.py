"""What others' rules take of a target, looked for again when something has changed."""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor

from agent.daemon.threads import Threads
from agent.drift import polled
from agent.errors import WeirError
from agent.kernel.handle import Handle
from agent.rivals import earlier_chains, noted
from agent.targets import Captured, Outcome, Rival
from rulesets.model import Ruleset

log = logging.getLogger("weir")
# Seconds between two readings of others' rules in one namespace, and how many times as long as a reading took: whoever
# changes many without end gets no more of the daemon's time. And between two of iptables-legacy's rules, whose number
# and size may be as before.
READ_INTERVAL, REST, LEGACY_INTERVAL = 10.0, 20.0, 600.0
# Comparing takes a second of rules that are many, for which reading back and closing need not wait. One at a time, and
# the thread begins with the first: on most machines there is never any.
_comparing = ThreadPoolExecutor(1, "rivals")


class Weighing:
    """The rivals of one target. Where nothing of others stands before Weir's chains, a look costs 0.2 ms.

    It is made after a pass, when whoever waited for that is answered. A change of the namespace's rules or of Weir's
    own is looked at; how big the tables of iptables-legacy are is looked up with every pass.
    """

    __slots__ = ("_not_before", "_put_off", "_read_at", "_seen", "found")

    def __init__(self) -> None:
        self.found: tuple[Rival, ...] = ()
        self._seen: object = None
        self._read_at = self._not_before = -LEGACY_INTERVAL  # on the clock that counts from boot on
        self._put_off = False

    @property
    def due(self) -> float | None:
        """In how many seconds what was put off is due; None where nothing was."""
        return max(0.0, self._not_before - time.monotonic()) if self._put_off else None

    def noted(self, outcome: Outcome) -> Outcome:
        """Return the outcome of a pass with what is known of rivals."""
        return noted(outcome, self.found) if self.found else outcome

    async def weigh(self, outcome: Outcome, ours: Ruleset | None, handle: Handle | None, threads: Threads) -> bool:
        """Look for rivals of a target's rules; tell whether others were found than before."""
        if handle is None or ours is None or not isinstance(outcome.target.wish, Captured):
            changed, self.found, self._seen, self._put_off = bool(self.found), (), None, False
            return changed
        before, self._put_off = self.found, False
        try:
            seen = await threads.follow_up(self._changed, handle, ours)
            if seen is not None:
                loop = asyncio.get_running_loop()
                self.found = await loop.run_in_executor(_comparing, _rivals, handle, ours)
                self._seen = seen
                self._not_before = self._read_at + max(READ_INTERVAL, REST * (time.monotonic() - self._read_at))
        except (WeirError, OSError) as error:  # the namespace has gone, say, and the next pass tells
            log.debug("target %s: %s", outcome.target.name, error)
        except Exception:  # a bug there is none of the rules
            log.exception("target %s (netns %s)", outcome.target.name, outcome.target.netns)
        return self.found != before

    def _changed(self, handle: Handle, ours: Ruleset) -> object:
        """Return what there is to be read, where it is something and has changed; else None."""
        now = time.monotonic()
        with handle.inside():
            legacy = polled.read().legacy
        seen = (handle.generation(), legacy, hash(ours))  # the rules themselves would be most of the memory
        old = legacy and now - self._read_at >= LEGACY_INTERVAL
        if seen == self._seen and not old:
            return None
        if legacy or earlier_chains(handle, ours):
            self._put_off = now < self._not_before
            if self._put_off:
                return None
            self._read_at = now
            return seen
        self.found, self._seen = (), seen
        return None


def _rivals(handle: Handle, ours: Ruleset) -> tuple[Rival, ...]:
    from agent.rivals.reading import rivals  # which brings the proofs with it, and few targets need them

    return rivals(handle, ours)
