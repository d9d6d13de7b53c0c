"""What a target's slot has done in a worker thread."""

import os
from functools import lru_cache

from agent.kernel.handle import Handle
from agent.kernel.netns import Netns
from agent.kernel.sockets import Listener, SocketDiag
from agent.reconcile import reconcile
from agent.state import Records
from agent.targets import Outcome, Target


def listeners_of(handle: Handle) -> frozenset[Listener]:
    """Return who listens in a namespace."""
    with handle.inside(), SocketDiag() as diag:
        return _one_of(diag.listening_ports())


@lru_cache(maxsize=256)
def _one_of(listeners: frozenset[Listener]) -> frozenset[Listener]:
    """Return the first that was seen of equal ones: like namespaces keep one in memory."""
    return listeners


def opened(netns: str, flags: tuple[str, ...] | None) -> Handle:
    """Open a namespace and listen to it."""
    handle = Handle(Netns(netns), flags=flags)
    try:
        handle.subscribe()
    except BaseException:
        handle.close()
        raise
    return handle


def make_pass(target: Target, handle: Handle, records: Records) -> tuple[frozenset[Listener], Outcome]:
    """Make one pass, with a migration before it where one is wanted; return who listened before it, and its outcome."""
    listeners = listeners_of(handle)
    if target.migrate or os.path.isdir(f"{records.directory}/migrations"):
        from agent.migration.unasked import migrated  # which brings the proofs with it, and few targets need them

        unable = migrated(target, handle, records)
        if unable is not None:
            return listeners, unable
    return listeners, reconcile(target, handle, records, listeners=listeners)
