"""A namespace that is looked at: entered where that is needed, its edge to nf_tables opened when first asked for."""

from collections.abc import Iterator
from contextlib import contextmanager

from agent.errors import NamespaceMissing
from agent.kernel.handle import Handle
from agent.kernel.netns import Netns, OpenNetns, identify

_HERE = "/proc/thread-self/ns/net"


class Place:
    """One namespace, used by one thread. Who is in it already needs no privilege to look at its settings."""

    def __init__(self, netns: Netns) -> None:
        """Open it. Raises `NamespaceMissing` and what `OpenNetns` raises."""
        self.netns = netns
        self._handle: Handle | None = None
        self._open: OpenNetns | None = None
        found = identify(netns.file)
        if found is None:
            raise NamespaceMissing(f"netns = {netns.text!r}: {netns.path} does not exist, or may not be looked at")
        if identify(_HERE) != found:
            self._open = OpenNetns(netns)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Be in the namespace until the block ends. Raises `PermissionMissing`."""
        if self._open is None:
            yield
            return
        with self._open.entered():
            yield

    def handle(self) -> Handle:
        """Return its edge to nf_tables. Raises `WeirError`."""
        if self._handle is None:
            self._handle = Handle(self.netns)
        return self._handle

    def close(self) -> None:
        """Let go of it."""
        if self._handle is not None:
            self._handle.close()
        if self._open is not None:
            self._open.close()
