"""The demo as a user runs it: two at once end well; a wrong claim fails it; interrupted, it leaves nothing."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from netns_tests.demo.command import PREFIX, own_directory
from netns_tests.namespace import NETNS_DIRECTORY
from netns_tests.world import eventually, sweep

ROOT = Path(__file__).parent.parent
DEMO = (sys.executable, "-m", "netns_tests.demo")
SENTENCES = (
    "no proxy runs yet, so Weir waits",
    "both downloads go on",
    "IPv4, out of pod1: the proxy got it and knows both addresses",
    "IPv6, out of pod1: the proxy got it and knows both addresses",
    "IPv4, into pod2: the proxy got it and knows both addresses",
    "IPv6, into pod2: the proxy got it and knows both addresses",
    "a request of pod1 now gets past the proxy",
    "pod1 is captured again",
    "the download backup.tar from before ran through all this",
    "the daemon's /metrics show the same numbers",
    "the captured download image.iso has come to its own end",
    "nothing is left in pod2",
    "its rules bring pod1's requests to the proxy",
    "the download model.bin goes on, still by the proxy",
    "not a rule or chain is left in iptables",
    "namespaces, processes and files of the demo are gone again",
    "claims were made, and each was checked",
)


class Demo:
    """A demo under way, in a session of its own, with a directory of its own for what it leaves."""

    def __init__(self, folder: Path, *command: str) -> None:
        self.folder = folder
        folder.mkdir()
        self.process = subprocess.Popen(
            command or DEMO,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=os.environ | {"TMPDIR": str(folder)},
        )

    def until(self, sentence: str) -> None:
        assert self.process.stdout is not None
        said = ""
        while sentence not in said:
            line = self.process.stdout.readline()
            assert line, f"the demo ended before it said {sentence!r}:\n{said}"
            said += line

    def end(self, seconds: float = 200.0) -> str:
        return self.process.communicate(timeout=seconds)[0]

    def processes(self) -> list[str]:
        found = []
        for process in psutil.process_iter():
            try:
                ours = os.getsid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
            found += [str(process)] if ours else []
        return found

    def namespaces(self) -> list[str]:
        return [each.name for each in NETNS_DIRECTORY.glob(f"wt-{self.process.pid}-*")]

    def directories(self) -> list[Path]:
        return list(self.folder.glob(f"{PREFIX}*"))

    def remains(self) -> list[object]:
        return [*self.processes(), *self.namespaces(), *self.directories()]


@pytest.fixture
def demos(tmp_path: Path) -> Iterator[list[Demo]]:
    """Collect demos, so that none outlives its test."""
    started: list[Demo] = []
    yield started
    for demo in started:
        if demo.process.poll() is None:
            demo.process.terminate()
        demo.end()


@pytest.mark.timeout(240)
def test_two_demos_at_once_keep_what_they_say(demos: list[Demo], tmp_path: Path) -> None:
    demos += [Demo(tmp_path / "one"), Demo(tmp_path / "two")]
    for demo in demos:
        said = demo.end()
        assert demo.process.returncode == 0, said
        assert [each for each in SENTENCES if each not in said] == []
        assert "\x1b" not in said  # no colour without a terminal
        assert demo.remains() == []


def test_claim_that_does_not_hold_fails_the_demo(demos: list[Demo], tmp_path: Path) -> None:
    program = (
        "import sys; from netns_tests.demo import __main__ as demo\n"
        "def scene(stage): stage.screen.claim(False, 'water flows uphill', 'it flows down')\n"
        "demo.SCENES = (('Water', scene),); sys.exit(demo.main([]))"
    )
    demos.append(Demo(tmp_path / "one", sys.executable, "-c", program))
    said = demos[0].end()
    assert demos[0].process.returncode == 1
    assert "FAILED scene 1 (Water): not so: water flows uphill; found: it flows down" in said
    assert demos[0].remains() == []


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (signal.SIGINT, "a request of pod1 now gets past the proxy"),  # with the daemon killed
        (signal.SIGTERM, "no proxy runs yet, so Weir waits"),
        (signal.SIGHUP, "and it has written nothing"),
    ],
)
def test_interrupted_demo_leaves_nothing(
    demos: list[Demo], tmp_path: Path, number: signal.Signals, sentence: str
) -> None:
    demos.append(demo := Demo(tmp_path / "one"))
    demo.until(sentence)
    demo.process.send_signal(number)
    said = demo.end(30.0)
    assert demo.process.returncode == 128 + number, said
    eventually(lambda: not demo.remains(), f"nothing is left of the demo: {demo.remains()}")


def test_killed_demo_leaves_nothing_to_the_next(
    demos: list[Demo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demos.append(demo := Demo(tmp_path / "one"))
    demo.until("a request of pod1 now gets past the proxy")
    demo.process.kill()
    demo.end(30.0)
    eventually(lambda: not demo.processes(), "its daemon dies with it, though it is paused")
    assert len(demo.directories()) == 1
    monkeypatch.setattr(tempfile, "tempdir", str(demo.folder))
    sweep()  # what every run begins with
    with own_directory():
        assert len(demo.directories()) == 1
    assert demo.remains() == []
