"""What Weir did not write is never dropped from a listing, and never equal to what it writes."""

import copy
import json
from typing import Any

import pytest

from rulesets import nft, pod
from rulesets.capture import Capture
from rulesets.diff import diff
from rulesets.model import Ruleset
from rulesets.nft import ListingError
from rulesets.vocabulary import Foreign
from tests import transaction
from tests.tampering import RULESET, TABLE, TAMPERED, Objects, add, listing


def parsed(objects: Objects) -> Ruleset:
    found = nft.parse(json.dumps({"nftables": objects}), TABLE)
    assert found is not None
    return found


def test_the_untouched_listing_is_equal() -> None:
    assert parsed(listing()) == RULESET
    assert not diff(parsed(listing()), RULESET)


@pytest.mark.parametrize("what", TAMPERED)
def test_what_was_done_is_seen_and_shown(what: str) -> None:
    change, word = TAMPERED[what]
    objects = listing()
    change(objects)
    assert objects != listing()
    found = parsed(objects)
    plan = diff(found, RULESET)
    assert found != RULESET
    assert plan
    assert word in plan.describe()
    assert transaction.render(plan)


def test_who_owns_the_table_is_no_difference() -> None:
    objects = listing()
    next(each["table"] for each in objects if "table" in each)["flags"] = ["owner", "unknown"]
    assert parsed(objects) == RULESET


def test_what_was_counted_is_no_difference() -> None:
    objects = listing()
    for each in objects:
        if "counter" in each:
            each["counter"].update(packets=7, bytes=420)
    found = parsed(objects)
    assert found == RULESET
    assert {each.packets for each in found.counters} == {7}


def test_other_tables_are_not_looked_at() -> None:
    other = [{"table": {"family": "inet", "name": "mine"}}, {"chain": {"family": "ip", "table": TABLE, "name": "x"}}]
    assert parsed([*other, *listing(), *other]) == RULESET
    assert nft.parse(json.dumps({"nftables": other}), TABLE) is None
    assert nft.parse('{"nftables": []}', TABLE) is None


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "{",
            "[]",
            "null",
            "7",
            '"nftables"',
            "{}",
            '{"nftables": 3}',
            '{"nftables": [3]}',
            '{"nftables": ["a"]}',
        ),
        *('{"nftables": [{"rule": 3}]}', '{"nftables": [{"rule": {}}]}', '{"nftables": {"a": 1}}', "[" * 100_000),
        nft.render_json(RULESET)[:-40],
        "table inet weir-pod {\n}\n",
        "\x00",
    ],
    ids=lambda text: repr(text[:20]),
)
def test_what_is_no_listing_is_an_error(text: str) -> None:
    with pytest.raises(ListingError, match="not an nft listing in JSON"):
        nft.parse(text, TABLE)


@pytest.mark.parametrize("junk", [None, True, 3, "x", [], {}, [{}], {"a": {"b": 1}}, 1.5, "@set", {"range": [1]}])
def test_junk_anywhere_is_never_equal(junk: Any) -> None:
    document = listing()[1:]
    for number, each in enumerate(document):
        (kind,) = each
        for key, old in each[kind].items():
            if key in ("handle", "family", "table") or (kind == "table" and key == "name") or old == junk:
                continue
            if (kind == "counter" and key in ("packets", "bytes") and isinstance(junk, int)) or (
                junk is None and key == "comment"
            ):
                continue
            changed = copy.deepcopy(document)
            changed[number][kind][key] = junk
            found = nft.parse(json.dumps({"nftables": changed}), TABLE)
            assert found != RULESET, f"{kind} {key}"
        for at, expression in enumerate(each[kind].get("expr", ())):
            for key in expression:
                if expression[key] == junk:
                    continue
                changed = copy.deepcopy(document)
                changed[number][kind]["expr"][at][key] = junk
                assert parsed(changed) != RULESET, f"{expression}"


def test_something_foreign_equals_nothing() -> None:
    one = Foreign(verbatim="{}")
    assert one != Foreign(verbatim="{}")
    assert len({Foreign(verbatim="{}"), Foreign(verbatim="{}")}) == 2
    objects = listing()
    add("map", name="ports", type="inet_service", map="verdict")(objects)
    assert parsed(objects) != parsed(objects)


def test_a_removal_and_an_addition_are_described() -> None:
    ruleset = pod.build(Capture())
    assert "+ table inet weir-pod" in diff(None, ruleset).describe()
    assert "- table inet weir-pod" in diff(ruleset, None).describe()
    assert not diff(None, None)
