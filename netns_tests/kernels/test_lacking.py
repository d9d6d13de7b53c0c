"""What Weir does on a kernel that lacks something, as the table of features says it.

The kernel is this one behind a stub at the socket, for no kernel at hand lacks these; what those at hand lack is shown
on them, in test_older.py.
"""

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.daemon.run import run
from agent.daemon.settings import Settings
from agent.errors import FeatureMissing, KernelError
from agent.kernel.features import FEATURES, Feature, missing, missing_needed, probe
from agent.observe.endpoints import parse_listen
from agent.targets import Outcome, State
from netns_tests.enrolling import Weir, alive, capture, every_way, kernel_state, slow, ways
from netns_tests.kernel_tables import GOLDENS
from netns_tests.kernels.lacking import LACKS, lacking
from netns_tests.namespace import Namespace
from netns_tests.proxy import Proxy
from netns_tests.traffic import Stream
from netns_tests.world import Host, World, eventually
from rulesets.diff import diff

CAPTURED = ["captured"] * 4
# Found by a function; the proofs by rules are loaded by nft, and test_features.py has those.
BY_FUNCTION = [each for each in FEATURES if callable(each.proof) and each.name in LACKS]


def refused(outcome: Outcome, *words: str) -> None:
    assert outcome.state is State.FAILED, outcome.reason
    assert [each for each in words if each not in outcome.reason] == []


@pytest.fixture(scope="module")
def lacked(root: None) -> set[str]:
    """What this kernel lacks by itself."""
    return {each.feature.name for each in missing(probe())}


@pytest.mark.parametrize(
    "feature",
    [pytest.param(each, id=each.name) for each in BY_FUNCTION],
)
def test_the_proof_finds_it_and_nothing_else(feature: Feature, lacked: set[str]) -> None:
    with lacking(feature.name):
        found = probe()
    assert [each.feature for each in missing(found) if each.feature.name not in lacked] == [feature]
    assert bool(missing_needed(found)) == feature.needed


@pytest.mark.parametrize("name", [each.name for each in BY_FUNCTION if each.needed])
def test_the_daemon_does_not_start_without_what_is_needed(tmp_path: Path, name: str) -> None:
    file = tmp_path / "weir.toml"
    file.write_text("[defaults]\n")
    settings = Settings(file=file, listen=parse_listen(f"unix:{tmp_path}/http.sock"))
    with lacking(name), pytest.raises(FeatureMissing, match=name) as said:
        run(settings)
    assert said.value.option in str(said.value)
    assert said.value.hint


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A wish that fails with these words, one that is carried out all the same, and how connections then fare."""

    refused: dict[str, object] = field(default_factory=dict)
    words: str
    works: dict[str, object] = field(default_factory=dict)
    ways: list[str] = field(default_factory=lambda: CAPTURED)


IPV4: dict[str, object] = {"families": ["ipv4"]}
CASES = {
    "connection zones": Case(words="ct original zone set 1", works={"dns": False}),
    "user of a socket": Case(refused={"proxy_user": 4711}, words="meta skuid 4711"),
    "wildcards of interfaces": Case(
        refused={"virtual_interfaces": ["br-*"]}, words='iifname "br-*"', works={"virtual_interfaces": ["br0"]}
    ),
    "sets of networks and port ranges": Case(refused={"exclude_outbound_networks": ["192.0.2.0/24"]}, words="add set"),
    "reject in prerouting": Case(
        refused=IPV4,
        words="reject",
        works={**IPV4, "uncapturable": "direct"},
        ways=["captured"] * 2 + ["direct"] * 2,
    ),
    "IPv6 policy rules with a protocol number": Case(
        words="-6 rule", works=IPV4, ways=["captured"] * 2 + ["refused"] * 2
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_target_that_needs_it_fails_and_another_is_captured(
    world: World, pod: Host, tmp_path: Path, name: str
) -> None:
    case = CASES[name]
    before = kernel_state(pod)
    with lacking(name), Proxy(pod), Weir(pod, tmp_path) as weir:
        refused(weir.capture(capture(**case.refused)), case.words)
        assert kernel_state(pod) == before
        assert weir.capture(capture(**case.works)).state in (State.APPLIED, State.DEGRADED)
        assert ways(world, pod) == case.ways
        assert weir.remove().state is State.REMOVED
    assert kernel_state(pod) == before


@pytest.mark.parametrize("established", ["keep", "reset"])
def test_without_tcp_flags_open_streams_are_not_kept_and_not_cut(
    world: World, pod: Host, tmp_path: Path, stack: ExitStack, established: str
) -> None:
    before = kernel_state(pod)
    streams = every_way(stack, world, pod)
    with lacking("TCP flags"), Proxy(pod), Weir(pod, tmp_path) as weir:
        refused(weir.capture(established=established), "tcp flags")
        assert alive(streams) == ["alive"] * 4
        assert kernel_state(pod) == before
    with lacking("TCP flags"), Namespace.create("quiet") as quiet, Proxy(quiet), Weir(quiet, tmp_path) as weir:
        assert weir.capture().state is State.APPLIED  # nothing is open, and nobody but the proxy listens


def test_without_sets_of_pairs_the_nodes_probes_are_refused_by_name(tmp_path: Path) -> None:
    with lacking("sets of address and port"), Namespace.create() as node, Weir(node, tmp_path) as weir:
        with pytest.raises(KernelError, match="add set inet weir-host probe-ports-v4"):
            weir.call(weir.handle.apply, diff(None, GOLDENS["node-probe-ports"]))
        assert weir.handle.read("weir-host") is None


def test_without_the_ending_of_sockets_a_removal_waits_for_captured_streams(
    world: World, pod: Host, tmp_path: Path
) -> None:
    before = kernel_state(pod)
    with lacking("ending of sockets"), Proxy(pod), Weir(pod, tmp_path) as weir, ExitStack() as stack:
        assert weir.capture().state is State.APPLIED
        streams = every_way(stack, world, pod)
        waiting = weir.remove()
        assert waiting.state is State.DRAINING
        assert waiting.draining >= len(streams)
        assert alive(streams) == ["alive"] * 4
        assert ways(world, pod) == ["direct"] * 4
        stack.close()
        weir.remove_until_done(0, slow(10))
    assert kernel_state(pod) == before


def test_without_the_ending_of_sockets_a_reset_comes_with_the_next_segment(
    world: World, pod: Host, tmp_path: Path, stack: ExitStack
) -> None:
    speaking = Stream(pod, world.outside, (world.outside.v4, 0), interval=0.01)
    stack.enter_context(speaking)
    with lacking("ending of sockets"), Proxy(pod), Weir(pod, tmp_path) as weir:
        assert weir.capture(established="reset").captured
        eventually(lambda: "alive" not in speaking.outcome(), "the next segment ended it", slow(5))
        assert ways(world, pod) == CAPTURED
