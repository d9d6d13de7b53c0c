"""Which targets a running daemon holds: it is asked to change those, so that there is one writer."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.targets import Target


def held(chosen: "tuple[Target, ...]") -> dict[str, str]:
    """Return, by its netns, each target whose namespace a daemon holds, with the daemon's name for it."""
    from agent.kernel.netns import Netns, identify
    from agent.local_api import Client

    client = Client()
    if not client.is_there():
        return {}
    status = client.status()["targets"]
    by_netns = {each["netns"]: each["target"] for each in status} if isinstance(status, list) else {}
    found = {}
    for target in chosen:
        # One namespace may have many names: a name, a path, a process.
        identity = identify(Netns(target.netns).file)
        name = by_netns.get(target.netns) or (client.holder(str(identity)) if identity else "")
        if name:
            found[target.netns] = name
    return found
