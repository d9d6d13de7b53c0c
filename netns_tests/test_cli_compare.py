"""`weir compare` with what is in force in a namespace: iptables' rules of both flavours, nft's tables, both at once."""

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from agent.kernel.iptables import Flavour
from netns_tests.command import Command, Done
from netns_tests.istio_rules import istio_rules
from netns_tests.namespace import Namespace
from rulesets import iptables, nft, pod
from rulesets.capture import Capture
from rulesets.equivalence import WANTED
from rulesets.vocabulary import Family
from tests.istio_saves import istio_save

GUESTS = ("guest0", "br-0")
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "dns off and ingress": {"dns": False, "ingress": True},
    "virtual interfaces": {"virtual_interfaces": GUESTS},
}
CAPTURED = "10.0.0.5:40000 to 10.9.0.1:443 tcp, new, outgoing"
EXPECTED = tuple(word for slug in WANTED for word in ("--expect", slug))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Namespace]:
    """A namespace; the lock of iptables' programs is the test's own."""
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    with Namespace.create("compare") as made:
        yield made


@pytest.fixture
def weir(tmp_path: Path) -> Command:
    return Command(tmp_path / "run", environment={"XTABLES_LOCKFILE": str(tmp_path / "xtables.lock")})


def restore(place: Namespace, flavour: Flavour, family: Family, text: str) -> None:
    place.command(f"{iptables.PROGRAMS[family]}-{flavour}-restore", "--noflush", stdin=text)


def compare(weir: Command, place: Namespace, *arguments: str) -> Done:
    return weir("compare", "--netns", place.name, *arguments)


def first(done: Done) -> str:
    return done.out.partition("\n")[0]


def settings_of(case: dict[str, Any]) -> list[str]:
    lists = {name: list(value) if isinstance(value, tuple) else str(value).lower() for name, value in case.items()}
    return [word for name, value in lists.items() for word in ("--set", f"{name}={value}")]


@pytest.mark.parametrize(("flavour", "name"), list(product(Flavour, CASES)))
def test_istios_rules_equal_the_wish_but_for_what_is_wanted(
    place: Namespace, weir: Command, flavour: Flavour, name: str
) -> None:
    for family in Family:
        restore(place, flavour, family, istio_save(family, **CASES[name]))
    done = compare(weir, place, *settings_of(CASES[name]), "--with", flavour, *EXPECTED)
    assert (done.code, done.err) == (0, "")
    assert re.match(r"equal for all packets, but for \d expected differences: \d+ cells$", first(done))
    assert f"  there: iptables-{flavour}: " in done.out
    other = next(each for each in Flavour if each is not flavour)
    done = compare(weir, place, "--with", other)
    assert done.code == 1
    assert (
        f"  there: no rules of {'nft' if other is Flavour.NFT else 'iptables-legacy'} (iptables-{flavour}: " in done.out
    )
    assert first(done).startswith(
        f"not equal: {CAPTURED} is redirected to 15001 by outbound-redirect here and left alone"
    )


@pytest.mark.parametrize("flavour", Flavour)
def test_weirs_rules_in_iptables_are_equal_and_a_changed_one_gives_a_packet(
    place: Namespace, weir: Command, flavour: Flavour
) -> None:
    rules = pod.build(Capture())
    for family in Family:
        restore(place, flavour, family, iptables.render(rules, family))
    done = compare(weir, place, "--with", flavour)
    assert (done.code, done.err) == (0, "")
    assert re.match(r"equal for all packets: \d+ cells$", first(done))
    place.command(f"iptables-{flavour}", "-t", "nat", "-I", "OUTPUT", "-p", "tcp", "--dport", "8443", "-j", "ACCEPT")
    done = compare(weir, place, "--with", flavour)
    assert done.code == 1
    packet = "10.0.0.5:40000 to 10.9.0.1:8443 tcp, new, outgoing"
    done_here = "redirected to 15001 by outbound-redirect here"
    assert first(done) == f"not equal: {packet} is {done_here} and accepted by rule 1 of nat/OUTPUT there"


def test_both_flavours_are_in_force_together(place: Namespace, weir: Command) -> None:
    """Half of the rules in each."""
    rules = pod.build(Capture())
    for flavour, family in zip(Flavour, Family, strict=True):
        restore(place, flavour, family, iptables.render(rules, family))
    assert compare(weir, place, "--with", "legacy").code == 1
    assert compare(weir, place, "--with", "nft").code == 1
    done = compare(weir, place, "--with", "legacy", "--with", "nft")
    assert (done.code, done.err) == (0, "")


