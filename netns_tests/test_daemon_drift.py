"""What others do to rules and routes that the daemon doesn't own: repaired by event, and nothing else is touched."""

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from netns_tests.daemon import PROXY, Daemon, listening, rules, targets
from netns_tests.namespace import Namespace

Kept = tuple[Daemon, Namespace]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """Give a namespace that a daemon keeps captured, by events alone."""
    with ExitStack() as stack:
        pod = stack.enter_context(Namespace.create("pod"))
        for each in listening(pod, *PROXY):
            stack.callback(each.close)
        directory = tmp_path_factory.mktemp("drift")
        daemon = stack.enter_context(Daemon(directory, targets([pod]), "--resync", "36000", "--no-own")).start()
        daemon.eventually(lambda: daemon.state("t0") == "unchanged", "it is captured")
        yield daemon, pod


def eventually_as(kept: Kept, before: str) -> None:
    daemon, pod = kept
    daemon.eventually(lambda: rules(pod) == before, "rules and routes are as before")
    daemon.eventually(lambda: daemon.state("t0") == "unchanged", "the daemon says so")


@pytest.mark.parametrize(
    "damage",
    [
        "nft flush ruleset",
        "nft delete table inet weir-pod",
        "nft flush table inet weir-pod",
        "nft flush chain inet weir-pod nat-out",
        "nft insert rule inet weir-pod nat-out accept",
        "nft add rule inet weir-pod nat-pre counter",
        "nft add chain inet weir-pod foreign",
        "nft reset counters",
        "ip rule del priority 32764",
        "ip -6 rule del priority 32764",
        "ip rule add priority 4 fwmark 9 lookup 100 proto 119",
        "ip route flush table 100; ip -6 route flush table 100",
        "ip rule del priority 32764; ip -6 rule del priority 32764; ip route flush table 100; nft flush ruleset",
        "sysctl -qw net.ipv6.conf.lo.disable_ipv6=1; sleep 0.3; sysctl -qw net.ipv6.conf.lo.disable_ipv6=0",
        "sysctl -qw net.ipv6.conf.all.disable_ipv6=1; sleep 0.3; sysctl -qw net.ipv6.conf.all.disable_ipv6=0",
        "ip link set lo down; sleep 0.3; ip link set lo up",
        "ip link set lo down; ip link set lo up",
    ],
)
def test_damage_is_repaired(kept: Kept, damage: str) -> None:
    _, pod = kept
    before = rules(pod)
    pod.command("sh", "-ec", damage)
    eventually_as(kept, before)


def test_a_storm_ends_right_and_costs_little(kept: Kept) -> None:
    daemon, pod = kept
    before = rules(pod)

    def passes() -> float:
        return sum(value for (name, _), value in daemon.metrics().items() if name == "weir_passes_total")

    began, first = time.monotonic(), passes()
    pod.command("sh", "-c", "for n in $(seq 300); do nft flush ruleset; done")
    eventually_as(kept, before)
    # Ten a second at most, however many events there were, and one that was under way at either end.
    assert passes() - first <= 10 * (time.monotonic() - began) + 2
    assert daemon.metrics()[("weir_changes_total", ())] > 1


def test_what_others_have_is_left_alone(kept: Kept) -> None:
    daemon, pod = kept
    ours = rules(pod)
    pod.nft(
        'table ip nat { chain mine { type nat hook output priority -100; tcp dport 1 counter accept comment "x"; }; }'
    )
    pod.nft("table inet weir-foreign { set s { type ipv4_addr; elements = { 192.0.2.1 } }; }")
    pod.ip("rule add priority 77 fwmark 0x77 lookup 77", "route add local 192.0.2.0/24 dev lo table 77")

    def lines() -> list[str]:
        # Tables are listed in the order in which they were made, and ours may have been made anew.
        return sorted(rules(pod, everything=True).splitlines())

    before = lines()
    assert any("weir-foreign" in each for each in before)
    assert any("192.0.2.0/24" in each for each in before)
    for damage in ("delete table inet weir-pod", "flush table inet weir-pod", "add chain inet weir-pod other"):
        pod.command("nft", damage)
        daemon.eventually(lambda: lines() == before, "all is as before")
    pod.nft("delete table ip nat; delete table inet weir-foreign")
    pod.ip("rule del priority 77", "route flush table 77")
    eventually_as(kept, ours)
    assert daemon.state("t0") == "unchanged"
