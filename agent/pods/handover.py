"""The proxies' socket over a restart of the agent: handed on where whoever starts the agent can keep it.

A proxy that connects while nobody accepts then just waits for the next agent (0.1 ms), instead of coming back with a
pause that doubles. systemd keeps descriptors (FileDescriptorStoreMax=), and so does a container runtime that passes its
protocol on; a kubelet's doesn't. There the socket is made again first thing: what a proxy serves goes on meanwhile, and
only a proxy that starts in between waits.
"""

from agent.mesh.listener import Listener
from agent.observe.notify import keep_descriptor

_NAME = "zds"  # among those that are handed over; a socket is told by its path, not by this


def keep(listener: Listener) -> bool:
    """Have a socket kept for the next start, which finds it by `Listener.inherited`; False where nobody can.

    To be said again of a socket that takes its place.
    """
    if not keep_descriptor(_NAME, listener.socket.fileno()):
        return False
    listener.leave_open()
    return True
