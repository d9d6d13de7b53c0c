"""What a bench found: results, their ratios, goals, and whether the run says anything at all."""

from dataclasses import dataclass
from enum import Enum

from bench.sampling import MOST_NOISE, Result


class Unit(Enum):
    """What samples are shown in: a word, and how many of it are one second or one byte."""

    MILLISECONDS = ("ms", 1e3)
    KILOBYTES = ("KB", 1 / 1024)

    def __init__(self, word: str, scale: float) -> None:
        self.word = word
        self.scale = scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A number that was found, and how much of it is allowed, or wanted. A ratio, unless a unit is given."""

    what: str
    found: float
    wanted: float
    at_least: bool = False
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether it is as wanted."""
        return self.found >= self.wanted if self.at_least else self.found <= self.wanted

    @property
    def words(self) -> str:
        """The goal and the verdict: ``1/54, wanted <= 1/40: met``."""
        found, wanted = (ratio(each) if not self.unit else f"{each:.3g} {self.unit}" for each in _both(self))
        return f"{found}, wanted {'>=' if self.at_least else '<='} {wanted}: {'met' if self.met else 'missed'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One bench. `subject` is Weir's own result, with which the others are compared; parts of one aren't.

    `twins` are pairs of results that are of equal variants. `bars` are what a plot shows: all but parts and twins.
    """

    bench: str
    about: str
    subject: str
    results: tuple[Result, ...]
    goals: tuple[Goal, ...]
    twins: tuple[tuple[str, str], ...]
    unit: Unit = Unit.MILLISECONDS
    parts: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    def result(self, name: str) -> Result:
        """Return one result."""
        return next(each for each in self.results if each.name == name)

    @property
    def ratios(self) -> dict[str, float]:
        """What Weir takes of what each other takes, by the other's name: below 1 is less."""
        own = self.result(self.subject).p50
        others = (each for each in self.results if each.name != self.subject and each.name not in self.parts)
        return {each.name: own / each.p50 for each in others if each.p50}

    @property
    def void(self) -> tuple[str, ...]:
        """Why the run says nothing; empty when it does."""
        found = []
        for one, other in self.twins:
            apart = noise(self.result(one), self.result(other))
            if apart > MOST_NOISE:
                found.append(f"{one!r} and {other!r} are equal and differ by {apart:.1%} (at most {MOST_NOISE:.0%})")
        return tuple(found)

    @property
    def bars(self) -> tuple[Result, ...]:
        """What a plot shows."""
        again = {other for _, other in self.twins}
        return tuple(each for each in self.results if each.name not in self.parts | again)

    def document(self) -> dict[str, object]:
        """The report as JSON's types, values in its unit."""
        scale, ratios = self.unit.scale, self.ratios
        return {
            "bench": self.bench,
            "about": self.about,
            "unit": self.unit.word,
            "void": list(self.void),
            "results": [
                {
                    "name": each.name,
                    "samples": len(each.samples),
                    "p50": each.p50 * scale,
                    "p95": each.p95 * scale,
                    "weir_to_this": ratios.get(each.name),
                }
                for each in self.results
            ],
            "goals": [
                {
                    "what": each.what,
                    "found": each.found,
                    "wanted": each.wanted,
                    "at_least": each.at_least,
                    "unit": each.unit,
                    "met": each.met,
                }
                for each in self.goals
            ],
            "twins": [list(each) for each in self.twins],
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """The report as lines."""
        scale, ratios = self.unit.scale, self.ratios
        wide = max(len(each.name) for each in self.results) + 2
        head = f"p50 {self.unit.word}", f"p95 {self.unit.word}"
        lines = [f"{self.bench}: {self.about}", ""]
        lines.append(f"  {'variant':<{wide}}{head[0]:>10}{head[1]:>10}{'samples':>9}  Weir takes of it")
        for each in self.results:
            share = ratio(ratios[each.name]) if each.name in ratios else "" if each.name in self.parts else "itself"
            numbers = f"{each.p50 * scale:10.3f}{each.p95 * scale:10.3f}{len(each.samples):9}"
            lines.append(f"  {each.name:<{wide}}{numbers}  {share}".rstrip())
        lines += [""] + [f"  {each.what}: {each.words}" for each in self.goals]
        lines += [
            f"  {one} and {other}: {noise(*map(self.result, (one, other))):.1%} apart" for one, other in self.twins
        ]
        lines += [f"  {each}" for each in self.notes]
        lines += [f"  VOID: {each}" for each in self.void]
        return "\n".join(lines)


def again(name: str) -> str:
    """Return the name of the second of two equal variants."""
    return f"{name} (again)"


def noise(one: Result, other: Result) -> float:
    """Return how far two medians are apart, as a share of the smaller one."""
    low, high = sorted((one.p50, other.p50))
    return high / low - 1 if low > 0 else float(high > 0)


def ratio(value: float) -> str:
    """Return a ratio as it is said: 1.12, or 1/54."""
    if value <= 0:
        return "0"
    if value >= 0.6:
        return f"{value:.2f}"
    one_in = 1 / value
    return f"1/{one_in:.0f}" if one_in >= 20 or one_in == int(one_in) else f"1/{one_in:.1f}"


def _both(goal: Goal) -> tuple[float, float]:
    return goal.found, goal.wanted
