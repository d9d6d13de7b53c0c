"""Fixtures and options of the tests that need nothing but Python."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-goldens", action="store_true", help="write rulesets/golden/*/*.golden anew, to be read in review"
    )
