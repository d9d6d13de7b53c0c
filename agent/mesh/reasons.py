"""Why there is no answer yet, in words."""

from collections.abc import Sequence

from agent.mesh.connection import Connection
from agent.mesh.session import Phase


def why_not_served(asked: Connection | None, where: str, *, kept: bool) -> str:
    """Return why no proxy has said that it serves a pod. `asked`: the one that has to; `kept`: by a Keep only."""
    if asked is None:
        return f"no proxy is connected to {where}"
    if asked.session.phase is Phase.GREETING:
        return f"{asked.proxy} has connected, and not said hello"
    if kept:
        return f"the pod's namespace isn't known, so {asked.proxy} was told to keep what it has"
    return f"{asked.proxy} has not acknowledged it; it was asked last: {asked.asked() or 'nothing'}"


def why_not_released(uid: str, connections: Sequence[Connection], *, complete: bool) -> str:
    """Return why a pod may still be served. `complete`: every pod of the node is known."""
    left = next((each for each in connections if not each.session.lets_go_of(uid)), None)
    if left is None:
        return "the proxies that were to say so are gone"
    if left.session.phase is not Phase.LIVE and not complete:
        return f"{left.proxy} can't be told before every pod of the node is known"
    return f"{left.proxy} has not acknowledged it; it was asked last: {left.asked() or 'nothing'}"
