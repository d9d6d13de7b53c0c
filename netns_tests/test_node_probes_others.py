"""Whatever others do to the node's table of probes is mended; what they do to their own is no reason to look."""

from collections.abc import Iterator

import pytest

from agent.drift import Kind
from agent.pods import probes
from netns_tests.namespace import Namespace
from netns_tests.probing import Probing, elements
from netns_tests.world import eventually
from rulesets.host import HOST_TABLE

# What others do to a table that nobody owns.
BLOWS = {
    "flush ruleset": "flush ruleset",
    "delete table": "delete table inet weir-host",
    "flush table": "flush table inet weir-host",
    "flush set": "flush set inet weir-host probes-v4; flush set inet weir-host probe-ports-v6",
    "delete element": "delete element inet weir-host probes-v4 { 10.0.1.2 }",
    "add element": "add element inet weir-host probes-v4 { 10.9.9.9 }",
    "add rule": "insert rule inet weir-host nat-post accept",
    "add chain": "add chain inet weir-host theirs { type filter hook output priority 0; policy accept; }",
    "dormant": "add table inet weir-host { flags dormant; }",
}


@pytest.fixture
def node() -> Iterator[Namespace]:
    with Namespace.create("node") as made:
        yield made


@pytest.mark.parametrize("blow", BLOWS)
def test_what_others_do_to_a_table_that_nobody_owns_is_mended(node: Namespace, blow: str) -> None:
    with Probing(node, flags=None, keep=True) as life:
        life.put("a", "10.0.1.2", "fd00:1::2")
        life.put("b", "10.0.1.3", "fd00:1::3", ports=(80,))
        before = node.command("nft", "-s", "list", "table", "inet", HOST_TABLE)
        for _ in range(3):
            node.nft(BLOWS[blow])
            eventually(lambda: _listed(node) == before, f"{blow} is mended")
        assert life.mended() >= 1
        # The kernel tells who did it; once all three blows came between two looks, once is enough.
        eventually(lambda: life.probes.drifts, "it is told")
        drift = life.probes.drifts[-1]
        assert (drift.kind, drift.culprit and drift.culprit.name) == (Kind.NODE_ELEMENT, "nft")
        assert drift.said.startswith(f"table inet {HOST_TABLE} was changed: ")
        life.put("a", "10.0.1.2", "fd00:1::2")
        assert _listed(node) == before


def _listed(node: Namespace) -> str:
    try:
        return node.command("nft", "-s", "list", "table", "inet", HOST_TABLE)
    except RuntimeError:
        return ""


@pytest.mark.parametrize("blow", BLOWS)
def test_a_pod_that_comes_mends_the_table_too(node: Namespace, blow: str) -> None:
    """Nobody looks after the table here: what the put itself meets decides, and it doesn't return before it is so."""
    with Probing(node, flags=None) as life:
        life.put("a", "10.0.1.2")
        node.nft(BLOWS[blow])
        life.put("a", "10.0.1.2", "10.0.1.3")
        assert elements(node)["10.0.1.3"] == "a"
        life.drop("a")
        assert "10.0.1.3" not in elements(node)


def test_what_others_do_to_tables_of_theirs_is_no_reason_to_look(
    node: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "READ_BACK", 3600.0)
    with Probing(node, flags=None, keep=True) as life:
        life.put("a", "10.0.1.2")
        looks, mend = [], life.probes._mend

        async def counted() -> None:
            looks.append(1)
            await mend()

        life.probes._mend = counted  # type: ignore[method-assign]
        for number in range(50):
            node.nft(f"add table ip kube{number}; add chain ip kube{number} c; add rule ip kube{number} c accept")
            node.nft(f"delete table ip kube{number}")
        node.nft("add table ip weir-hostile; add table inet weir-hostile")
        life.drop("nobody")
        assert not looks
        node.nft("delete element inet weir-host probes-v4 { 10.0.1.2 }")
        eventually(lambda: elements(node) == {"10.0.1.2": "a"}, "it is mended")


def test_a_storm_of_flushes_costs_a_bounded_number_of_looks(node: Namespace) -> None:
    with Probing(node, flags=None, keep=True) as life:
        life.put("a", "10.0.1.2")
        for _ in range(100):
            node.nft("flush ruleset")
        eventually(lambda: elements(node) == {"10.0.1.2": "a"}, "it is mended")
        assert 1 <= life.mended() <= 100
