"""What separates Weir's rules from what is wanted, in one line that names them."""

from rulesets.diff import Plan
from rulesets.model import Rule, Ruleset

_MOST = 3


def told_changes(plan: Plan) -> str:
    """Say which rules are missing, changed or somebody else's; empty where nothing differs."""
    name = f"inet {plan.table}"
    if plan.actual is None:
        return f"there is no table {name}"
    if plan.desired is None:
        return f"table {name} is there, and nothing is wanted"
    wanted, there = _by_slug(plan.desired), _by_slug(plan.actual)
    if wanted and not there:
        return f"table {name} holds no rules: all {sum(map(len, wanted.values()))} are missing"
    missing = [slug for slug in wanted if slug not in there]
    uncounted = _uncounted(plan.actual, plan.desired)
    changed = [
        slug for slug, rules in wanted.items() if slug in there and there[slug] != rules and slug not in uncounted
    ]
    added = [rule for slug, rules in there.items() if slug not in wanted for rule in rules]
    said = [
        _named(missing, "is missing", "are missing"),
        _named(uncounted, "counts nothing", "count nothing") if len(uncounted) < len(wanted) else "no rule counts",
        _named(changed, "is another one than wanted", "are others than wanted"),
        f"{len(added)} of others stand there" if len(added) > 1 else "one of others stands there" if added else "",
    ]
    told = ", ".join(filter(None, said)) or _aside(plan.actual)
    return f"in table {name} {told}"


def _by_slug(ruleset: Ruleset) -> dict[str, list[Rule]]:
    found: dict[str, list[Rule]] = {}
    for rule in ruleset.rules():
        found.setdefault(rule.slug, []).append(rule)
    return found


def _uncounted(actual: Ruleset, desired: Ruleset) -> list[str]:
    """Return the rules that are there and have lost their counters."""
    there = _by_slug(actual)
    counted = {each.name for each in actual.counters}
    return [each.name for each in desired.counters if each.name in there and each.name not in counted]


def _named(slugs: list[str], one: str, more: str) -> str:
    if not slugs:
        return ""
    some = ", ".join(slugs[:_MOST]) + (f" and {len(slugs) - _MOST} more" if len(slugs) > _MOST else "")
    return f"{some} {one if len(slugs) == 1 else more}"


def _aside(actual: Ruleset) -> str:
    if actual.foreign:
        return f"stands what isn't Weir's: {actual.foreign[0].verbatim}"
    return "sets or chains differ"
