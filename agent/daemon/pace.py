"""How long a slot waits: until its next pass, and until it looks at what sends no word."""

import random

from agent.targets import Absent, Outcome, State

# Seconds. Events in a burst are answered together, and a storm of them costs ten passes a second at most.
REST = 0.1
FIRST_RETRY, LONGEST_RETRY = 0.25, 30.0
# A namespace that is being made, or a proxy that starts, sends no word.
FIRST_LOOK, LONGEST_LOOK = 0.1, 2.0
LISTENERS_INTERVAL = 5.0  # between two looks at whether the proxy of a captured namespace still listens


def pause(outcome: Outcome, *, alike: int, resync: float, is_open: bool) -> float:
    """Return the seconds until the next pass, should nothing happen before.

    `alike` passes in a row have ended in the same state; `is_open`: the namespace is there.
    """
    spread = random.uniform(0.9, 1.1)  # noqa: S311 (so that targets don't move in step)
    match outcome.state:
        case State.FAILED:
            return spread * min(LONGEST_RETRY, FIRST_RETRY * 2.0 ** min(alike - 1, 10))
        case State.WAITING if not is_open:
            return _growing(alike)
        case _:
            return min(spread * resync, resync if outcome.again is None else outcome.again)


def look_interval(outcome: Outcome, *, alike: int, is_open: bool) -> float:
    """Return the seconds until listeners are looked at, which send no word when they come and go."""
    if not is_open or isinstance(outcome.target.wish, Absent) or outcome.state is State.FAILED:
        return LONGEST_RETRY
    return _growing(alike) if outcome.state is State.WAITING else LISTENERS_INTERVAL


def _growing(looks: int) -> float:
    return min(LONGEST_LOOK, FIRST_LOOK * 1.2 ** min(max(looks - 1, 0), 50))
