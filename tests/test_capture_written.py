"""A capture, written as settings, is read back as itself: so a daemon tells a command what it wants of a pod."""

import json

from hypothesis import given

from rulesets.capture import Capture
from tests.strategies import captures


@given(captures())
def test_a_written_capture_is_read_back_as_itself(capture: Capture) -> None:
    assert Capture.parse(json.loads(json.dumps(capture.written()))) == capture


def test_what_is_as_weir_has_it_is_not_written() -> None:
    assert Capture().written() == {}
    assert Capture(dns=False).written() == {"dns": False}
