"""Every pod that a proxy is to serve on this node, with the descriptor of its namespace."""

import errno
import os
from collections.abc import Collection, Iterable
from typing import Protocol

from agent.errors import KernelError, NodeNamespace, NotANamespace, TargetError, WeirError
from agent.kernel import netns as kernel
from agent.mesh.session import Kept, Served, Wish
from agent.mesh.wire import Workload, checked_uid


class HasDescriptor(Protocol):
    """An open file."""

    def fileno(self) -> int:
        """Return its descriptor."""


Descriptor = int | HasDescriptor


class PodNetns:
    """The open namespace of a pod, with a descriptor of its own that is closed by `close` and nobody else."""

    __slots__ = ("_descriptor", "identity")

    def __init__(self, descriptor: Descriptor, whose: str) -> None:
        """Take a duplicate of a descriptor, which stays the caller's, and see that it is a network namespace.

        Raises `NotANamespace` or `NodeNamespace`, or `KernelError` where no more files can be opened.
        """
        self._descriptor = -1
        try:
            self._descriptor = os.dup(descriptor if isinstance(descriptor, int) else descriptor.fileno())
            looked_at = kernel.OpenNetns(kernel.Netns(f"/proc/self/fd/{self._descriptor}"))
        except (OSError, ValueError, TargetError, KernelError) as error:
            self.close()
            raise _unusable(error, whose) from None
        self.identity = looked_at.identity
        looked_at.close()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def close(self) -> None:
        """Let go of the namespace; twice is once."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _unusable(error: Exception, whose: str) -> WeirError:
    match error:
        case NodeNamespace():
            return NodeNamespace(f"{whose}: its namespace turns out to be the node's own")
        case KernelError():
            return error
        case OSError(errno=errno.EMFILE | errno.ENFILE):
            hint = "a captured pod takes some nine open files at most: raise LimitNOFILE of the unit, or fs.file-max"
            return KernelError(statement=f"dup() of the namespace of {whose}", said=str(error.strerror), hint=hint)
        case _:
            return NotANamespace(f"{whose}: the descriptor given for its namespace is no network namespace")


class Roster:
    """Every pod that is to be served. Before it is `complete` there may be others, so nothing may be ended."""

    __slots__ = ("_deleted", "_wishes", "complete")

    def __init__(self) -> None:
        self.complete = False
        self._wishes: dict[str, Wish] = {}
        self._deleted: set[str] = set()  # before it was complete: whoever lists pods may have seen them earlier

    def wish(self, uid: str) -> Wish | None:
        """Return what is wanted for a pod; None: nothing."""
        return self._wishes.get(uid)

    def uids(self) -> Collection[str]:
        """Return every pod that is wanted."""
        return self._wishes.keys()

    def serve(self, workload: Workload, descriptor: Descriptor) -> bool:
        """Want a pod served; return whether that is another wish than before.

        The descriptor stays the caller's. Raises what `PodNetns` does, and `TargetError` for a uid that is another pod.
        """
        before = self._wishes.get(workload.uid)
        if isinstance(before, Served) and before.workload != workload:
            raise TargetError(
                f"{workload}: its uid {workload.uid} is that of {before.workload} with service account"
                f" {before.workload.service_account!r}, and a proxy takes no other names for it",
                hint="delete it first",
            )
        netns = PodNetns(descriptor, str(workload))
        self._deleted.discard(workload.uid)
        if isinstance(before, Served) and before.netns.identity == netns.identity:
            netns.close()
            return False
        self._put(workload.uid, Served(workload, netns))
        return True

    def keep(self, uid: str) -> bool:
        """Want a pod kept whose namespace isn't known; nothing changes where it is. Return whether anything did."""
        if checked_uid(uid) in self._wishes:
            return False
        self._put(uid, Kept(uid))
        return True

    def delete(self, uid: str) -> None:
        """Want a pod no more."""
        self._put(checked_uid(uid), None)
        if not self.complete:
            self._deleted.add(uid)

    def fill(self, pods: Iterable[tuple[Workload, Descriptor | None]]) -> tuple[tuple[Workload, WeirError], ...]:
        """Take every other pod there is: after that it is complete. Newer wishes stay.

        Returns the pods whose descriptors can't be used: they are kept, as those without one, and never left out.
        """
        unusable: list[tuple[Workload, WeirError]] = []
        for workload, descriptor in pods:
            if workload.uid in self._deleted or isinstance(self._wishes.get(workload.uid), Served):
                continue
            try:
                if descriptor is not None:
                    self.serve(workload, descriptor)
            except WeirError as error:
                unusable.append((workload, error))
            self.keep(workload.uid)
        self._deleted.clear()
        self.complete = True
        return tuple(unusable)

    def close(self) -> None:
        """Let go of every namespace."""
        for uid in tuple(self._wishes):
            self._put(uid, None)

    def _put(self, uid: str, wish: Wish | None) -> None:
        before = self._wishes.pop(uid, None)
        if wish is not None:
            self._wishes[uid] = wish
        if isinstance(before, Served) and isinstance(before.netns, PodNetns):
            before.netns.close()
