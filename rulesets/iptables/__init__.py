"""Legacy iptables: rulesets as the text of iptables-save and iptables-restore, both ways, one family at a time."""

from rulesets.iptables.change import installation, removal
from rulesets.iptables.places import PROGRAMS
from rulesets.iptables.save import SaveError, parse
from rulesets.iptables.text import render_rule, render_tables
from rulesets.iptables.translation import translate
from rulesets.model import Ruleset
from rulesets.vocabulary import Family

__all__ = ["PROGRAMS", "SaveError", "installation", "parse", "removal", "render", "render_rule", "translate"]


def render(ruleset: Ruleset, family: Family, *, counters: bool = False) -> str:
    """Return the text with which iptables-restore makes these rules, and which iptables-save then prints.

    Raises `ModelError`, which names the rule, for what iptables can't express.
    """
    return render_tables(translate(ruleset, family), family, counters=counters)
