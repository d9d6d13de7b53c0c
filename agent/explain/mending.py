"""Commands that mend what is wrong in a target, ready to paste."""

import shlex

from agent.explain.facts import Facts
from agent.kernel.netns import NETNS_DIRECTORY, Netns
from agent.targets import HOST, Absent


def again(facts: Facts) -> str:
    """Say what makes a target as it is to be."""
    if facts.word.daemon and not facts.word.again:
        return facts.word.mend or "the daemon mends that by itself; its log says what hinders it"
    return f"`{apply(facts)}` makes it so"


def apply(facts: Facts) -> str:
    """Return the command that does so; empty where the daemon alone does."""
    if isinstance(facts.target.wish, Absent) or not facts.word.again:
        return ""
    return f"weir apply {facts.word.again}"


def inside(facts: Facts) -> str:
    """Return what has to stand before a command so that it acts in the target's namespace."""
    netns = facts.target.netns
    if netns == HOST:
        return ""
    path = Netns(netns).file
    if path.startswith(f"{NETNS_DIRECTORY}/"):
        return f"ip netns exec {shlex.quote(path.removeprefix(f'{NETNS_DIRECTORY}/'))} "
    return f"nsenter --net={shlex.quote(path)} "
