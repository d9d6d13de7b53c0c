"""`weir explain` where no kernel is needed: manifests, and commands to paste that hold others' names."""

import json
import shlex
from pathlib import Path

import pytest

from agent.cli import explain_words, manifests
from agent.cli.options import Output
from agent.explain.explanation import Grade, Standing, Topic, explanation
from agent.explain.live import Theirs
from rulesets.model import Ruleset
from rulesets.vocabulary import Family

SHOP = Path(__file__).parent / "manifests/shop"


def told(names: list[str], output: Output = Output.TEXT) -> int:
    question = manifests.asked("explain", [SHOP], names, None, None, None, None, None)
    assert question is not None
    return explain_words.of_manifests(question, [SHOP], output)


def test_a_workload_s_first_line_answers_and_the_last_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(["deployment/shop/web"]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == (
        "deployment/shop/web would be captured: pod istio.io/dataplane-mode!=none,"
        " namespace istio.io/dataplane-mode=ambient (selector 2)."
    )
    assert last == f"`weir render -f {SHOP} deployment/shop/web` prints its rules"
    assert told(["cronjob/shop/report"]) == 1
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == "cronjob/shop/report would not be captured: its label istio.io/dataplane-mode=none takes it out."
    assert "label the pod template" in last


def test_the_same_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert told([], Output.JSON) == 1
    found = json.loads(capsys.readouterr().out)
    assert {each["workload"]: each["captured"] for each in found["workloads"]}["statefulset/shop/db"] is True
    assert found["errors"] == []


@pytest.mark.parametrize("family", [None, Family.IPV4])
def test_a_name_of_somebody_else_s_is_quoted_in_what_is_to_be_pasted(family: Family | None) -> None:
    place = "iptables-legacy" if family else "table inet theirs"
    one = Theirs(place=place, ruleset=Ruleset(table="theirs", theirs=family is None), family=family)
    command = one.deletion("nat/$(reboot);x" if family else "$(reboot);x", 1)
    assert "$(reboot);x" in shlex.split(command)


def test_the_gravest_is_named_first_and_the_others_after_it() -> None:
    some = Topic(name="routing", standing=Standing.NOT, said="a", cause="a route is missing", grade=Grade.SOME)
    all_of_it = Topic(name="rules", standing=Standing.NOT, said="b", cause="there is no table", mend="`weir apply`")
    doubt = Topic(name="marks", standing=Standing.DOUBT, said="c", cause="marks are set")
    found = explanation("web", "web", (some, all_of_it, doubt))
    assert found.answer == "web is not captured: there is no table (and not as wanted: routing)."
    assert (found.mend, found.captured) == ("`weir apply`", False)
    assert explanation("web", "web", (doubt,)).answer == "web is captured, but marks are set."
    assert explanation("web", "web", ()).mend == "nothing to do"
