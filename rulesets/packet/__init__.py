"""`walk`: an imaginary packet through a ruleset, as the kernel would take it.

One walk is one passage: from the hook where the packet enters to the one where it is delivered or sent. A packet over
loopback makes two, out and in: `looped` is the second one's packet, which begins with what the first left behind.
`answer` and `another` are the packets that come after a connection's first, translated at the hooks as the kernel does.
"""

from rulesets.packet.following import another, answer, looped
from rulesets.packet.passage import walk, walk_together
from rulesets.packet.values import Ends, Fate, Met, Packet, Receiver, Translation, Verdict
from rulesets.vocabulary import ConnState, Direction

__all__ = [
    "ConnState",
    "Direction",
    "Ends",
    "Fate",
    "Met",
    "Packet",
    "Receiver",
    "Translation",
    "Verdict",
    "another",
    "answer",
    "looped",
    "walk",
    "walk_together",
]
