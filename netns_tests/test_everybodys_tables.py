"""Everybody's nft tables as values: what is read of them, written and loaded again is listed as it was."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.against import Live, in_force
from agent.errors import GenerationMoved
from agent.kernel.handle import Handle
from agent.kernel.listing import LiveTables, read_tables
from agent.kernel.netns import Netns
from netns_tests.istio_rules import istio_rules
from netns_tests.namespace import Namespace
from rulesets import nft, pod
from rulesets.capture import Capture
from rulesets.equivalence import WANTED, Equal, prove
from rulesets.model import Ruleset
from rulesets.vocabulary import Jump
from tests.istio_values import istio_tables

LISTINGS = Path(__file__).parent.parent / "tests" / "listings"
GUESTS = ("guest0", "br-0")
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "dns off": {"dns": False},
    "ingress": {"ingress": True},
    "virtual interfaces": {"virtual_interfaces": GUESTS},
    "both": {"ingress": True, "virtual_interfaces": GUESTS},
}
# What a rule can hold that has a variant, in the words in which nft lists it.
KNOWN = """
table inet known {
	counter seen {
		packets 5 bytes 7
	}

	set nets {
		type ipv4_addr
		size 65535
		flags interval
		comment "whose"
		elements = { 10.0.0.0/8, 11.0.0.1-11.0.0.9 comment "ranged" }
	}

	chain in.base/one {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
		ct state { established, new } accept
		ct state != established drop
		ct state invalid,untracked counter packets 0 bytes 0 drop
		ct direction reply accept
		iif "lo" accept
		oif != "lo" accept
		iifname { "br*", "eth0" } accept
		iifname != { "br0", "eth0" } accept
		meta l4proto sctp accept
		tcp dport { 80, 443, 1000-2000 } counter packets 3 bytes 4 accept comment "some text, with stuff"
		udp sport != { 5, 6 } accept
		ip saddr { 1.1.1.1-1.1.1.9, 10.0.0.0/8, 192.168.1.5 } drop
		ip6 daddr != { ::1, fd00::/8 } drop
		ip saddr 10.0.0.1-10.0.0.9 drop
		tcp flags syn accept
		tcp flags syn / fin,syn,rst,ack accept
		tcp flags ! fin,syn accept
		meta skuid { 0, 5 } accept
		meta skgid 5-9 accept
		meta mark { 0x00000001, 0x00000002 } accept
		meta mark & 0x000000ff == { 0x00000001, 0x00000002 } accept
		fib daddr type { local, broadcast } accept
		fib saddr type != local accept
		ip saddr @nets accept
		log prefix "hello: " level info flags all drop
		log group 5 snaplen 100
		counter packets 1 bytes 2 log prefix "counted before" drop
		counter name "seen"
		meta nftrace set 1
		meta mark set meta mark | 0x00004000
		meta mark set meta mark ^ 0x00004000
		meta mark set meta mark & 0xffff0000
		meta mark set ct mark & 0x000000ff
		ct mark set meta mark
		reject with icmpx admin-prohibited
		reject with icmp host-prohibited
		meta l4proto tcp reject with tcp reset
		jump led/to.it
		goto led/to.it
		continue
	}

	chain led/to.it {
		return
	}
}
table ip known {
	chain pre {
		type nat hook prerouting priority dstnat; policy accept;
		dnat to 1.2.3.4
		tcp dport 80 dnat to 1.2.3.4:80
		tcp dport 80 redirect to :80
	}

	chain post {
		type nat hook postrouting priority srcnat; policy accept;
		masquerade fully-random
		snat to 1.2.3.4
	}
}
table ip6 known {
	chain pre {
		type nat hook prerouting priority dstnat; policy accept;
		tcp dport 80 dnat to [fd00::1]:80
	}
}
""".lstrip()


@pytest.fixture
def place(root: None) -> Iterator[Namespace]:
    with Namespace.create("tables") as made:
        yield made


@pytest.fixture
def other(root: None) -> Iterator[Namespace]:
    with Namespace.create("again") as made:
        yield made


def listed(place: Namespace) -> str:
    return place.command("nft", "list", "ruleset")


def read(place: Namespace) -> LiveTables:
    return place.run(read_tables)


def objects_of(listing: str) -> list[str]:
    """The objects of a listing in JSON, without handles, and comments of sets and maps, of which 1.0.6 loads none."""
    found = []
    for each in json.loads(listing)["nftables"]:
        (body,) = each.values()
        body.pop("handle", None)
        if "set" in each or "map" in each:
            body.pop("comment", None)
        found.append(json.dumps(each, sort_keys=True))
    return sorted(found)


def without_place(rulesets: tuple[Ruleset, ...]) -> list[tuple[object, ...]]:
    """Names and rules, in one order: others' chains stay in theirs."""
    return [(each.table, each.family, {chain.name: chain for chain in each.ordered()}) for each in rulesets]


@pytest.mark.parametrize("name", CASES)
def test_istios_tables_are_read_and_written_byte_for_byte(place: Namespace, other: Namespace, name: str) -> None:
    place.nft(istio_rules(**CASES[name]))
    found = read(place)
    assert not found.unread
    assert without_place(found.rulesets) == without_place(istio_tables(**CASES[name]))
    other.nft("".join(map(nft.render, found.rulesets)))
    assert listed(other) == listed(place)


