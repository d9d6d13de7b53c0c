"""Whether somebody else's chains take packets from Weir's before these are asked."""

from dataclasses import replace

from rulesets.equivalence.proof import Difference, Differs, Side, prove, side_of
from rulesets.equivalence.sameness import What
from rulesets.model import Ruleset
from rulesets.vocabulary import ChainType, Dnat, Redirect


def taken(foreign: Side, ours: Ruleset) -> Difference | None:
    """Return the plainest packet that `ours` alone would capture and that fares otherwise beside `foreign`, or None.

    Of the foreign chains those count that a packet meets before ours that capture, and with them.
    """
    captures = {
        chain.hook: chain.priority
        for chain in ours.chains
        if chain.type is ChainType.NAT and any(isinstance(rule.action, Redirect | Dnat) for rule in chain.rules)
    }
    earlier = [
        replace(
            each,
            chains=tuple(
                chain for chain in each.chains if chain.hook in captures and chain.priority <= captures[chain.hook]
            ),
        )
        for each in side_of(foreign)
    ]
    proof = prove(ours, (*earlier, ours))
    if not isinstance(proof, Differs):
        return None
    return next((each for each in proof.differences if _is_taken(each)), None)


def _is_taken(difference: Difference) -> bool:
    rule = difference.a_decided.rule
    captured = rule is not None and isinstance(rule.action, Redirect | Dnat)
    return captured and difference.what in (What.TARGET, What.FATE)