def test_weirs_table_is_compared(place: Namespace, weir: Command) -> None:
    place.nft(nft.render(pod.build(Capture())))
    done = compare(weir, place, "--with", "nft")
    assert (done.code, done.err) == (0, "")
    assert re.match(r"equal for all packets: \d+ cells$", first(done))
    assert "  there: table inet weir-pod in " in done.out
    listed = weir("compare", "--netns", place.name, "--with", "nft", "--set", "outbound_port=15002")
    assert listed.code == 1
    told = "is redirected to 15002 by outbound-redirect here and redirected to 15001 by outbound-redirect there"
    assert first(listed) == f"not equal: {CAPTURED} {told}"


def test_what_is_in_force_is_compared_with_a_save_of_it(place: Namespace, weir: Command, tmp_path: Path) -> None:
    restore(place, Flavour.LEGACY, Family.IPV4, istio_save(Family.IPV4))
    save = tmp_path / "save"
    save.write_text(place.command("iptables-legacy-save", "-c"))
    done = compare(weir, place, "--against", "legacy", "--with", str(save))
    assert (done.code, done.err) == (0, "")
    assert first(done).startswith("equal for all IPv4 packets: ")


def test_what_cannot_be_read_is_unknown(place: Namespace, weir: Command) -> None:
    place.nft(nft.render(pod.build(Capture())))
    place.nft("table ip foreign { chain c { type nat hook output priority -150; }; }")
    done = compare(weir, place, "--with", "nft")
    assert (done.code, done.err) == (0, "")
    assert "  there: table inet weir-pod, table ip foreign in " in done.out
    place.nft("table netdev early { }")
    done = compare(weir, place, "--with", "nft")
    assert (done.code, done.err) == (2, "")
    assert first(done) == "unknown: 1 table can't be read"
    assert "  unknown: table netdev early: only tables of the families inet, ip and ip6 are read\n" in done.out


def test_a_foreign_match_is_unknown(place: Namespace, weir: Command) -> None:
    for family in Family:
        restore(place, Flavour.LEGACY, family, iptables.render(pod.build(Capture()), family))
    half = ("-m", "statistic", "--mode", "random", "--probability", "0.5")
    place.command("iptables-legacy", "-t", "filter", "-A", "OUTPUT", *half, "-j", "DROP")
    done = compare(weir, place, "--with", "legacy")
    assert (done.code, done.err) == (2, "")
    assert first(done).startswith("unknown for ")
    found = compare(weir, place, "--with", "legacy", "--output", "json").json
    assert found["answer"] == "unknown"
    assert found["unknown"] > 0
    assert "statistic" in found["reasons"][0]


@pytest.mark.parametrize("name", CASES)
def test_istios_own_nft_tables_equal_the_wish_but_for_what_is_wanted(
    place: Namespace, weir: Command, name: str
) -> None:
    place.nft(istio_rules(**CASES[name]))
    done = compare(weir, place, *settings_of(CASES[name]), "--with", "nft", *EXPECTED)
    assert (done.code, done.err) == (0, "")
    assert re.match(r"equal for all packets, but for \d expected differences: \d+ cells$", first(done))
    assert "  there: table inet istio-ambient-nat, table inet istio-ambient-mangle" in done.out


def test_a_table_of_iptables_name_that_nft_wrote_is_read_by_nft(place: Namespace, weir: Command) -> None:
    """iptables-nft refuses to list it."""
    place.nft("table ip nat { chain out { type nat hook output priority -100; tcp dport 80 dnat to 10.0.0.9:81; }; }")
    place.nft(nft.render(pod.build(Capture())))
    done = compare(weir, place, "--with", "nft")
    assert (done.code, done.err) == (1, "")
    assert "table ip nat" in done.out
    assert first(done).endswith(" and sent to 10.0.0.9, port 81 by rule 1 of out in table nat there")


def test_a_namespace_that_is_not_there_is_an_error(weir: Command) -> None:
    done = weir("compare", "--netns", "compare-nobody", "--with", "legacy")
    assert (done.code, done.out) == (2, "")
    assert "compare-nobody" in done.err
