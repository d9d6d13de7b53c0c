"""A namespace with rules and routes of others in it, and what tests of Weir's own ask there."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agent.kernel import routing
from agent.kernel.rawnetlink import Answer, RawNetlink
from netns_tests.namespace import Namespace
from rulesets.capture import Capture
from rulesets.routing import Routing, RoutingPlan, build
from rulesets.vocabulary import Family

BOTH = tuple(Family)
WANTED = build(Capture(), BOTH)
FOREIGN = (
    "rule add fwmark 0x5 pref 32000 lookup 77",
    "-6 rule add fwmark 0x5 pref 32000 lookup 77",
    "rule add fwmark 0x111/0xfff pref 32763 lookup 100 proto static",
    "route add local 10.7.0.0/16 dev lo table 77",
    "-6 route add local fd07::/64 dev lo table 77",
    "route add 192.0.2.0/24 dev lo",
)


@contextmanager
def with_foreign_routes() -> Iterator[Namespace]:
    """Make a namespace that holds what others have put there."""
    with Namespace.create("routing") as made:
        for line in FOREIGN:
            ip(made, line)
        yield made


def ip(namespace: Namespace, line: str) -> None:
    namespace.command("ip", *line.split())


def state(namespace: Namespace) -> str:
    shown = []
    for family in ("-4", "-6"):
        shown.append(namespace.command("ip", "-d", family, "rule", "show"))
        shown.append(namespace.command("ip", "-d", family, "route", "show", "table", "all"))
    return "\n".join(shown)


def apply(namespace: Namespace, actual: Routing, desired: Routing) -> None:
    namespace.run(routing.apply, RoutingPlan(actual=actual, desired=desired))


@contextmanager
def counted_messages() -> Iterator[list[int]]:
    """Have the lengths of all lists that the kernel is asked for until the block ends."""
    listed: list[int] = []
    plain = RawNetlink.dump

    def counting(self: RawNetlink, kind: int, body: bytes, *, statement: str, most: int | None = None) -> Answer:
        answer = plain(self, kind, body, statement=statement, most=most)
        listed.append(len(answer.messages))
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RawNetlink, "dump", counting)
        yield listed
