"""The command line as a first-time user meets it: help, examples, completion, mistakes, start-up. No root needed."""

import json
import os
import pty
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from agent.cli.app import app
from agent.cli.manual import PAGES
from agent.report import Report

ROOT = Path(__file__).parent.parent
WEIR = str(Path(sys.executable).with_name("weir"))
COMMANDS = sorted(PAGES)
HEAVY = frozenset(
    {"aiohttp", "httpx2", "lightkube", "msgspec", "nftables", "prometheus_client", "psutil", "rich", "yaml"}
)


def weir(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "WEIR_RUN_DIR": "/nonexistent"}
    return subprocess.run(
        [WEIR, *arguments], env={**kept, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


def page(*command: str) -> str:
    done = weir(*command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def section(text: str, heading: str) -> str:
    found = re.search(rf"^{heading}:\n((?:  .*\n|\n)*)", text, re.MULTILINE)
    assert found, f"no section {heading!r}"
    return found[1]


def test_every_command_has_a_page() -> None:
    assert [each.callback.__name__ for each in app.registered_commands if each.callback] == list(PAGES)
    listed = section(page(), "Commands")
    assert [line.split()[0] for line in listed.splitlines() if line] == list(PAGES)
    assert "..." not in listed


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_a_page_fits_and_is_whole(command: str) -> None:
    text = page(*command.split())
    assert max(map(len, text.splitlines())) <= 80
    codes = section(text, "Exit codes")
    assert re.search(r"^  0 ", codes, re.MULTILINE)
    assert re.search(r"^  2 ", codes, re.MULTILINE)
    assert "weir " in section(text, "Examples")
    assert "list[" not in text  # a Python type says nothing to a user
    assert "None" not in text


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_are_understood(command: str) -> None:
    text = page(command)
    for example in PAGES[command].examples:
        name, *arguments = shlex.split(example)
        assert (name, arguments[0]) == ("weir", command)
        assert weir(*arguments, "--help").returncode == 0, example
        assert example in text  # on one line, to be pasted


@pytest.mark.parametrize("command", [each for each in COMMANDS if "REPORT:" in PAGES[each].document])
def test_the_documented_document_is_the_one_that_is_written(command: str) -> None:
    described = PAGES[command].document.partition("REPORT: ")[2]
    assert re.findall(r"\w+", re.sub(r"\([^)]*\)", "", described)) == [each.name for each in fields(Report)]


def test_the_settings_in_the_help_are_all_that_there_are() -> None:
    from rulesets.capture import Capture

    text = " ".join(page("render").split()).partition("The settings are those of the file:")[2].partition(". ")[0]
    either = "{include,exclude}_{outbound,inbound}_{ports,networks}"
    assert either in text
    shown = {each for each in re.findall(r"\w+", text.replace(either, "")) if each}
    shown |= {
        f"{a}_{b}_{c}" for a in ("include", "exclude") for b in ("outbound", "inbound") for c in ("ports", "networks")
    }
    assert shown - {"Options"} >= {each.name for each in fields(Capture)}


def test_without_a_command_the_help_goes_to_standard_error() -> None:
    done = weir()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: weir ")


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"daemon", "top"}))
def test_what_may_be_repeated_is_shown_so(command: str) -> None:
    text, one = page(command), command in ("compare", "wait", "confirm", "trace")
    usage = text.partition("\n")[0].removesuffix(" [FILTER]...")
    assert usage.endswith("[OPTIONS] [TARGET]" if one else "[OPTIONS] [TARGET]...")
    assert "A namespace instead of a name." in " ".join(text.split())
    assert ("A namespace instead of a name. May be repeated." in " ".join(text.split())) is not one


def test_the_daemons_page_names_its_own_file() -> None:
    text = " ".join(page("daemon").split())
    assert "[default: /etc/weir/weir.toml]" in text
    assert "running daemon" not in text


