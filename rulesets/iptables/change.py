"""What ``iptables-restore --noflush`` is to be given: chains put in or taken out, every other rule left alone."""

from collections.abc import Collection, Iterator

from rulesets.iptables.places import TABLES
from rulesets.iptables.text import render_rule
from rulesets.model import Chain, RegularChain, Rule, Ruleset
from rulesets.model.jumps import jumps_to
from rulesets.vocabulary import Family, ModelError


def installation(actual: Ruleset, wanted: Ruleset) -> str:
    """Return the text that makes the wanted chains what they are to be, and has them met first.

    Both are iptables' own, of one family. A table is changed in one step; several are changed one after the other. The
    jumps that lead into the chains are taken out and put in front again, unless they are there already.
    """
    family = _family(actual, wanted)
    lines: list[str] = []
    for table in TABLES:
        chains = [each for each in wanted.regular if _table(each) == table]
        if not chains:
            continue
        lines += [f"*{table}", *(f":{_bare(each)} - [0:0]" for each in chains)]
        for place in TABLES[table]:
            leads = _rules(wanted.chain(place.name))
            there = _rules(actual.chain(place.name))
            if leads and there[: len(leads)] == leads:
                continue
            ours = {each.name for each in chains}
            lines += [_delete(place.chain, each, family) for each in there if jumps_to(each) in ours]
            lines += [f"-I {place.chain} {at} {render_rule(each, family)}" for at, each in enumerate(leads, 1)]
        for chain in chains:
            lines += [f"-A {_bare(chain)} {render_rule(rule, family)}" for rule in chain.rules]
        lines.append("COMMIT")
    return "".join(f"{line}\n" for line in lines)


def removal(actual: Ruleset, names: Collection[str]) -> str:
    """Return the text that takes out these chains (``nat/DOCKER``) and every rule that jumps to one; empty for none."""
    family = _family(actual, actual)
    lines: list[str] = []
    for table in TABLES:
        gone = [each for each in actual.regular if each.name in names and _table(each) == table]
        if not gone:
            continue
        lines.append(f"*{table}")
        for chain in _others(actual, table, names):
            lines += [_delete(_bare(chain), rule, family) for rule in chain.rules if jumps_to(rule) in names]
        lines += [f"-F {_bare(each)}" for each in gone]
        lines += [f"-X {_bare(each)}" for each in gone]
        lines.append("COMMIT")
    return "".join(f"{line}\n" for line in lines)


def _family(actual: Ruleset, wanted: Ruleset) -> Family:
    if wanted.family is None or actual.family is not wanted.family:
        raise ModelError("both sides of a change of iptables' rules are of one family")
    return wanted.family


def _others(ruleset: Ruleset, table: str, names: Collection[str]) -> Iterator[Chain | RegularChain]:
    yield from (each for each in ruleset.chains if _table(each) == table)
    yield from (each for each in ruleset.regular if _table(each) == table and each.name not in names)


def _rules(chain: Chain | None) -> tuple[Rule, ...]:
    return () if chain is None else chain.rules


def _delete(chain: str, rule: Rule, family: Family) -> str:
    return f"-D {chain} {render_rule(rule, family)}"


def _table(chain: Chain | RegularChain) -> str:
    return chain.name.partition("/")[0]


def _bare(chain: Chain | RegularChain) -> str:
    return chain.name.partition("/")[2]
