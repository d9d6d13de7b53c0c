"""How many rules a packet met, out of the few that the kernel tells of."""

from agent.kernel.tablequery import TableName
from agent.kernel.tracing.events import Code
from agent.kernel.tracing.rules import Rules
from agent.trace.following import Packet, Step

_Place = tuple[TableName, str]


def rules_met(packet: Packet, rules: Rules) -> int:
    """Return how many rules the kernel evaluated for a packet behind the one that had it traced.

    It tells only of rules that matched, and of the end of a chain: those in between are known by their order. A rule
    that isn't among `rules`, because it came later, counts as the next one.
    """
    met = 0
    way: list[tuple[_Place, int]] = []
    for step in (packet.first, *packet.steps):
        place = (step.table, step.chain)
        if not way or way[-1][0] != place:
            way.append((place, 0))
        handles = [each.handle for each in rules.chains.get(place, ())]
        before = way[-1][1]
        if step.handle is not None:
            behind = handles.index(step.handle) + 1 if step.handle in handles else before + 1
            met += 0 if step is packet.first else max(0, behind - before)
            way[-1] = (place, behind)
        elif not step.policy:
            met += max(0, len(handles) - before)
        way = _afterwards(way, step)
    return met


def _afterwards(way: list[tuple[_Place, int]], step: Step) -> list[tuple[_Place, int]]:
    """Return where a packet is in its chains, the outermost first, once a step is done."""
    if step.policy or step.verdict >= 0:
        return []
    if step.handle is None or step.verdict in (Code.GOTO, Code.RETURN):
        return way[:-1]
    return way
