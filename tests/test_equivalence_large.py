"""Long lists of rules: compared where they can be told to do the same, and given up with clear words where not."""

import tracemalloc
from collections.abc import Callable
from ipaddress import ip_address

import pytest

from rulesets import iptables
from rulesets.equivalence import Differs, Equal, Proof, Unknown, prove
from rulesets.equivalence.answers import cells, cheapest, segments, value_at
from rulesets.equivalence.diagrams import Diagrams
from rulesets.equivalence.limits import MOST_STEPS, TooLarge, Work
from rulesets.equivalence.nodes import Node
from rulesets.equivalence.runs import merged
from rulesets.model import Ruleset
from rulesets.packet import Packet, walk
from rulesets.vocabulary import Family, Hook, PortRange, Ports


def address(number: int) -> str:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def save(*lines: str, table: str = "filter", chains: tuple[str, ...] = ()) -> Ruleset:
    declared = [f":{each} - [0:0]" for each in chains]
    return iptables.parse("\n".join([f"*{table}", *declared, *lines, "COMMIT", ""]), Family.IPV4)


def blocked(count: int, without: int = -1) -> list[str]:
    return [f"-A INPUT -s {address(each)}/32 -j DROP" for each in range(count) if each != without]


def alternating(count: int, turned: int = -1) -> list[str]:
    """Return rules no two of which, one after the other, do the same."""
    return [
        f"-A INPUT -s {address(each)}/32 -j {'DROP' if each % 2 ^ (each == turned) else 'ACCEPT'}"
        for each in range(count)
    ]


def highest_memory(compared: Callable[[], Proof]) -> tuple[Proof, int]:
    tracemalloc.start()
    proof = compared()
    _, highest = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return proof, highest


def test_three_thousand_blocked_addresses_are_equal_in_any_order() -> None:
    rules = blocked(3000)
    proof, highest = highest_memory(lambda: prove(save(*rules), save(*reversed(rules))))
    assert isinstance(proof, Equal)
    assert highest < 50_000_000


def test_the_one_address_of_three_thousand_that_is_not_blocked_is_found_with_its_rule() -> None:
    proof = prove(save(*blocked(3000)), save(*blocked(3000, without=1234)))
    assert isinstance(proof, Differs)
    assert proof.witness.first.source == ip_address(address(1234))
    assert (proof.a_decided.number, proof.b_decided.number) == (1235, 0)


def test_what_no_two_neighbours_share_is_compared_rule_by_rule() -> None:
    assert isinstance(prove(save(*alternating(80)), save(*alternating(80))), Equal)


def test_thirty_services_with_a_target_each() -> None:
    """Every connection is followed to its own target: none of them is like another."""

    def services(odd: int) -> Ruleset:
        return save(
            *(
                f"-A PREROUTING -p tcp -d {address(each)} -j DNAT --to-destination 10.99.0.{each}:{80 + (each == odd)}"
                for each in range(30)
            ),
            table="nat",
        )

    proof = prove(services(-1), services(17))
    assert isinstance(proof, Differs)
    assert {each.witness.first.destination for each in proof.differences} == {ip_address(address(17))}


def test_too_much_is_unknown_and_said_with_the_limit_and_the_longest_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rulesets.equivalence.atoms.MOST_ATOMS", 500)
    proof = prove(save(*alternating(600)), save(*alternating(600, turned=3)))
    assert isinstance(proof, Unknown)
    (reason,) = proof.reasons
    assert reason == (
        "too much to compare: more than 500 addresses, networks or ports that are told apart;"
        " of 1200 rules in 6 chains, chain filter/INPUT of iptables has 600"
    )


def test_too_many_steps_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rulesets.equivalence.proof.Work", lambda: Work(20_000))
    proof = prove(save(*alternating(600)), save(*alternating(600, turned=3)))
    assert isinstance(proof, Unknown)
    assert [each for each in proof.reasons if "more than 20000 steps" in each]
    assert proof.unknown > 0


def test_the_very_same_rules_are_equal_however_many_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rulesets.equivalence.atoms.MOST_ATOMS", 500)
    rules = alternating(600)
    assert isinstance(prove(save(*rules), save(*rules)), Equal)


