"""Sampled connections in the daemon's metrics: just as many rules as one counts by hand."""

import socket
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from netns_tests.daemon import CAPTURE, PROXY, Daemon, listening, targets
from netns_tests.namespace import Namespace

SO_MARK = 36
SAMPLED = f"{CAPTURE}\nsample = 1"
# What is dialled, how often, and how many rules it meets, the sampling rule aside: mangle-out has two, nat-out nine
# (proxy, not TCP, loopback of either family, probes of either, reply, to itself, the redirect), nat-pre seven.
OUTSIDE, LOOPBACK, DATAGRAM, FROM_PROXY, ARRIVING, TUNNELLED = 11, 5, 4, 3, 7, 6
MATRIX = {
    ("outbound-redirect", OUTSIDE): 3,
    ("outbound-loopback", LOOPBACK): 2,
    ("outbound-not-tcp", DATAGRAM): 4,
    ("outbound-from-proxy", FROM_PROXY): 1,
    ("inbound-redirect", ARRIVING): 2,
    ("inbound-hbone", TUNNELLED): 1,
}


@pytest.fixture
def pair(stack: ExitStack) -> tuple[Namespace, Namespace]:
    """Two namespaces with a link between them."""
    here, there = (stack.enter_context(Namespace.create("sampled")) for _ in range(2))
    here.ip(
        f"link add eth0 type veth peer name eth0 netns {there.name}",
        "link set eth0 up",
        "addr add 10.5.0.1/24 dev eth0",
    )
    there.ip("link set eth0 up", "addr add 10.5.0.2/24 dev eth0")
    return here, there


def dial(place: Namespace, address: str, port: int, mark: int = 0) -> None:
    with place.socket(socket.AF_INET) as client, suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
        client.settimeout(5)
        client.connect((address, port))


def test_the_figures_are_those_that_one_counts_by_hand(
    pair: tuple[Namespace, Namespace], tmp_path: Path, stack: ExitStack
) -> None:
    here, there = pair
    for each in (*listening(here, *PROXY, 15008, 8080), *listening(there, 80)):
        stack.enter_context(each)
    daemon = stack.enter_context(Daemon(tmp_path, targets([here], SAMPLED)))
    daemon.start()
    daemon.eventually(lambda: ("weir_trace_events_lost_total", ("t0",)) in daemon.metrics(), "it listens")
    for _ in range(3):
        dial(here, "10.5.0.2", 80)
    for _ in range(2):
        dial(here, "127.0.0.1", 8080)
        dial(there, "10.5.0.1", 80)
    dial(here, "10.5.0.2", 80, mark=0x539)
    dial(there, "10.5.0.1", 15008)
    for number in range(4):
        with here.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"x", ("10.5.0.2", 7 + number))
    expected = {path: times for (path, _), times in MATRIX.items()}

    def counted() -> bool:
        found = daemon.metrics()
        return found.get(("weir_rules_evaluated_count", ("t0",))) == sum(MATRIX.values())

    daemon.eventually(counted, "every connection was sampled")
    found = daemon.metrics()
    assert {key[1]: value for key, value in paths(found).items()} == expected
    assert found["weir_rules_evaluated_sum", ("t0",)] == sum(rules * times for (_, rules), times in MATRIX.items())
    for most in (3, 5, 8, 10, 15):
        within = sum(times for (_, rules), times in MATRIX.items() if rules <= most)
        assert bucket(found, most) == within
    assert found["weir_trace_events_lost_total", ("t0",)] == 0


def paths(found: dict[tuple[str, tuple[str, ...]], float]) -> dict[tuple[str, str], float]:
    shown = {labels: value for (name, labels), value in found.items() if name == "weir_verdict_paths_total"}
    return {("t0", next(each for each in labels if each != "t0")): value for labels, value in shown.items()}


def bucket(found: dict[tuple[str, tuple[str, ...]], float], most: int) -> float:
    return next(
        value
        for (name, labels), value in found.items()
        if name == "weir_rules_evaluated_bucket" and f"{float(most)}" in labels
    )


def test_without_the_setting_nothing_is_listened_to(tmp_path: Path, stack: ExitStack) -> None:
    here = stack.enter_context(Namespace.create("sampled"))
    for each in listening(here, *PROXY):
        stack.enter_context(each)
    daemon = stack.enter_context(Daemon(tmp_path, targets([here])))
    daemon.start()
    assert not [name for name, _ in daemon.metrics() if name.startswith(("weir_rules_evaluated", "weir_verdict"))]
    assert "nftrace" not in here.command("nft", "list", "ruleset")
