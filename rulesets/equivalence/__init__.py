"""`prove`: whether two rulesets treat every packet alike, or the packet that they treat differently.

Not a sample: the header space is cut at every boundary that either side mentions, all packets of a cell fare alike, and
every cell is gone through on both sides, with the connections that begin in it. In the order of the work:

    limits                  what a proof may cost, counted in nodes and steps
    runs                    rules in a row that do the same, as one
    mentions, atoms, marks  what rules ask of each field, and the values that none of them tells apart
    anonymous               the sets of addresses that stand in a rule
    space, possible         the variables of one kind of packets, and what they can't be, with the reasons
    diagrams, nodes         functions of these variables, equal when they are one object
    answers                 what such a function says
    conditions, effects     a match as such a function, and what an action makes of a packet
    chains, passage         `rulesets.packet.walk` for all packets at once
    packets, story          the packets that follow the first; where the two sides part
    examples, witness       the plainest packet of a cell, in words
    wanted                  the differences that are wanted, by name
    proof, taking           what is said in the end
"""

from rulesets.equivalence.proof import Decided, Difference, Differs, Equal, Proof, Side, Unknown, prove
from rulesets.equivalence.sameness import What
from rulesets.equivalence.space import Kind, Way
from rulesets.equivalence.story import Moment
from rulesets.equivalence.taking import Taken, Takings, taken
from rulesets.equivalence.wanted import WANTED, Wanted
from rulesets.equivalence.witness import Witness

__all__ = [
    "WANTED",
    "Decided",
    "Difference",
    "Differs",
    "Equal",
    "Kind",
    "Moment",
    "Proof",
    "Side",
    "Taken",
    "Takings",
    "Unknown",
    "Wanted",
    "Way",
    "What",
    "Witness",
    "prove",
    "taken",
]
