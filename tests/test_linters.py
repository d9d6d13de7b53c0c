"""The linters are tests, so that one command says whether a change is right. `./dev lint` runs just these."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
PACKAGES = [
    name
    for name in ("rulesets", "agent", "deploy", "tests", "netns_tests", "bench")
    if any((ROOT / name).glob("**/*.py"))
]


@pytest.mark.timeout(300)  # mypy without its cache takes a while on a loaded machine
@pytest.mark.parametrize(
    "command",
    [
        [BIN / "ruff", "check", "--no-fix", "--output-format=concise", "."],
        [BIN / "ruff", "format", "--check", "."],
        [BIN / "mypy", "--strict", *PACKAGES],
        ["shellcheck", "dev", ".ci/run", "deploy/kubectl-weir"],
    ],
    ids=["ruff check", "ruff format", "mypy", "shellcheck"],
)
def test_linter_has_nothing_to_say(command: list[str | Path]) -> None:
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, command))}\n{done.stdout}", pytrace=False)
