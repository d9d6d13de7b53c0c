"""Each golden scenario becomes just the rules that were read in review. `--update-goldens` writes them anew."""

import pytest

from rulesets import nft
from tests import scenarios


def complaint(rendered: str, golden: str) -> str:
    """Return the first line that differs, empty when none does."""
    if rendered == golden:
        return ""
    before, after = golden.splitlines(), rendered.splitlines()
    longest = max(len(before), len(after))
    lines = zip(before + ["(the end)"] * (longest - len(before) + 1), [*after, "(the end)"], strict=False)
    number, (old, new) = next(each for each in enumerate(lines, 1) if each[1][0] != each[1][1])
    return f"line {number} of the golden:\n  {old}\nwhat is rendered now:\n  {new}"


@pytest.mark.parametrize("name", scenarios.names())
def test_a_scenario_is_rendered_as_reviewed(name: str, request: pytest.FixtureRequest) -> None:
    scenario = scenarios.load(name)
    rendered, path = nft.render(scenario.ruleset), scenario.path("nft.golden")
    if request.config.getoption("--update-goldens"):
        path.write_text(rendered)
    found = complaint(rendered, path.read_text() if path.exists() else "")
    assert not found, f"{path.name} of {name} (--update-goldens accepts the new one): {found}"


def test_there_are_scenarios_for_all_that_a_user_can_want() -> None:
    assert {
        *("dual-stack", "ipv4-only", "ipv6-only", "ipv4-only-direct", "dns-off", "ingress", "virtual-interfaces"),
        *("ingress-virtual-interfaces", "exclusions", "inclusions", "inclusions-and-exclusions", "host-by-mark"),
        *("host-by-user", "proxy-by-cgroup", "transition", "draining", "node-probes", "node-probe-ports"),
    } <= set(scenarios.names())


def test_no_golden_is_left_without_its_scenario() -> None:
    assert {path.parent.name for path in scenarios.GOLDEN.glob("*/*")} == set(scenarios.names())


def test_no_two_scenarios_are_the_same() -> None:
    rendered = [nft.render(each.ruleset) for each in scenarios.load_all()]
    assert len(set(rendered)) == len(rendered)


@pytest.mark.parametrize("name", scenarios.names())
def test_any_changed_line_would_be_found(name: str) -> None:
    lines = nft.render(scenarios.load(name).ruleset).splitlines(keepends=True)
    golden = "".join(lines)
    for number in range(len(lines)):
        without = "".join(lines[:number] + lines[number + 1 :])
        changed = "".join([*lines[:number], lines[number].rstrip("\n") + " \n", *lines[number + 1 :]])
        assert complaint(changed, golden).startswith(f"line {number + 1} of")
        assert complaint(without, golden)
    assert complaint(golden + "\n", golden)


def test_another_setting_makes_another_golden_fail() -> None:
    scenario = scenarios.build("dns-off", "dns = false\noutbound_port = 15011")
    assert "redirect to :15011" in complaint(nft.render(scenario.ruleset), scenario.path("nft.golden").read_text())
