"""ARCHITECTURE.md shows the table of features as the code declares it."""

from pathlib import Path

import pytest

from agent.kernel.features import FEATURES, Feature, markdown

ARCHITECTURE = Path(__file__).parent.parent / "ARCHITECTURE.md"
ROWS = dict(zip(FEATURES, markdown().splitlines()[2:], strict=True))


@pytest.mark.parametrize("feature", FEATURES, ids=lambda each: each.name)
def test_the_feature_is_documented_as_declared(feature: Feature) -> None:
    assert ROWS[feature] in ARCHITECTURE.read_text(encoding="utf-8").splitlines(), (
        f"ARCHITECTURE.md lacks this line:\n{ROWS[feature]}"
    )
