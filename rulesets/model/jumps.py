"""Where rules lead to other chains: nowhere that isn't there, and never round in a circle."""

from collections.abc import Mapping
from dataclasses import dataclass

from rulesets.model.rule import Rule
from rulesets.vocabulary import Goto, Jump


@dataclass(frozen=True, slots=True, kw_only=True)
class BadJump:
    """A rule that must not be: the `number`th of a chain, from 1, and what is wrong with where it leads."""

    chain: str
    number: int
    why: str


def jumps_to(rule: Rule) -> str:
    """Return the name of the chain that a rule leads to, empty when it leads to none."""
    return rule.action.chain if isinstance(rule.action, Jump | Goto) else ""


def find_bad_jump(base: Mapping[str, tuple[Rule, ...]], regular: Mapping[str, tuple[Rule, ...]]) -> BadJump | None:
    """Return the first rule that leads to no regular chain, or that closes a circle; None when all is well.

    Takes time by the number of rules. A circle that no base chain leads into counts too.
    """
    leads = {
        name: [(number, jumps_to(rule)) for number, rule in enumerate(rules, 1) if jumps_to(rule)]
        for name, rules in (*base.items(), *regular.items())
    }
    for name, jumps in leads.items():
        for number, target in jumps:
            if target not in regular:
                why = "is a base chain, which nothing jumps to" if target in base else "does not exist"
                return BadJump(chain=name, number=number, why=f"chain {target!r} {why}")
    finished: set[str] = set()
    for start in regular:
        if start in finished:
            continue
        way, inside = [(start, iter(leads[start]))], {start}
        while way:
            name, left = way[-1]
            number, target = next(left, (0, ""))
            if not target:
                way.pop()
                inside.remove(name)
                finished.add(name)
            elif target in inside:
                return BadJump(chain=name, number=number, why=f"chain {target!r} leads back to itself")
            elif target not in finished:
                way.append((target, iter(leads[target])))
                inside.add(target)
    return None
