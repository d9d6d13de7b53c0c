"""Each bench runs, and finds what it promises. Never how long it took: the machine is busy with other tests."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench import __main__ as command
from bench import apply, cni, drift, encode, events, memory, noop, peers, reapply, sampled, scale, scrape
from bench.floor import Floor, built
from bench.places import Supply
from bench.report import Report
from bench.weir import FRESH, RULES, encoded, end_acknowledged, routing_messages
from netns_tests.daemon import rules
from netns_tests.namespace import Namespace
from rulesets import nft
from rulesets.pod import POD_TABLE


def check(report: Report, *, goals: int) -> None:
    names = [each.name for each in report.results]
    assert report.subject in names
    assert len(set(names)) == len(names)
    assert len(report.goals) == goals
    assert all(goal.found > 0 for goal in report.goals if not goal.what.startswith("idle"))
    assert all(each.p50 <= each.p95 for each in report.results)
    assert {name for pair in report.twins for name in pair} <= set(names)
    assert report.twins
    assert json.dumps(report.document())


def test_apply() -> None:
    check(apply.run(1), goals=6)


def test_reapply() -> None:
    check(reapply.run(1), goals=1)


def test_scale() -> None:
    check(scale.run(1, namespaces=6, forked=2), goals=3)


def test_noop() -> None:
    check(noop.run(1, namespaces=4), goals=1)


def test_sampling() -> None:
    check(sampled.run(1), goals=4)


def test_memory() -> None:
    report = memory.run(1, namespaces=4)
    assert report.result(report.subject).p50 > 2**20
    assert json.dumps(report.document())


def test_scrape() -> None:
    check(scrape.run(1, namespaces=6), goals=2)


def test_events() -> None:
    report = events.run(1, seconds=0.1)
    assert report.result(report.subject).p50 > 0
    assert json.dumps(report.document())


def test_encode() -> None:
    check(encode.run(3), goals=1)


@pytest.mark.timeout(600)  # the first one builds the plugin
def test_cni() -> None:
    check(cni.run(3, pods=12, at_once=4, restarts=1, idle=0.1), goals=7)


def test_drift() -> None:
    check(drift.run(1, namespaces=3, flushes=20), goals=3)


def test_the_command_writes_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written, plot = tmp_path / "found.json", tmp_path / "found.svg"
    status = command.main(["encode", "--rounds", "2", "--output", "json", "--json", str(written), "--plot", str(plot)])
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads(written.read_text())
    assert status == (1 if document["void"] else 0)
    assert [each["bench"] for each in document["reports"]] == ["encode"]
    assert document["machine"]["nft"][0].isdigit()
    assert ET.parse(plot).getroot().tag.endswith("svg")  # noqa: S314 - our own


def test_the_floor_does_what_weir_does() -> None:
    with Namespace.create("floor") as namespace, Floor.started((_fresh(),), routing_messages()) as floor:
        parts = floor.fresh(namespace.path)
        assert min(parts.values()) > 0
        assert namespace.command("nft", "list", "table", "inet", POD_TABLE).count("redirect to") == 3
        assert rules(namespace).count("lookup 100") == 2


def test_the_floor_says_what_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    torn = bytearray(_fresh())
    torn[20 + 4] = 0xFF  # the type of the message behind the begin
    with Namespace.create("floor") as namespace, Floor.started((bytes(torn),)) as floor:
        with pytest.raises(RuntimeError, match="ended"):
            floor.fresh(namespace.path)
        assert namespace.command("nft", "list", "ruleset") == ""
    assert "refused" in capfd.readouterr().err


def test_the_floor_is_built_once() -> None:
    assert built() == built()
    assert built().stat().st_mode & 0o100


def test_every_peer_writes_its_rules() -> None:
    with Namespace.create("peer") as namespace:
        assert peers.forks(peers.THREE_FORKS)(namespace) > 0
        assert peers.nft(nft.render(RULES))(namespace) > 0
        assert peers.iptables()(namespace) > 0
        listed = namespace.command("nft", "list", "tables")
        assert "istio-ambient-nat" in listed
        assert POD_TABLE in listed
        for program in ("iptables-legacy-save", "ip6tables-legacy-save"):
            saved = namespace.command(program)
            assert saved.count("-A ISTIO_") == 12
            assert "--to-ports 15006" in saved


def test_what_is_refused_is_no_sample() -> None:
    with Namespace.create("peer") as namespace, pytest.raises(RuntimeError, match="syntax error"):
        peers.nft("nonsense")(namespace)


def test_namespaces_are_fresh_and_go() -> None:
    with Supply.opened() as supply:
        supply.ensure(2, 3)
        first = supply.take(2)
        assert all(each.path.exists() for each in first)
        supply.ensure(3, 3)
        assert not any(each.path.exists() for each in first)
        second = supply.take(3)
        assert not {each.name for each in first} & {each.name for each in second}
    assert not any(each.path.exists() for each in second)


def _fresh() -> bytes:
    return encoded(FRESH, end=end_acknowledged())
