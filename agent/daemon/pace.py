"""How long a slot waits: until its next pass, and until it looks at what sends no word."""

import random

from agent.targets import Absent, Outcome, State

# Seconds. Events in a burst are answered together, and a storm of them costs ten passes a second at most.
REST = 0.1
FIRST_RETRY, LONGEST_RETRY = 0.25, 30.0
# A namespace that is being made, or a proxy that starts, sends no word.
FIRST_LOOK, LONGEST_LOOK = 0.1, 2.0
LISTENERS_INTERVAL = 5.0  # between two looks at whether the proxy of a captured namespace still listens
# The same where the proxy itself says whom it serves, as of a pod; and how many times as long nothing is looked at
# there without a cause: 500 pods would take some percent of a core.
TOLD_INTERVAL, TOLD_RESYNC, TOLD_REST = 120.0, 10.0, 2.0


def rest(outcome: Outcome, *, told: bool) -> float:
    """Return the seconds that a slot rests whatever happens, but for a new wish.

    What was just written wakes it too; among pods that start, it looks at that when they have started.
    """
    return TOLD_REST if told and outcome.state is State.APPLIED else REST


def pause(outcome: Outcome, *, alike: int, resync: float, is_open: bool, told: bool) -> float:
    """Return the seconds until the next pass, should nothing happen before.

    `alike` passes in a row have ended in the same state; `is_open`: the namespace is there. `told`: who listens there
    says so by another way.
    """
    resync *= TOLD_RESYNC if told else 1.0
    spread = random.uniform(0.9, 1.1)  # noqa: S311 (so that targets don't move in step)
    match outcome.state:
        case State.FAILED:
            return spread * min(LONGEST_RETRY, FIRST_RETRY * 2.0 ** min(alike - 1, 10))
        case State.WAITING if not is_open:
            return _growing(alike)
        case _:
            return min(spread * resync, resync if outcome.again is None else outcome.again)


def look_interval(outcome: Outcome, *, alike: int, is_open: bool, told: bool) -> float:
    """Return the seconds until listeners are looked at, which send no word when they come and go, but where `told`."""
    if not is_open or isinstance(outcome.target.wish, Absent) or outcome.state is State.FAILED:
        return LONGEST_RETRY
    if outcome.state is State.WAITING:
        return _growing(alike)
    return TOLD_INTERVAL if told else LISTENERS_INTERVAL


def _growing(looks: int) -> float:
    return min(LONGEST_LOOK, FIRST_LOOK * 1.2 ** min(max(looks - 1, 0), 50))