def test_the_version() -> None:
    assert re.fullmatch(r"weir \d+\.\d+\.\d+\n", weir("--version").stdout)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("appyl", "weir: no such command 'appyl'. Did you mean 'apply'?\n  `weir --help` shows how\n"),
        ("diff --ouput json", "weir: diff: no such option: --ouput (Possible options: --output)\n"),
        ("diff --output yaml", "weir: diff: --output 'yaml': 'yaml' is not one of 'text', 'json'\n"),
        ("wait --for=ever", "weir: wait: --for 'ever': 'ever' is not one of 'captured', 'absent'\n"),
        ("wait one two", "weir: wait: got unexpected extra argument(s) (two)\n"),
        ("apply --confirm 0", "weir: apply: --confirm '0': 0.0 is not in the range x>=1\n"),
        ("remove --drain -1", "weir: remove: --drain '-1': -1.0 is not in the range x>=0\n"),
        ("daemon --workers some", "weir: daemon: --workers 'some': 'some' is not a whole number\n"),
        ("daemon --workers 9", "weir: daemon: --workers '9': 9 is not in the range 1<=x<=4\n"),
    ],
)
def test_a_mistyped_line_is_answered_in_two_lines(line: str, message: str) -> None:
    done = weir(*line.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 2
    assert done.stderr.splitlines()[1].endswith("--help` shows how")


@pytest.mark.parametrize("asked", ["--output json", "--output=json", "-o json", "-ojson"])
def test_a_mistyped_line_is_answered_in_json_where_that_was_asked_for(asked: str) -> None:
    done = weir("diff", *asked.split(), "--nope")
    assert (done.returncode, done.stderr) == (2, "")
    assert json.loads(done.stdout)["error"].startswith("diff: no such option: --nope")


@pytest.mark.parametrize(
    "line", ["--help", "--version", "apply --help", "render --set dns=false", "render web --file FILE"]
)
def test_start_up_imports_nothing_heavy(line: str, tmp_path: Path) -> None:
    file = tmp_path / "weir.toml"
    file.write_text('[[target]]\nname = "web"\nnetns = "web"\n')
    done = subprocess.run(
        [sys.executable, "-X", "importtime", WEIR, *line.replace("FILE", str(file)).split()],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {each.rpartition("|")[2].strip().partition(".")[0] for each in done.stderr.splitlines()}
    assert "typer" in imported  # what is looked for would be seen
    assert not imported & HEAVY


def test_an_output_that_cannot_be_written_is_an_error() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([WEIR, "render", "--set", "dns=false"], stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (2, b"weir: output: No space left on device\n")


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    line = f"{shlex.quote(WEIR)} render --set dns=false | head -n 1"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("table inet weir-pod {\n", "")


# Completion, through the script that each shell would load.


def completed(shell: str, line: str) -> list[str]:
    """What completes the last word of a line."""
    words = shlex.split(line) if not line.endswith(" ") else [*shlex.split(line), ""]
    if shell == "bash":
        script = f"{weir('--show-completion', 'bash').stdout}\nCOMP_WORDS=({shlex.join(words)})\n"
        script += f'COMP_CWORD={len(words) - 1}\n_weir_completion weir\nprintf "%s\\n" "${{COMPREPLY[@]}}"\n'
        path = f"{Path(WEIR).parent}:{os.environ['PATH']}"
        found = subprocess.run(["bash", "-c", script], env={"PATH": path}, capture_output=True, text=True, check=True)
        return found.stdout.split()
    asked = {"_WEIR_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": line}
    if shell == "fish":
        out = weir(_TYPER_COMPLETE_FISH_ACTION="get-args", **asked).stdout
        return [each.partition("\t")[0] for each in out.split("\n") if each]
    out = weir(**asked).stdout
    return re.findall(r'^(?:_arguments \'\*: :\(\()?"([^"]+)"', out, re.MULTILINE)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_commands_options_values_and_targets_are_completed(shell: str, tmp_path: Path) -> None:
    file = tmp_path / "weir.toml"
    file.write_text("".join(f'[[target]]\nname = "{each}"\nnetns = "{each}"\n' for each in ("web", "worker", "db")))
    assert "_WEIR_COMPLETE" in weir("--show-completion", shell).stdout
    assert completed(shell, "weir re") == ["render", "remove"]
    assert completed(shell, "weir apply --dr") == ["--dry-run"]
    assert completed(shell, "weir wait --for c") == ["captured"]
    assert completed(shell, f"weir verify --file {file} w") == ["web", "worker"]
    assert completed(shell, f"weir wait --file {file} d") == ["db"]
    assert completed(shell, "weir diff --netns ho") == ["host"]
    assert completed(shell, "weir compare --expect zone") == ["zone-direction"]
    assert completed(shell, "weir diff --file /nonexistent w") == []


def test_the_help_has_no_colours_even_on_a_terminal() -> None:
    master, slave = pty.openpty()
    with subprocess.Popen([WEIR, "--help"], stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        shown = b""
        try:
            while data := os.read(master, 65536):
                shown += data
        except OSError:  # the other side is closed
            pass
        process.wait()
    os.close(master)
    assert b"Exit codes" in shown
    assert b"\x1b[" not in shown
