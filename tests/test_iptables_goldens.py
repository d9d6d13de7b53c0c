"""Each scenario becomes just the iptables rules that were read in review. `--update-goldens` writes them anew."""

from itertools import product

import pytest

from rulesets import iptables
from rulesets.vocabulary import Family, ModelError
from tests import scenarios
from tests.iptables_goldens import FILES, rendered
from tests.test_rulesets_goldens import complaint

EACH = list(product(scenarios.names(), Family))


@pytest.mark.parametrize(("name", "family"), EACH)
def test_a_scenario_is_rendered_as_reviewed(name: str, family: Family, request: pytest.FixtureRequest) -> None:
    scenario = scenarios.load(name)
    now, path = rendered(scenario.ruleset, family), scenario.path(FILES[family])
    if request.config.getoption("--update-goldens"):
        path.write_text(now)
    found = complaint(now, path.read_text() if path.exists() else "")
    assert not found, f"{path.name} of {name} (--update-goldens accepts the new one): {found}"


@pytest.mark.parametrize(("name", "family"), EACH)
def test_a_golden_is_parsed_as_what_was_rendered(name: str, family: Family) -> None:
    scenario = scenarios.load(name)
    text = scenario.path(FILES[family]).read_text()
    if not text.startswith("#"):
        assert iptables.parse(text, family) == iptables.translate(scenario.ruleset, family)


def test_what_iptables_can_not_express_names_the_rule() -> None:
    """A family that isn't captured is refused from a nat chain, where iptables refuses nothing."""
    for name, family in (("ipv4-only", Family.IPV6), ("ipv6-only", Family.IPV4)):
        with pytest.raises(ModelError, match="chain 'nat-pre', rule 'inbound-refused': iptables rejects"):
            iptables.render(scenarios.load(name).ruleset, family)
    # Of the captured family nothing gets to these rules.
    assert "REJECT" not in iptables.render(scenarios.load("ipv4-only").ruleset, Family.IPV4)


def test_what_is_the_other_familys_is_left_out() -> None:
    for family, marks in ((Family.IPV4, ("fd", "::1")), (Family.IPV6, ("169.254.7.127", "127.0.0.1"))):
        text = iptables.render(scenarios.load("dual-stack").ruleset, family)
        assert not [mark for mark in marks if mark in text.replace("fdd", "")]
