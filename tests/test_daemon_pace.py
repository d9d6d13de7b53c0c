"""How often what sends no word is looked at: as the setting says, and less often where that would cost a core."""

import pytest

from agent.daemon import pace
from agent.targets import Captured, Outcome, State, Target
from rulesets.capture import Capture

TARGET = Target(name="web", netns="web", wish=Captured(capture=Capture()))


@pytest.mark.parametrize(
    ("told", "of", "seconds"),
    [(False, 1, 2.0), (False, 25, 2.0), (False, 500, 40.0), (True, 500, 48.0)],
    ids=["one", "some", "many", "a pod"],
)
def test_what_is_polled_is_polled_as_the_setting_says(told: bool, of: int, seconds: float) -> None:
    outcome = Outcome(target=TARGET, state=State.UNCHANGED, reason="as wanted")
    for _ in range(100):
        found = pace.look_interval(outcome, 2.0, alike=1, is_open=True, told=told, of=of)
        assert 0.9 * seconds <= found <= 1.1 * seconds
