"""What every step is taken with."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.pods.course import Course
from agent.pods.finding import Finding
from agent.pods.neighbours import Memory, Probes, Proxies, Rules
from agent.pods.probes import Threads
from agent.pods.redirection import Redirection

PASS = 5.0  # seconds to wait for a pass over a pod's rules before its state says that there is none
_AT_ONCE = 8  # passes of pods that nobody waits for: a starting pod waits behind no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the steps are taken with. `drain` is in seconds.

    `dropped` is told of a course that has ended, `captured` of how many seconds a pod was outside until then.
    """

    proxies: Proxies
    probes: Probes
    rules: Rules
    memory: Memory
    threads: Threads
    finding: Finding
    redirection: Redirection
    drain: Callable[[], float]
    migrate: Callable[[], bool]  # whether Weir's rules are to come in the place of another agent's
    kept_by: dict[str, Course]  # by the namespace, as written
    dropped: Callable[[Course], None]
    captured: Callable[[float], None]
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))
