"""What stands in the goldens of iptables: a scenario's rules, or why iptables can't express them."""

from rulesets import iptables
from rulesets.model import Ruleset
from rulesets.vocabulary import Family, ModelError

FILES = {Family.IPV4: "iptables.golden", Family.IPV6: "ip6tables.golden"}


def rendered(ruleset: Ruleset, family: Family) -> str:
    """Return what a golden holds."""
    try:
        return iptables.render(ruleset, family)
    except ModelError as error:
        return f"# not for {iptables.PROGRAMS[family]}: {error}\n"
