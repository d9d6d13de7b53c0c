"""What a filter's words mean, and which are refused."""

import itertools

import pytest

from agent.errors import ConfigError
from agent.trace.filter import parse, tracing
from rulesets import nft
from rulesets.diff import Plan
from rulesets.netlink import encode

SYN = "tcp flags & (fin|syn|rst|ack) == syn"
END = 'limit rate 20/second burst 20 packets counter name "traced-out" meta nftrace set 1 comment "traced-out"'


def chain(name: str, *words: str) -> list[str]:
    """Return the rules of one chain of the table that a filter becomes."""
    text = nft.render(tracing(parse(words), rate=20, number=7)).split(f"chain {name} {{")[1]
    return [line.strip() for line in text.split("\t}")[0].splitlines() if "nftrace" in line]


@pytest.mark.parametrize(
    ("words", "rules"),
    [
        ("", [f"{SYN} {END}", f"meta l4proto != tcp {END}"]),
        ("out tcp 10.0.0.0/8:443", [f"{SYN} tcp dport 443 ip daddr 10.0.0.0/8 {END}"]),
        (":53", [f"{SYN} tcp dport 53 {END}", f"udp dport 53 {END}"]),
        ("out udp :8000-8100 ipv6", [f"meta nfproto ipv6 udp dport 8000-8100 {END}"]),
        ("tcp host fd00::7", [f"{SYN} ip6 saddr fd00::7 {END}", f"{SYN} ip6 daddr fd00::7 {END}"]),
        ("tcp [fd00::/8]:443", [f"{SYN} tcp dport 443 ip6 daddr fd00::/8 {END}"]),
        ("icmp", [f"meta l4proto icmp {END}"]),
    ],
)
def test_words_become_matches(words: str, rules: list[str]) -> None:
    assert chain("out-first", *words.split()) == rules
    assert chain("out-first", words) == rules  # in one argument, as quoting makes it


def test_what_comes_in_comes_from_the_peer() -> None:
    (rule,) = chain("in-first", "in", "tcp", "10.0.0.7:80")
    assert "tcp dport 80 ip saddr 10.0.0.7" in rule


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("sideways", "is no word, network or :PORT"),
        ("tcp udp", "a second time which protocol"),
        ("10.0.0.0/8 10.1.0.0/16", "a second time which peer"),
        ("host", "wants an address behind it"),
        ("host fe80::1%eth0", "is no address"),
        ("host 10.0.0.0/8", "is no address"),
        ("10.0.0.1/8", "has host bits set"),
        (":", "wants a port"),
        (":80-", "wants a port"),
        (":80-79", "in rising order"),
        (":65536", "ports of 1 to 65535"),
        (":" + "9" * 5000, "ports of 1 to 65535"),
        (":٣", "wants a port"),
        ("icmp :80", "icmp has no ports"),
        ("icmp ipv6", "two families"),
        ("icmpv6 10.0.0.1", "two families"),
        ("[fd00::1:80", "no closing bracket"),
        ("fe80::1%eth0", "an interface is no part"),
        ("$(reboot)", "is no word"),
    ],
)
def test_what_is_refused_is_named(words: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=r"^filter") as refused:
        parse(words.split())
    assert complaint in str(refused.value).replace("`", "")


def test_whatever_is_taken_becomes_a_batch() -> None:
    """No combination of words makes rules that the ruleset's own types refuse."""
    parts = (
        ("", "in", "out"),
        ("", "ipv4", "ipv6"),
        ("", "tcp", "udp", "icmp", "icmpv6"),
        ("", ":53", "10.0.0.0/8", "fd00::/8", "10.0.0.0/8:1-9"),
        ("", "host 10.0.0.1", "host ::1"),
    )
    taken = 0
    for words in itertools.product(*parts):
        try:
            wanted = parse(words)
        except ConfigError:
            continue
        taken += bool(encode(Plan(actual=None, desired=tracing(wanted, rate=1, number=1)), flags=("owner",)))
    assert taken > 150
