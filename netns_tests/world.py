"""A small network to test in: pods behind a node, and an outside behind that node.

    pod 1   10.0.1.2/24, fd00:1::2/64 ─ pod1 ┐
    pod 2   10.0.2.2/24, fd00:2::2/64 ─ pod2 ┼ node (10.0.N.1, fd00:N::1) ─ outside ─ 10.99.0.2/24, fd99::2/64
    ...                                      ┘

Every pod has its own link and subnet, so that all traffic crosses the node's forward hook, as with a routed CNI.
Addresses are the same in every world: nothing is attached to the machine's own namespace.
"""

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Self

from netns_tests.namespace import Namespace, delete_all, sweep
from netns_tests.patience import slow
from netns_tests.syscalls import enter, set_fsuid, set_up

__all__ = ["Host", "Namespace", "World", "delete_all", "enter", "eventually", "set_fsuid", "sweep"]

MOST_PODS = 254

# Source ports, apart on purpose. A proxy that keeps the client's address dials the application from a port of the pod's
# own choice; where the client itself used that port a moment ago, conntrack in the pod takes one connection for the
# other, and the SYN is lost for a second or reset. That is so with every such proxy; under a hammer it hits about one
# connection in a thousand, and would make tests that count losses flicker.
PORTS_OF_NODE, PORTS_OF_OUTSIDE = "4000 9999", "10000 27999"
PORTS_OF_PODS = ("46000 63999", "28000 45999")  # even, odd: pod 1 and pod 3 share theirs
SECONDS_TO_ANSWER = slow(5.0)


class Host(Namespace):
    """A namespace with an address of each family."""

    v4: str = ""
    v6: str = ""

    def address(self, family: int) -> str:
        """Return its address of a family, `socket.AF_INET` or `socket.AF_INET6`."""
        return self.v6 if family == socket.AF_INET6 else self.v4


class World:
    """Pods, a node and an outside.

    Use it in a `with` block. It also goes away on SIGTERM, and after a SIGKILL when the next test process starts.
    """

    def __init__(self, pods: int = 2) -> None:
        """Say how many pods there will be; nothing is made before the block is entered."""
        if not 0 <= pods <= MOST_PODS:
            raise ValueError(f"a world has 0 to {MOST_PODS} pods, not {pods}")
        self._count = pods
        self._cleanup = contextlib.ExitStack()
        self.node: Host
        self.outside: Host
        self.pods: tuple[Host, ...] = ()

    def __enter__(self) -> Self:
        """Make everything; when it returns, each address answers."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(_sigterm_raises())
            self.node = _host(stack, "node")
            self.node.sysctl("net/ipv4/ip_forward", 1)
            self.node.sysctl("net/ipv6/conf/all/forwarding", 1)
            self.outside = _host(stack, "outside")
            self.node.sysctl("net/ipv4/ip_local_port_range", PORTS_OF_NODE)
            self._attach(self.outside, "outside", "10.99.0", "fd99", PORTS_OF_OUTSIDE)
            self.node.v4, self.node.v6 = "10.99.0.1", "fd99::1"
            for _ in range(self._count):
                self.add_pod(stack)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """Delete everything."""
        self._cleanup.close()

    def add_pod(self, stack: contextlib.ExitStack | None = None) -> Host:
        """Make one more pod; it is deleted with the world."""
        number = len(self.pods) + 1
        pod = _host(self._cleanup if stack is None else stack, f"pod{number}")
        self._attach(pod, f"pod{number}", f"10.0.{number}", f"fd00:{number}", PORTS_OF_PODS[number % 2])
        self.pods += (pod,)
        return pod

    def _attach(self, host: Host, link: str, v4: str, v6: str, ports: str) -> None:
        """Connect a host with the node: `eth0` on its side, `link` on the node's."""
        host.sysctl("net/ipv4/ip_local_port_range", ports)
        host.v4, host.v6 = f"{v4}.2", f"{v6}::2"
        self.node.ip(
            f"link add {link} type veth peer name eth0 netns {host.name}",
            f"link set {link} up",
            f"addr add {v4}.1/24 dev {link}",
            f"addr add {v6}::1/64 dev {link} nodad",
        )
        host.ip(
            "link set eth0 up",
            f"addr add {host.v4}/24 dev eth0",
            f"addr add {host.v6}/64 dev eth0 nodad",
            f"route add default via {v4}.1",
            f"route add ::/0 via {v6}::1",
        )
        # The end that is up first gets its carrier from the other, but a kernel worker gives it its queue; it drops
        # everything until then, and a lost SYN costs a second.
        self.node.run(eventually, lambda: set_up(link), f"{link} carries packets")


def eventually(condition: Callable[[], object], what: str, seconds: float = SECONDS_TO_ANSWER) -> None:
    """Wait until a condition holds; after the deadline, fail and say what was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.002)  # polling with a deadline


def _host(stack: contextlib.ExitStack, prefix: str) -> Host:
    return stack.enter_context(Host.create(prefix))


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that blocks are left in order. Somebody else's handler is left alone."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