def test_the_very_same_rules_with_a_set_of_unknown_elements_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rulesets.equivalence.atoms.MOST_ATOMS", 500)
    rules = [*alternating(600), "-A INPUT -m set --match-set bad src -j DROP"]
    assert isinstance(prove(save(*rules), save(*rules)), Unknown)


def test_an_ipset_is_unknown_and_said_to_be_one() -> None:
    rules = save("-A INPUT -m set --match-set bad src -j DROP")
    proof = prove(rules, save())
    assert isinstance(proof, Unknown)
    assert proof.reasons == ("what the ipset 'bad' holds: rules only name it, `ipset list bad` tells",)


def test_a_run_of_rules_is_one_that_treats_every_packet_alike() -> None:
    rules = save(
        "-A INPUT -s 10.0.0.0/24 -j DROP",
        "-A INPUT -s 10.0.1.0/24 -m comment --comment 'a remark' -j DROP".replace("'", '"'),
        "-A INPUT -s 10.0.1.7/32 -j DROP",
        "-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT",
        "-A INPUT -p tcp -m tcp --dport 443 -j ACCEPT",
        "-A INPUT -p tcp -m tcp --dport 90:99 -j ACCEPT",
        "-A INPUT -p udp -m udp --dport 53 -j ACCEPT",
    )
    one = merged(rules)
    chain = one.ruleset.chain("filter/INPUT")
    assert chain is not None
    assert one.places["filter/INPUT"] == (range(3), range(3, 6), range(6, 7))
    assert len(chain.rules) == 3
    (ports,) = chain.rules[1].matches
    assert isinstance(ports, Ports)
    assert ports.ranges == (PortRange(80, 80), PortRange(90, 99), PortRange(443, 443))
    for source in ("9.255.255.255", "10.0.0.0", "10.0.1.255", "10.0.2.0"):
        for port in (80, 81, 89, 90, 99, 100, 443):
            packet = Packet(
                hook=Hook.PREROUTING,
                source=ip_address(source),
                destination=ip_address("10.9.0.1"),
                destination_port=port,
                in_interface="eth0",
            )
            assert walk(rules, packet).fate is walk(one.ruleset, packet).fate


@pytest.mark.parametrize(
    "rules",
    [
        ("-s 10.0.0.0/8 -j MARK --set-xmark 0x1/0x1", "-s 10.0.0.0/16 -j MARK --set-xmark 0x1/0x1"),
        ("-s 10.0.0.0/8 -j C", "-s 10.0.0.0/16 -j C"),
        ("-s 10.0.0.0/8 -j DROP", "-s 11.0.0.0/8 -j ACCEPT"),
        ("-s 10.0.0.0/8 -j DROP", "! -s 11.0.0.0/8 -j DROP"),
        ("-s 10.0.0.0/8 -j DROP", "-d 11.0.0.0/8 -j DROP"),
        ("-s 10.0.0.0/8 -d 1.1.1.1 -j DROP", "-s 11.0.0.0/8 -d 1.1.1.2 -j DROP"),
        ("-s 10.0.0.0/8 -m limit --limit 1/s -j DROP", "-s 11.0.0.0/8 -m limit --limit 1/s -j DROP"),
        ("-p tcp -m tcp --dport 80 -j DROP", "-p udp -m udp --dport 81 -j DROP"),
        ("-p tcp -m tcp --dport 80 -j DROP", "-p tcp -m tcp --sport 81 -j DROP"),
    ],
)
def test_what_is_no_run_stays(rules: tuple[str, str]) -> None:
    ruleset = save(*(f"-A INPUT {each}" for each in rules), chains=("C",))
    assert merged(ruleset).ruleset == ruleset or merged(ruleset).ruleset is ruleset


