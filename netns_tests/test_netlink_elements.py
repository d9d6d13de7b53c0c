"""Elements that come and go by themselves: all of them or none, and what is refused is named."""

from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from agent.errors import KernelError
from agent.kernel.handle import Handle
from agent.kernel.netns import Netns
from netns_tests.namespace import Namespace
from netns_tests.probing import elements, targets
from rulesets import host
from rulesets.diff import diff
from rulesets.host import HOST_TABLE, Probes, ProbeTarget
from rulesets.model import Set


@pytest.fixture
def node() -> Iterator[Namespace]:
    with Namespace.create("node") as made:
        yield made


@pytest.fixture
def handle(node: Namespace) -> Iterator[Handle]:
    made = Handle(Netns(node.name))
    made.apply(diff(None, host.build(Probes(targets=targets("a", "10.0.0.1", "fd00::1")))))
    yield made
    made.close()


def sets(*probed: ProbeTarget) -> tuple[Set, ...]:
    return host.sets_of(element for each in probed for element in host.elements_of(each))


def test_one_that_goes_and_comes_in_one_transaction_has_another_comment(handle: Handle, node: Namespace) -> None:
    old = targets("a", "10.0.0.1", "fd00::1")
    handle.change_elements(HOST_TABLE, taken=sets(*old), added=sets(*targets("b", "10.0.0.1", "10.0.0.2")))
    assert elements(node) == {"10.0.0.1": "b", "10.0.0.2": "b"}
    handle.change_elements(HOST_TABLE, taken=(), added=())
    found = handle.read(HOST_TABLE)
    assert found == host.build(Probes(targets=targets("b", "10.0.0.1", "10.0.0.2")))


@pytest.mark.parametrize(
    ("taken", "added", "said"),
    [
        (
            targets("a", "10.0.0.1", "10.0.0.9"),
            targets("b", "10.0.0.2"),
            "delete element inet weir-host probes-v4 { 10.0.0.1, 10.0.0.9 }",
        ),
        ((), targets("b", "fd00::1", "fd00::2"), 'add element inet weir-host probes-v6 { fd00::1 comment "b", '),
        (targets("a", "10.0.0.1", ports=(80,)), (), "delete element inet weir-host probe-ports-v4 { 10.0.0.1 . 80 }"),
    ],
    ids=["one that goes isn't there", "one that comes is", "nothing is in the set"],
)
def test_what_is_refused_is_named_and_nothing_has_changed(
    handle: Handle, node: Namespace, taken: tuple[ProbeTarget, ...], added: tuple[ProbeTarget, ...], said: str
) -> None:
    with pytest.raises(KernelError) as refused:
        handle.change_elements(HOST_TABLE, taken=sets(*taken), added=sets(*added))
    # Of a set whose elements are named in one message, the kernel doesn't say which it was.
    assert refused.value.statement.replace(' comment "a"', "").startswith(said)
    assert elements(node) == {"10.0.0.1": "a", "fd00::1": "a"}


def test_more_elements_than_a_message_holds(handle: Handle, node: Namespace) -> None:
    many = tuple(ProbeTarget(address=ip_address(f"fd00::{n:x}"), owner="x" * 36) for n in range(16, 3016))
    handle.change_elements(HOST_TABLE, taken=(), added=sets(*many))
    assert len(elements(node)) == 3002
    handle.change_elements(HOST_TABLE, taken=sets(*many), added=())
    assert elements(node) == {"10.0.0.1": "a", "fd00::1": "a"}
