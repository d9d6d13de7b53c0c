"""Interleaved samples of several variants, and their ratios."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# Two runs of one variant that differ by more than this make the whole run void: the machine wasn't quiet.
MOST_NOISE = 0.10


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One variant's samples, in seconds."""

    name: str
    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median sample, in seconds."""
        return statistics.median(self.samples)

    @property
    def p95(self) -> float:
        """The 95th percentile, in seconds."""
        return statistics.quantiles(self.samples, n=20)[-1]


def interleaved(variants: Mapping[str, Callable[[], float]], rounds: int) -> tuple[Result, ...]:
    """Return the samples of each variant, taken in turns so that a busy moment hits all alike.

    A variant returns the seconds that it took, so that it can leave its own preparation out.
    """
    samples: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            samples[name].append(run())
    return tuple(Result(name=name, samples=tuple(each)) for name, each in samples.items())


def timed(run: Callable[[], object]) -> float:
    """Return the seconds that a call took."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def table(results: tuple[Result, ...], peer: str) -> str:
    """Return the results as lines: median, 95th percentile, and the ratio to the peer's median."""
    of_peer = next(each.median for each in results if each.name == peer)
    rows = [f"{'variant':<40} {'p50 ms':>9} {'p95 ms':>9} {'ratio':>7}"]
    rows += [
        f"{each.name:<40} {each.median * 1e3:9.3f} {each.p95 * 1e3:9.3f} {each.median / of_peer:7.3f}"
        for each in results
    ]
    return "\n".join(rows)