@pytest.mark.parametrize("name", CASES)
def test_istios_tables_equal_the_wish_but_for_what_is_wanted(place: Namespace, name: str) -> None:
    case = CASES[name]
    place.nft(istio_rules(**case))
    capture = {key: list(value) if isinstance(value, tuple) else value for key, value in case.items()}
    proof = prove(pod.build(Capture.parse(capture)), read(place).rulesets, expected=tuple(WANTED))
    assert isinstance(proof, Equal)
    assert proof.expected


def test_all_that_is_known_is_written_as_it_is_listed(place: Namespace, other: Namespace) -> None:
    place.nft(KNOWN)
    assert listed(place) == KNOWN
    found = read(place)
    assert not [rule for each in found.rulesets for rule in each.rules() if rule.foreign]
    assert not any(each.objects or each.foreign for each in found.rulesets)
    other.nft("".join(map(nft.render, found.rulesets)))
    assert listed(other) == KNOWN


@pytest.mark.parametrize("name", ["kube-proxy", "docker", "firewalld"])
def test_others_tables_are_written_as_json_whole(place: Namespace, other: Namespace, tmp_path: Path, name: str) -> None:
    """Maps and what only they lead to stay as they were; nothing is left out."""
    place.nft((LISTINGS / f"{name}.nft").read_text())
    listing = place.command("nft", "-j", "list", "ruleset")
    # What the tests without a kernel read is what it lists.
    assert objects_of(listing) == objects_of((LISTINGS / f"{name}.json").read_text())
    found = read(place)
    assert not found.unread
    assert without_place(found.rulesets)
    rules = sum(len(tuple(each.rules())) for each in found.rulesets)
    assert rules == sum("rule" in each for each in json.loads(listing)["nftables"])
    documents = [json.loads(nft.render_json(each))["nftables"] for each in found.rulesets]
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"nftables": [each for document in documents for each in document]}))
    other.command("nft", "-j", "-f", str(file))
    assert objects_of(other.command("nft", "-j", "list", "ruleset")) == objects_of(listing)


def test_weirs_own_table_is_one_of_them(place: Namespace) -> None:
    rules = pod.build(Capture())
    place.nft(nft.render(rules) + istio_rules())
    found = read(place)
    assert without_place(found.rulesets[:1]) == without_place((rules,))


def test_a_table_with_a_flag_is_read_with_its_chains(place: Namespace) -> None:
    chains = 'chain a/b { counter drop; }; chain c { tcp dport 1 jump a/b comment "x y"; };'
    place.nft(f"table ip t {{ flags dormant; {chains} }}")
    (found,) = read(place).rulesets
    assert found.flags == ("dormant",)
    assert [each.name for each in found.regular] == ["a/b", "c"]
    assert [rule.action for rule in found.rules()][1] == Jump(chain="a/b")


def test_tables_of_iptables_are_left_to_it(place: Namespace) -> None:
    place.command("iptables-nft", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "5")
    found = read(place)
    assert (found.rulesets, [str(each) for each in found.iptables]) == ((), ["ip nat"])
    every = place.run(lambda: read_tables(left=frozenset()))
    assert every.compat == ("table ip nat",)
    assert [rule for each in every.rulesets for rule in each.rules() if rule.foreign]


UNPRINTABLE = [
    'iifname "a\xff" accept',
    'oifname != "a\xff*" accept',
    'iifname { "lo", "a\xff" } accept',
    'iifname vmap { "a\xff" : accept }',
    'meta iifkind "a\xff" accept',
]


@pytest.mark.parametrize("rule", UNPRINTABLE, ids=ascii)
def test_a_name_that_libnftables_dies_of_is_not_put_before_it(place: Namespace, rule: str) -> None:
    table = pod.POD_TABLE
    place.nft(nft.render(pod.build(Capture())) + "table ip other { chain c { ip saddr 200.201.202.203 accept; }; }")
    text = f"add rule inet {table} nat-out {rule}\n".encode("latin-1")
    place.run(lambda: subprocess.run(["nft", "-f", "-"], input=text, check=True))
    found = read(place)
    assert [each.table for each in found.rulesets] == ["other"]
    assert len(found.unread) == 1
    assert "\\xff" in found.unread[0]
    handle = Handle(Netns(place.name))
    try:
        ours = handle.read(table)
    finally:
        handle.close()
    assert ours is not None
    assert ours.foreign


CHANGES = """
import nftables
nft = nftables.Nftables()
while not nft.cmd("add rule ip busy c counter; flush chain ip busy c")[0]:
    pass
"""


def test_rules_that_change_all_the_time_are_no_moment(place: Namespace) -> None:
    place.nft(istio_rules() + "table ip busy { chain c { }; }")
    handle = Handle(Netns(place.name))
    try:
        before = handle.generation()
        busy = place.spawn([sys.executable, "-c", CHANGES])
        while handle.generation() == before:
            assert busy.poll() is None

        def look_often() -> None:  # now and then all is read while the other has no processor
            for _ in range(1000):
                place.run(lambda: in_force(handle, Live.NFT))

        with pytest.raises(GenerationMoved, match="somebody kept changing the rules"):
            look_often()
        busy.kill()
        busy.wait()
        found = place.run(lambda: in_force(handle, Live.NFT))
    finally:
        handle.close()
    assert [each.table for each in found.rulesets] == [*(each.table for each in istio_tables()), "busy"]
