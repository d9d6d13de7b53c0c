"""`weir top` on a real terminal and into a pipe, over the socket of a running daemon."""

import fcntl
import json
import os
import re
import signal
import socket
import struct
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.cli.top_rows import Row, Sort, ordered, rows
from agent.cli.top_table import View, lines
from netns_tests.command import Command, Session
from netns_tests.daemon import PROXY, SECONDS, Daemon, listening, targets
from netns_tests.namespace import Namespace
from netns_tests.world import eventually


@pytest.fixture
def two() -> Iterator[tuple[Namespace, Namespace]]:
    with Namespace.create("one") as one, Namespace.create("two") as two:
        yield one, two


@pytest.fixture
def daemon(two: tuple[Namespace, Namespace], tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path, targets([*two, ("gone", "weir-test-no-such")])) as running:
        yield running.start()


def connect(namespace: Namespace) -> None:
    """Begin a connection that the rules redirect, whoever answers."""

    def begin() -> None:
        with socket.socket() as client:
            client.settimeout(5)
            client.connect_ex(("10.99.0.1", 80))

    namespace.run(begin)


def routed(namespace: Namespace) -> None:
    """Have a namespace know a way to everywhere."""
    namespace.ip(
        "link add v0 type veth peer name v1", "addr add 10.99.0.2/24 dev v0", "link set v0 up", "link set v1 up"
    )


def test_a_frame_in_a_pipe_counts_what_happened(two: tuple[Namespace, Namespace], daemon: Daemon) -> None:
    listeners = listening(two[0], *PROXY)
    routed(two[0])
    first = daemon.weir.json("top", "--once", "--interval", "0.2").json
    assert {row["target"] for row in first["targets"]} == {"t0", "t1", "gone"}
    by_name = {row["target"]: row for row in first["targets"]}
    assert by_name["gone"]["state"] == "waiting"
    assert by_name["t0"]["applies"] >= 1
    assert first["targets"][0]["captured"] is False  # what isn't captured is what one looks for
    daemon.eventually(lambda: daemon.target("t0")["captured"], "t0 is captured")
    for _ in range(5):
        connect(two[0])
    with Session(daemon.weir, "top", "--output", "json", "--interval", "0.5", "--sort", "new") as session:
        session.until("\n")
        for _ in range(20):
            connect(two[0])
        end = json_lines(session, lambda each: bool(each["targets"][0]["new_per_second"]))
        assert end["targets"][0]["target"] == "t0"
    for each in listeners:
        each.close()


Document = dict[str, list[dict[str, object]]]


def json_lines(session: Session, holds: Callable[[Document], bool]) -> Document:
    """Return the first document that holds, of the lines that a session prints."""
    while True:
        session.until("\n")
        line, _, session.output = session.output.partition("\n")
        document: Document = json.loads(line)
        if holds(document):
            return document


def test_keys_sort_and_quit_and_the_terminal_is_given_back(daemon: Daemon) -> None:
    with Session(daemon.weir, "top", "--interval", "60") as session:
        before = termios.tcgetattr(session._master)
        resize(session, 24, 120)
        session.until("drifted")
        assert "\x1b[?1049h" in session.output
        until_shown(session, ["gone", "t0", "t1"])  # none is captured: by name
        session.press("rt")
        until_shown(session, ["gone", "t0", "t1"])
        session.press("r")
        until_shown(session, ["t1", "t0", "gone"])  # at once, not with the next frame
        session.press("\x1b[B\x1b[Axq")
        assert session.end() == 0
        assert session.output.endswith("\x1b[?7h\x1b[?25h\x1b[?1049l")
        assert termios.tcgetattr(session._master) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_gives_the_terminal_back(daemon: Daemon, number: int, code: int) -> None:
    with Session(daemon.weir, "top", "--interval", "60") as session:
        before = termios.tcgetattr(session._master)
        session.until("drifted")
        if number == signal.SIGINT:
            session.press("\x03")
        else:
            os.kill(session.process.pid, number)
        assert session.end() == code
        assert session.output.endswith("\x1b[?7h\x1b[?25h\x1b[?1049l")
        assert termios.tcgetattr(session._master) == before


def fits(output: str, width: int, height: int) -> bool:
    """Whether the newest whole frame is as large as that at most."""
    frames = [each for each in output.split("\x1b[H")[1:] if "\x1b[J" in each]
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frames[-1]).split("\r\n") if frames else []
    return bool(lines) and max(map(len, lines)) <= width and len(lines) <= height


