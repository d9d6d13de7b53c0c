"""`walk`: an imaginary packet through a ruleset, as the kernel would take it.

One walk is one passage: from the hook where the packet enters to the one where it is delivered or sent. A packet over
loopback makes two, out and in: `looped` is the second one's packet, which begins with what the first left behind.
"""

from rulesets.packet.passage import looped, walk, walk_together
from rulesets.packet.values import Fate, Met, Packet, Receiver, Verdict
from rulesets.vocabulary import ConnState, Direction

__all__ = [
    "ConnState",
    "Direction",
    "Fate",
    "Met",
    "Packet",
    "Receiver",
    "Verdict",
    "looped",
    "walk",
    "walk_together",
]
