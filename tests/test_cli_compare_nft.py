"""`weir compare` with nft's listings: everybody's tables, what can't be read, and what no packet meets."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rulesets import nft, pod
from rulesets.capture import Capture
from rulesets.equivalence import WANTED
from tests.test_cli_compare import compare, expecting, place, written

__all__ = ["place"]  # the fixture

LISTINGS = Path(__file__).parent / "listings"


def as_json(**settings: Any) -> str:
    return nft.render_json(pod.build(Capture.parse(settings)))


def test_nft_in_json_is_compared_in_both_families(place: Path) -> None:
    listing = written(place, "nft.json", as_json(exclude_outbound_ports=[9999]))
    excluded = ["--set", "exclude_outbound_ports=[9999]"]
    done = compare(*excluded, "--with", listing)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(r"equal for all packets: \d+ cells\n", done.stdout)
    done = compare("--set", "dns=true", "--with", listing, "--output", "json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["answer"], found["families"]) == (1, "not equal", ["ipv4", "ipv6"])
    assert {each["there"]["slug"] for each in found["differences"]} == {"outbound-excluded-port"}
    assert all(
        "to 10.9.0.1:9999 tcp" in each["packet"] or "[fd00:9::1]:9999" in each["packet"]
        for each in found["differences"]
    )


def test_a_table_that_cannot_be_read_is_never_called_equal(place: Path) -> None:
    document = json.loads(as_json())
    for added in (
        {"table": {"family": "netdev", "name": "early"}},
        {"table": {"family": "bridge", "name": "nat"}},
        {"table": {"family": "ip", "name": "a name"}},
    ):
        more = {"nftables": [*document["nftables"], added]}
        done = compare("--set", "dns=true", "--with", written(place, "nft.json", json.dumps(more)))
        assert (done.returncode, done.stderr) == (2, "")
        assert done.stdout.startswith("unknown: 1 table can't be read\n")


def test_a_chain_that_cannot_be_read_is_never_called_equal(place: Path) -> None:
    document = json.loads(as_json())
    place_of = {"family": "inet", "table": "weir-pod"}
    document["nftables"].append(
        {"chain": {**place_of, "name": "early", "type": "filter", "hook": "ingress", "prio": 0}}
    )
    done = compare("--set", "dns=true", "--with", written(place, "nft.json", json.dumps(document)))
    assert (done.returncode, done.stderr) == (2, "")
    assert '"hook": "ingress"' in done.stdout


def test_what_no_packet_meets_is_no_difference(place: Path) -> None:
    """A chain that nothing leads to, a map, an empty table, and one whose chains aren't called."""
    dormant = {"family": "ip", "name": "asleep", "flags": ["dormant"]}
    chain = {"family": "ip", "table": "asleep", "name": "c", "type": "filter", "hook": "output", "prio": 0}
    document = json.loads(as_json())
    document["nftables"] += [
        {"chain": {"family": "inet", "table": "weir-pod", "name": "called/by.none"}},
        {"map": {"family": "inet", "table": "weir-pod", "name": "m", "type": "ipv4_addr", "map": "verdict"}},
        {"table": {"family": "ip6", "name": "empty"}},
        {"table": dormant},
        {"chain": {**chain, "policy": "drop"}},
    ]
    path = written(place, "nft.json", json.dumps(document))
    done = compare("--set", "dns=true", "--with", path)
    assert (done.returncode, done.stderr) == (0, "")
    path.write_text(path.read_text().replace('["dormant"]', "[]"))
    done = compare("--set", "dns=true", "--with", path)
    assert done.returncode == 1
    assert " and decided by the policy of c in table asleep there\n" in done.stdout


def test_istios_own_nft_tables_equal_the_wish_but_for_what_is_wanted(place: Path) -> None:
    listing = written(place, "istio.json", (LISTINGS / "istio.json").read_text())
    guests = ["--set", 'virtual_interfaces=["guest0", "br-0"]']
    done = compare(*guests, "--with", listing, *expecting(*WANTED))
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(r"equal for all packets, but for 6 expected differences: \d+ cells\n", done.stdout)
    listing.write_text(listing.read_text().replace('"port": 15006', '"port": 15007'))
    done = compare(*guests, "--with", listing, *expecting(*WANTED))
    assert done.returncode == 1
    told = "is sent to port 15006 by inbound-redirect here and redirected to 15007 by rule "
    assert told in done.stdout.partition("\n")[0]
    assert done.stdout.partition("\n")[0].endswith(" of istio-prerouting in table istio-ambient-nat there")


def test_what_only_iptables_can_read_is_unknown_and_says_so(place: Path) -> None:
    listing = written(place, "nft.json", (LISTINGS / "iptables-nft.json").read_text())
    done = compare("--against", listing, "--with", listing)
    assert (done.returncode, done.stderr) == (2, "")
    assert "  unknown: table ip nat holds parts of iptables' own, which nft doesn't tell\n" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("compare with what iptables-save and ip6tables-save print")


@pytest.mark.parametrize("chain", ["there", "missing"])
def test_a_circle_of_chains_is_an_error(place: Path, chain: str) -> None:
    at = {"family": "ip", "table": "t"}
    objects = [{"table": {"family": "ip", "name": "t"}}, {"chain": {**at, "name": "there"}}]
    rule = {"rule": {**at, "chain": "there", "expr": [{"jump": {"target": chain}}]}}
    path = written(place, "nft.json", json.dumps({"nftables": [*objects, rule]}))
    done = compare("--set", "dns=true", "--with", path)
    assert (done.returncode, done.stdout) == (2, "")
    why = {"there": "chain 'there' leads back to itself", "missing": "chain 'missing' does not exist"}[chain]
    assert done.stderr.startswith(f"weir: {path}: table ip t: chain 'there', rule 1: {why}\n")


def test_a_policy_of_one_family_is_that_of_both(place: Path) -> None:
    """An inet chain that drops, beside a save of one family."""
    table = {"family": "inet", "name": "firewall"}
    chain = {"family": "inet", "table": "firewall", "name": "out", "type": "filter", "hook": "output", "prio": 0}
    listed = {"nftables": [{"table": table}, {"chain": {**chain, "policy": "drop"}}]}
    one = written(place, "one", json.dumps(listed))
    other = written(place, "other", "# Generated by iptables-save v1.8.9\n*filter\n:OUTPUT DROP [0:0]\nCOMMIT\n")
    done = compare("--against", one, "--with", other)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(r"equal for all IPv4 packets: \d+ cells\n", done.stdout)
    assert "\n  IPv6 was not compared: no file tells of it on both sides\n" in done.stdout
    other.write_text(other.read_text().replace("DROP", "ACCEPT"))
    done = compare("--against", one, "--with", other)
    assert done.returncode == 1
    told = " is dropped by rule 1 of out in table firewall here and left alone, for no rule is about it there\n"
    assert told in done.stdout
