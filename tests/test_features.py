"""docs/kernels.md shows the table of features as the code declares it."""

from pathlib import Path

import pytest

from agent.kernel.features import FEATURES, Feature, markdown

KERNELS = Path(__file__).parent.parent / "docs" / "kernels.md"
ROWS = dict(zip(FEATURES, markdown().splitlines()[2:], strict=True))


@pytest.mark.parametrize("feature", FEATURES, ids=lambda each: each.name)
def test_the_feature_is_documented_as_declared(feature: Feature) -> None:
    assert ROWS[feature] in KERNELS.read_text(encoding="utf-8").splitlines(), (
        f"docs/kernels.md lacks this line:\n{ROWS[feature]}"
    )
