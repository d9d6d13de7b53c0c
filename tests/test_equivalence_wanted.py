"""Weir's rules and Istio's treat all packets alike, but for the differences that are wanted and have a name."""

from typing import Any

import pytest

from rulesets import pod
from rulesets.capture import Capture
from rulesets.equivalence import WANTED, Differs, Equal, prove
from rulesets.model import Ruleset
from tests.istio_values import istio_tables
from tests.packets_apart import confirmed

GUESTS = ("guest0", "br-0")
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "dns off": {"dns": False},
    "ingress": {"ingress": True},
    "virtual interfaces": {"virtual_interfaces": GUESTS},
    "both": {"ingress": True, "virtual_interfaces": GUESTS},
}


def wish(case: dict[str, Any]) -> Ruleset:
    return pod.build(Capture.parse({key: list(value) if value == GUESTS else value for key, value in case.items()}))


@pytest.mark.parametrize("name", CASES)
def test_nothing_differs_from_istio_but_what_is_wanted(name: str) -> None:
    ours, istio = wish(CASES[name]), istio_tables(**CASES[name])
    proof = prove(ours, istio, expected=tuple(WANTED))
    assert isinstance(proof, Equal), "\n".join(map(str, proof.differences if isinstance(proof, Differs) else [proof]))
    assert [str(each) for each in proof.expected if not confirmed((ours,), istio, each)] == []
    if name == "default":
        # A family is refused only where it isn't captured, and Istio captures both here.
        assert {each.wanted for each in proof.expected} == set(WANTED) - {"family-refused"}


@pytest.mark.parametrize("slug", sorted(set(WANTED) - {"family-refused"}))
def test_what_is_not_expected_is_told(slug: str) -> None:
    proof = prove(wish({}), istio_tables(), expected=tuple(set(WANTED) - {slug}))
    assert isinstance(proof, Differs)
    assert {each.wanted for each in proof.differences} == {slug}
    assert slug not in {each.wanted for each in proof.expected}


def test_a_family_that_is_not_captured_is_refused() -> None:
    proof = prove(wish({"families": ["ipv4"]}), wish({"families": ["ipv4"], "uncapturable": "direct"}))
    assert isinstance(proof, Differs)
    assert {each.wanted for each in proof.differences} == {"family-refused"}


def test_another_port_is_not_wanted() -> None:
    proof = prove(wish({"inbound_port": 25006}), istio_tables(), expected=tuple(WANTED))
    assert isinstance(proof, Differs)
    assert {str(each.a_decided) for each in proof.differences} == {"nat-pre: inbound-redirect"}