def test_a_second_jump_that_a_packet_comes_to_as_another_is_no_run() -> None:
    """Two jumps to one chain for networks that overlap: the second finds what the first has left."""
    both = ["-A C -m mark --mark 0x1/0x1 -j DROP", "-A C -j MARK --set-xmark 0x1/0x1"]
    twice = save("-A INPUT -s 10.0.0.0/8 -j C", "-A INPUT -s 10.1.0.0/16 -j C", *both, chains=("C",))
    once = save("-A INPUT -s 10.0.0.0/8 -j C", *both, chains=("C",))
    assert isinstance(prove(twice, once), Differs)


ATOMS = (3, 700, 65, 2)


def some_functions(diagrams: Diagrams) -> list[Node]:
    one = diagrams.among(1, sum(1 << each for each in (0, 3, 250, 699)))
    other = diagrams.both(diagrams.among(0, 0b101), diagrams.among(2, (1 << 64) | 0b11))
    points = diagrams.at_points(1, {each: diagrams.among(2, 1 << each % 65) for each in (5, 64, 255, 699)})
    return [one, other, points, diagrams.either(one, points), diagrams.negation(diagrams.either(one, other))]


def test_many_atoms_digit_by_digit_are_the_same_functions() -> None:
    """Of every pair of atoms at the ends of digits, against what the functions were made of."""
    diagrams = Diagrams(ATOMS)
    one, other, points, either, neither = some_functions(diagrams)
    for first in range(3):
        for second in (0, 1, 3, 5, 15, 16, 64, 249, 250, 255, 256, 698, 699):
            for third in (0, 1, 2, 5, 34, 49, 60, 63, 64):
                atoms = {0: first, 1: second, 2: third, 3: 0}
                in_one = second in (0, 3, 250, 699)
                in_other = first != 1 and third in (0, 1, 64)
                at_point = second in (5, 64, 255, 699) and third == second % 65
                values = [value_at(each, atoms) for each in (one, other, points, either, neither)]
                assert values == [in_one, in_other, at_point, in_one or at_point, not (in_one or in_other)]


def test_equal_functions_are_one_node() -> None:
    diagrams = Diagrams(ATOMS)
    one, _, points, either, _ = some_functions(diagrams)
    assert diagrams.negation(diagrams.negation(either)) is either
    assert diagrams.either(points, one) is either
    assert diagrams.among(1, (1 << 700) - 1) is diagrams.yes
    last = diagrams.negation(diagrams.among(1, (1 << 699) - 1))
    assert last is diagrams.among(1, 1 << 699)
    assert last is diagrams.at_points(1, {699: diagrams.yes})


def test_regions_are_where_a_function_has_its_values() -> None:
    diagrams = Diagrams(ATOMS)
    one, other, *_ = some_functions(diagrams)
    labelled = diagrams.joined((one, other), lambda first, second: diagrams.leaf((first, second)))
    regions = diagrams.regions(labelled)
    assert {leaf.value for leaf in regions} == {(True, True), (True, False), (False, True), (False, False)}
    assert regions[diagrams.leaf((True, False))] is diagrams.without(one, other)


def test_boxes_and_examples_do_not_tell_digits_from_atoms() -> None:
    diagrams = Diagrams(ATOMS)
    one = diagrams.among(1, sum(1 << each for each in range(100, 600)))
    assert cells(one, bool) == 1
    assert cells(one, lambda _: True) == 2
    costs = [[0] * 3, [abs(each - 333) for each in range(700)], [0] * 65, [0] * 2]
    assert cheapest(one, costs) == {1: 333}
    assert cheapest(diagrams.among(1, 1 << 699 | 1 << 2), costs) == {1: 2}
    covered = [atom for first, last, _ in segments(one, 700) for atom in range(first, last + 1)]
    assert sorted(covered) == list(range(700))


def _points(diagrams: Diagrams) -> Node:
    return diagrams.at_points(1, {each: diagrams.leaf(each) for each in range(700)})


def test_nodes_and_steps_are_bounded() -> None:
    few, slow = Diagrams(ATOMS, 100), Diagrams(ATOMS, work=Work(100))
    with pytest.raises(TooLarge, match="more than 100 nodes in memory"):
        _points(few)
    with pytest.raises(TooLarge, match="more than 100 steps"):
        _points(slow)
    assert Work().most == MOST_STEPS