def test_another_size_is_drawn_at_once_and_never_wider(daemon: Daemon) -> None:
    with Session(daemon.weir, "top", "--interval", "60") as session:
        session.until("drifted")
        for width, height in ((120, 30), (30, 5), (5, 2), (1, 1), (80, 24)):
            session.output = ""
            resize(session, height, width)
            deadline = time.monotonic() + SECONDS
            while not fits(session.output, width, height):  # a frame of the size before may be under way
                assert session._read(deadline), session.output
        session.press("q")
        assert session.end() == 0


def test_a_stopped_top_gives_the_terminal_back_and_takes_it_again(daemon: Daemon) -> None:
    with Session(daemon.weir, "top", "--interval", "60") as session:
        session.until("drifted")
        session.press("\x1a")
        eventually(lambda: process_state(session.process.pid) == "T", "it is stopped")
        session.until("\x1b[?1049l")
        session.output = ""
        os.kill(session.process.pid, signal.SIGCONT)
        session.until("drifted")
        assert "\x1b[?1049h" in session.output
        session.press("q")
        assert session.end() == 0


def process_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_reader_that_has_seen_enough_ends_the_stream(daemon: Daemon) -> None:
    with daemon.weir.started("top", "--output", "json", "--interval", "0.2") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(json.loads(process.stdout.readline())["targets"]) == 3
        process.stdout.close()
        assert (process.wait(30), process.stderr.read()) == (0, "")


def test_without_a_daemon_the_error_says_so(tmp_path: Path) -> None:
    done = Command(tmp_path)("top")
    assert (done.code, done.out) == (2, "")
    assert "no daemon is running" in done.err


def test_a_daemon_that_starts_again_is_waited_for(daemon: Daemon) -> None:
    with Session(daemon.weir, "top", "--interval", "0.3") as session:
        session.until("drifted")
        daemon.end(signal.SIGKILL)
        session.until("the daemon gives no answer")
        daemon.start()
        session.output = ""
        session.until("drifted")
        eventually(lambda: "no answer" not in newest(session), "figures again")
        session.press("q")
        assert session.end() == 0


def newest(session: Session) -> str:
    session.output = ""
    session.until("\x1b[J")
    return session.output


def until_shown(session: Session, expected: list[str]) -> None:
    """Wait until the newest whole frame has these targets, in this order."""
    deadline = time.monotonic() + SECONDS
    while True:
        frames = session.output.split("\x1b[J")
        shown = re.findall(r"^(t0|t1|gone) ", frames[-2] if len(frames) > 1 else "", re.MULTILINE)
        if shown == expected:
            return
        assert session._read(deadline), session.output[-2000:]


def resize(session: Session, height: int, width: int) -> None:
    fcntl.ioctl(session._master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def status(number: int, *, at: float, new: int) -> dict[str, object]:
    names = [f"pod/shop/web-{n}" for n in range(number)]
    return {
        "pid": 1,
        "pods": [{"pod": each, "step": "captured", "captured": True, "netns": "x", "target": None} for each in names],
        "figures": {"at": at, "targets": {each: {"new": new * n, "drifts": n % 2} for n, each in enumerate(names)}},
    }


def test_five_hundred_pods_are_scrolled_and_sorted() -> None:
    found = rows(status(500, at=12.0, new=3), status(500, at=10.0, new=1))
    assert found[499].new_per_second == 499.0
    assert [each.target for each in ordered(found, Sort.NEW)[:2]] == ["pod/shop/web-499", "pod/shop/web-498"]
    shown = lines(found, View(sort=Sort.NEW, top=470, width=70, height=20), "")
    assert len(shown) == 20
    assert shown[0].plain.startswith("weir top: 500 of 500 captured, 0 not, 250 drifted, 471 to 487")
    assert max(len(each.plain) for each in shown) <= 70
    again = rows(status(2, at=12.0, new=1), {**status(2, at=10.0, new=9), "pid": 2})
    assert {each.new_per_second for each in again} == {None}  # another daemon: its counts have begun anew


def test_what_isnt_known_comes_last_and_names_move_no_cursor() -> None:
    found = rows({"targets": [{"target": "a\x1b[2Jb", "netns": "n", "state": "failed"}, {"target": "c"}]}, None)
    assert [each.target for each in ordered(found, Sort.NEW, reverse=True)] == ["a\\x1b[2Jb", "c"]
    assert isinstance(found[0], Row)
