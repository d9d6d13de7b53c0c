"""How long a slot waits: until its next pass, and until it looks at what sends no word."""

import random
from dataclasses import dataclass

from agent.targets import Absent, Outcome, State

# Seconds. Events in a burst are answered together, and a storm of them costs ten passes a second at most.
REST = 0.1
FIRST_RETRY, LONGEST_RETRY = 0.25, 30.0
# A namespace that is being made, or a proxy that starts, sends no word.
FIRST_LOOK, LONGEST_LOOK = 0.1, 2.0
# With more namespaces than so many all of them take no more of a core than so many do.
CROWD = 25
# How many times as long nothing is polled, or looked at without a cause, where the proxy itself says whom it serves, as
# of a pod: 500 pods would take some percent of a core.
TOLD_POLL, TOLD_RESYNC, TOLD_REST = 24.0, 10.0, 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """How often a captured namespace is looked at, in seconds: without any cause, and at what sends no word.

    That is whether its proxy still listens, settings, and rules of iptables-legacy.
    """

    resync: float = 60.0
    poll: float = 5.0


def rest(outcome: Outcome, *, told: bool) -> float:
    """Return the seconds that a slot rests whatever happens, but for a new wish.

    What was just written wakes it too; among pods that start, it looks at that when they have started.
    """
    return TOLD_REST if told and outcome.state is State.APPLIED else REST


def stretched(seconds: float, *, told: bool, of: int) -> float:
    """Return an interval for one of so many open namespaces. `told`: who listens there says so by another way."""
    return seconds * (TOLD_RESYNC if told else max(1.0, of / CROWD))


def pause(outcome: Outcome, *, alike: int, resync: float, is_open: bool) -> float:
    """Return the seconds until the next pass, should nothing happen before.

    `alike` passes in a row have ended in the same state; `is_open`: the namespace is there.
    """
    match outcome.state:
        case State.FAILED:
            return _spread() * min(LONGEST_RETRY, FIRST_RETRY * 2.0 ** min(alike - 1, 10))
        case State.WAITING if not is_open:
            return _growing(alike)
        case _:
            return min(_spread() * resync, resync if outcome.again is None else outcome.again)


def look_interval(outcome: Outcome, poll: float, *, alike: int, is_open: bool, told: bool, of: int) -> float:
    """Return the seconds until what sends no word is looked at; proxies do where `told`. `of` namespaces are open."""
    if not is_open or isinstance(outcome.target.wish, Absent) or outcome.state is State.FAILED:
        return LONGEST_RETRY
    if outcome.state is State.WAITING:
        return _growing(alike)
    return _spread() * (poll * TOLD_POLL if told else stretched(poll, told=False, of=of))


def _spread() -> float:
    return random.uniform(0.9, 1.1)  # noqa: S311 (so that targets don't move in step)


def _growing(looks: int) -> float:
    return min(LONGEST_LOOK, FIRST_LOOK * 1.2 ** min(max(looks - 1, 0), 50))
