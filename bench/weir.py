"""Weir's own side: what it writes, and the worker that does."""

import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Self, TypeVar

from agent.kernel import batches
from agent.kernel.handle import Handle
from agent.kernel.netns import Netns
from agent.kernel.rawnetlink import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    RawNetlink,
)
from agent.kernel.routing_messages import route_message, rule_message
from netns_tests.namespace import Namespace
from rulesets import pod
from rulesets import routing as routes
from rulesets.capture import Capture
from rulesets.diff import Plan, diff
from rulesets.netlink import OWNED, encode
from rulesets.routing import NO_ROUTING, LocalRoute, PolicyRule, RoutingPlan
from rulesets.vocabulary import Family

T = TypeVar("T")

CAPTURE = Capture()  # the default pod: dual-stack, with DNS
RULES = pod.build(CAPTURE)
FRESH = diff(None, RULES)
ROUTES = RoutingPlan(actual=NO_ROUTING, desired=routes.build(CAPTURE, tuple(Family)))

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port id
_RTM_NEWROUTE, _RTM_NEWRULE = 24, 32  # include/uapi/linux/rtnetlink.h


class Worker:
    """A worker of Weir's: a thread that enters namespaces, which the main thread never does."""

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        self._thread = thread

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Self]:
        """Have a worker until the block ends."""
        with ThreadPoolExecutor(1) as thread:
            yield cls(thread)

    def run(self, work: Callable[[], T]) -> T:
        """Do something in the worker, and return what it returns."""
        return self._thread.submit(work).result()


def opened(namespace: Namespace) -> Handle:
    """Open a namespace as the daemon does: its table is to be owned."""
    return Handle(Netns(namespace.name), flags=OWNED)


def end_acknowledged() -> bool:
    """Tell whether this kernel acknowledges the end of a batch."""
    with Namespace.create("asked") as namespace, namespace.run(_netfilter) as netlink:
        return batches.acknowledges_end(netlink)


def _netfilter() -> RawNetlink:
    return RawNetlink(NETLINK_NETFILTER, feature="nf_tables over netlink", option="CONFIG_NF_TABLES")


def encoded(plan: Plan, *, end: bool) -> bytes:
    """Return the bytes that Weir sends for a plan, for a table that it owns."""
    return encode(plan, flags=OWNED, found=OWNED if plan.actual else (), end_acknowledged=end).data


def routing_messages() -> bytes:
    """Return the messages that add Weir's rules and routes, one after the other, each to be acknowledged."""
    desired = ROUTES.desired
    rules = [(_RTM_NEWRULE, rule_message(each)) for each in desired.rules if isinstance(each, PolicyRule)]
    local = [(_RTM_NEWROUTE, route_message(each)) for each in desired.routes if isinstance(each, LocalRoute)]
    flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    return b"".join(
        _HEADER.pack(_HEADER.size + len(body), kind, flags, number, 0) + body
        for number, (kind, body) in enumerate([*rules, *local], 1)
    )
