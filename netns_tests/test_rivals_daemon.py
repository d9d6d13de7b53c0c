"""A daemon tells which rules of others take traffic from a target; and whose a table is, where that isn't expected."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netns_tests.command import Command
from netns_tests.daemon import Daemon, targets
from netns_tests.proxy import Proxy
from netns_tests.rivals import owner_of
from netns_tests.test_rivals import PORT, TAKING, WHERE, lock, proxy, reached, weir
from netns_tests.world import Host, World
from rulesets import nft
from rulesets import pod as pods
from rulesets.capture import Capture

__all__ = ["lock", "proxy", "weir"]  # fixtures


@pytest.fixture
def daemon(pod: Host, proxy: Proxy, tmp_path: Path, lock: dict[str, str]) -> Iterator[Daemon]:
    with Daemon(tmp_path, targets([pod], 'when_proxy_absent = "wait"'), "--resync", "2", environment=lock) as made:
        yield made


def told(daemon: Daemon) -> list[dict[str, Any]]:
    return list(daemon.target("t0").get("rivals", ()))


@pytest.mark.parametrize("name", ["nft marks", "iptables-nft", "iptables-legacy"])
def test_a_daemon_tells_who_takes_and_that_it_is_over(
    world: World, pod: Host, proxy: Proxy, daemon: Daemon, name: str
) -> None:
    command, place, fate = TAKING[name]
    daemon.start()
    daemon.eventually(lambda: daemon.state("t0") == "unchanged", "it is captured")
    assert daemon.metrics()["weir_target_rivals", ("true", "t0")] == 0
    pod.command(*command)
    daemon.eventually(lambda: told(daemon), "it is told")
    (rival,) = told(daemon)
    assert (rival["certain"], rival["place"], rival["packet"], rival["fate"]) == (True, place, WHERE, fate)
    daemon.eventually(lambda: daemon.state("t0") == "degraded", "it is said so")
    assert daemon.metrics()["weir_target_rivals", ("true", "t0")] == 1
    assert daemon.metrics()["weir_target_captured", ("t0",)] == 0
    assert f"{WHERE} {fate}, by {place}" in daemon.log
    if name.startswith("nft"):
        pod.nft("delete table inet theirs")
        daemon.eventually(lambda: daemon.state("t0") == "unchanged", "it is over", 30)
        assert told(daemon) == []
        assert reached(world, pod, proxy, PORT)


def test_somebody_who_changes_rules_without_end_keeps_no_daemon_busy(pod: Host, daemon: Daemon) -> None:
    daemon.start()
    daemon.eventually(lambda: daemon.state("t0") == "unchanged", "it is captured")
    pod.command(*TAKING["nft marks"][0])
    daemon.eventually(lambda: told(daemon), "it is told")
    for number in range(30):
        pod.nft(f"add rule inet theirs first tcp dport {9000 + number} drop")
    daemon.eventually(lambda: len(told(daemon)) > 1, "the newest is told in the end", 30)


# Owners


def test_whose_the_table_is_is_said_though_its_rules_are_as_wanted(pod: Host, proxy: Proxy, weir: Command) -> None:
    body = nft.render(pods.build(Capture())).partition("{\n")[2].rpartition("}")[0]
    with owner_of(pod, "owner", f"table inet weir-pod {{ flags owner;\n{body}}}") as owner:
        weir("apply", "--netns", pod.name)  # the routes
        done = weir.json("status", "--netns", pod.name)
        assert f"process {owner.pid} (" in done.target["owner"]
        assert "netlink port" in done.target["owner"]
        rules = next(each for each in done.target["checks"] if each["check"] == "rules")
        assert (rules["holds"], rules["said"]) == (True, f"as wanted; the table is owned by {done.target['owner']}")
        assert f"the table is owned by process {owner.pid} (" in weir("verify", "--netns", pod.name).out


def test_the_daemons_own_table_is_nobody_elses(pod: Host, daemon: Daemon) -> None:
    daemon.start()
    daemon.eventually(lambda: daemon.state("t0") == "unchanged", "it is captured")
    found = daemon.weir.json("status", "--netns", pod.name).target
    assert (found["owner"], found["captured"]) == ("", True)
