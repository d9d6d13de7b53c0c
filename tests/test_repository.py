"""The files around the code: each does what it is there for, checked by the program that will read it."""

import os
import re
import shutil
import subprocess
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from rulesets.capture import Capture
from tests.packages import ROOT, lacks

UNIT = ROOT / "deploy/weir.service"
TARGETS = ROOT / "deploy/weir.toml"


def output(*command: str | Path, **settings: str) -> tuple[int, str]:
    """Exit status and all that was printed, with only PATH and these settings in the environment."""
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **settings}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.returncode, done.stdout


def repository_files() -> list[Path]:
    """Every text file that is, or would be, committed."""
    status, listed = output("git", "-c", f"safe.directory={ROOT}", "ls-files", "-co", "--exclude-standard", "-z")
    assert status == 0, listed
    paths = (ROOT / each for each in listed.split("\0") if each)
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()]


def test_vagrant_accepts_its_file(tmp_path: Path) -> None:
    if lacks("vagrant"):
        pytest.skip("this distribution has no vagrant")
    # Everything that vagrant writes goes to a folder of its own, and it doesn't ask for newer versions of itself.
    status, said = output(
        *("vagrant", "validate", "--ignore-provider"),
        HOME=str(tmp_path),
        VAGRANT_HOME=str(tmp_path / "home"),
        VAGRANT_DOTFILE_PATH=str(tmp_path / "state"),
        VAGRANT_CHECKPOINT_DISABLE="1",
    )
    assert status == 0, said


def verify_unit(text: str, folder: Path) -> str:
    """What systemd has to say about a unit, with a program standing where ExecStart= expects weir."""
    shutil.copy("/bin/true", folder / "weir")
    unit = folder / "weir.service"
    unit.write_text(text.replace("/usr/bin/weir", str(folder / "weir")))
    status, said = output("systemd-analyze", "verify", "--man=no", unit)
    return said or f"exit status {status}" * bool(status)


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    assert verify_unit(UNIT.read_text(), tmp_path) == ""


def test_a_wrong_unit_would_be_found(tmp_path: Path) -> None:
    assert "Unknown key" in verify_unit(UNIT.read_text().replace("WatchdogSec=", "WatchDogSec="), tmp_path)


def test_the_unit_stays_as_closed_as_it_was() -> None:
    """systemd's score of what a broken-in service could do; 0 is nothing, 10 is everything."""
    status, said = output("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=35", UNIT)
    assert status == 0, said


def test_the_example_as_installed_redirects_nothing() -> None:
    assert tomllib.loads(TARGETS.read_text()) == {"defaults": {}}


def test_the_example_shows_every_setting_with_its_default() -> None:
    text = TARGETS.read_text().partition("[[target]]")[0]
    shown = tomllib.loads("\n".join(re.findall(r"^# (\w+ = .*)$", text, re.MULTILINE)))
    assert set(shown) == {field.name for field in fields(Capture)}
    # They have no value to show; the example says so beside them.
    unset = {"proxy_user", "proxy_cgroup", "kept_deadline", "families"}
    assert Capture.parse({name: value for name, value in shown.items() if name not in unset}) == Capture()
    assert Capture.parse(shown) != Capture()


def test_the_examples_targets_can_be_used_as_they_stand() -> None:
    _, _, text = TARGETS.read_text().partition("#\n# [[target]]")
    targets = tomllib.loads(re.sub("^# ?", "", "# [[target]]" + text, flags=re.MULTILINE))["target"]
    assert len(targets) > 1
    for target in targets:
        assert {"name", "netns"} <= set(target)
        Capture.parse({name: value for name, value in target.items() if name not in ("name", "netns")})


@pytest.mark.parametrize(
    ("name", "longest", "needles"),
    [
        ("README.md", None, ("./dev demo", "./dev test")),
        ("ARCHITECTURE.md", 120, ("rulesets/", "agent/")),
        ("CONTRIBUTING.md", 40, ("nftables",)),
    ],
)
def test_documents_are_short_and_start_with_what_matters(
    name: str, longest: int | None, needles: tuple[str, ...]
) -> None:
    lines = (ROOT / name).read_text().splitlines()
    assert longest is None or len(lines) <= longest
    for needle in needles:
        assert needle in "\n".join(lines[:40]), f"{name} doesn't mention {needle} in its first 40 lines"


def test_nothing_here_depends_on_one_machine() -> None:
    """No path of a machine that somebody worked on, and no host of a package registry."""
    machine = re.compile(
        "/" + r"work/|pypi\.|pythonhosted|registry\.npm|deb\.debian|proxy\.golang|crates\.io", re.ASCII
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in repository_files()
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if machine.search(line)
    ]
    assert not found, "\n" + "\n".join(found)


def named_tests(text: str) -> list[tuple[str, str]]:
    """Files and tests that a table names: a test without a file is in the one that was named last in its line."""
    found = []
    for line in text.splitlines():
        file = ""
        for path, test in re.findall(r"`((?:netns_)?tests/\w+\.py)?(?:::)?(test_\w+)?`", line):
            file = path or file
            if path or test:
                found.append((file, test))
    return found


def test_the_tests_that_a_document_names_are_there() -> None:
    named = named_tests((ROOT / "docs/istio.md").read_text())
    assert len(named) > 80
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not (ROOT / file).is_file() or (test and f"def {test}(" not in (ROOT / file).read_text())
    ]
    assert missing == []
