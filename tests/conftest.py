"""Fixtures and options of the tests that need nothing but Python."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-goldens", action="store_true", help="write rulesets/golden/*/*.golden anew, to be read in review"
    )


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user can read. Those of `tmp_path` are root's again as soon as another run begins."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
