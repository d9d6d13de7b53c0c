"""How requests to the API have fared: by verb, resource and status, with their latencies."""

from bisect import bisect_left
from dataclasses import dataclass

# Upper bounds of the latencies' buckets, in seconds; one more bucket has what took longer.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallCount:
    """How many requests of one kind had one answer. `status` is that of HTTP, 0 where none came.

    `seconds` is the sum of their latencies; `buckets` how many fell into each of `SECONDS`, and into the one beyond,
    not summed up. A watch is counted once it is answered: what follows is no latency.
    """

    verb: str
    resource: str
    status: int
    count: int
    seconds: float
    buckets: tuple[int, ...]


class Counts:
    """The requests so far. For one thread."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, int], tuple[list[int], list[float]]] = {}

    def add(self, verb: str, resource: str, status: int, seconds: float) -> None:
        """Count a request that took so many seconds."""
        buckets, total = self._found.setdefault((verb, resource, status), ([0] * (len(SECONDS) + 1), [0.0]))
        buckets[bisect_left(SECONDS, seconds)] += 1
        total[0] += seconds

    def all(self) -> tuple[CallCount, ...]:
        """Return what was counted."""
        return tuple(
            CallCount(
                verb=verb,
                resource=resource,
                status=status,
                count=sum(buckets),
                seconds=total[0],
                buckets=tuple(buckets),
            )
            for (verb, resource, status), (buckets, total) in sorted(self._found.items())
        )
