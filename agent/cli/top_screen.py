"""The terminal of `weir top`: its keys, its size and its signals; given back as it was, however the command ends."""

import contextlib
import os
import select
import signal
import socket
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import FrameType

from agent.cli.top_rows import Row, Sort
from agent.cli.top_table import KEYS, View, lines

_ENTER, _LEAVE = (
    "\x1b[?1049h\x1b[?25l\x1b[?7l",
    "\x1b[?7h\x1b[?25h\x1b[?1049l",
)  # another screen, no cursor, no wrapping
_HOME, _TO_END_OF_LINE, _BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_MOVES = {"\x1b[A": -1, "k": -1, "\x1b[B": 1, "j": 1, "\x1bOA": -1, "\x1bOB": 1}
_PAGES = {"\x1b[5~": -1, "\x1b[6~": 1, " ": 1, "b": -1}
_ENDS = {"\x1b[H": 0, "g": 0, "\x1b[1~": 0, "\x1b[F": 1 << 30, "G": 1 << 30, "\x1b[4~": 1 << 30}


@dataclass(slots=True)
class _Heard:
    """The signals that have come and were not answered yet."""

    numbers: list[int] = field(default_factory=list)

    def note(self, number: int, _frame: FrameType | None) -> None:
        self.numbers.append(number)


def watch(read: Callable[[], tuple[tuple[Row, ...], str]], view: View, interval: float) -> int:
    """Show frames until somebody quits; return the exit code. `read` returns rows, and a note in words.

    A signal that ends it gives 128 and its number, as shells say it.
    """
    with _signals() as (heard, woken), _terminal() as keys:
        found: tuple[tuple[Row, ...], str] = read()
        due = time.monotonic() + interval
        pressed = ""
        while True:
            pressed, view, quits = _pressed(pressed, view)
            if quits:
                return 0
            while heard.numbers:
                number = heard.numbers.pop(0)
                if number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    return 128 + number
                if number == signal.SIGTSTP:
                    _stop(keys)
            if time.monotonic() >= due:
                found, due = read(), time.monotonic() + interval
            view = _within(_fitting(view), len(found[0]))
            _draw(found, view)
            waiting = [woken, *([sys.stdin] if keys is not None else [])]
            ready, _, _ = select.select(waiting, [], [], max(0.0, due - time.monotonic()))
            if woken in ready:
                woken.recv(4096)
            if sys.stdin in ready:
                typed = os.read(sys.stdin.fileno(), 1024)
                if not typed:  # the terminal has gone
                    return 128 + signal.SIGHUP
                pressed += typed.decode(errors="replace")


def _pressed(keys: str, view: View) -> tuple[str, View, bool]:
    """Return what is left of the keys, the view that they ask for, and whether somebody quits."""
    while keys:
        key = next((each for each in (*_MOVES, *_PAGES, *_ENDS) if keys.startswith(each)), keys[0])
        if key == "\x1b" and len(keys) > 1:
            keys = ""  # a key that means nothing here
            continue
        keys = keys[len(key) :]
        if key in ("q", "Q", "\x03"):
            return keys, view, True
        if key == "r":
            view = replace(view, reverse=not view.reverse)
        elif key in KEYS:
            view = replace(view, sort=Sort(KEYS[key]), reverse=False, top=0)
        elif key in _ENDS:
            view = replace(view, top=_ENDS[key])
        elif (by := _MOVES.get(key, 0) + _PAGES.get(key, 0) * view.room) != 0:
            view = replace(view, top=view.top + by)
    return keys, view, False


def _within(view: View, number: int) -> View:
    """Return the view with its first row among those that there are."""
    return replace(view, top=max(0, min(view.top, number - view.room)))


def _fitting(view: View) -> View:
    """Return the view as large as the terminal is by now."""
    try:
        found = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return view
    return replace(view, width=found.columns or 80, height=found.lines or 24)


def _draw(found: tuple[tuple[Row, ...], str], view: View) -> None:
    """Write a frame over the one before, in one go, so that nothing flickers."""
    from io import StringIO

    from rich.console import Console

    text = StringIO()
    console = Console(file=text, force_terminal=True, width=view.width, height=view.height, highlight=False)
    for number, line in enumerate(lines(found[0], view, found[1])):
        console.print(line, end="", soft_wrap=True)
        text.write(_TO_END_OF_LINE + ("\n" if number < view.height - 1 else ""))
    sys.stdout.write(_HOME + text.getvalue().removesuffix("\n") + _BELOW)
    sys.stdout.flush()


@contextlib.contextmanager
def _terminal() -> Iterator[list[object] | None]:
    """Show another screen, and have keys at once; give back what was. None where there are no keys."""
    descriptor = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
    before = termios.tcgetattr(descriptor) if descriptor is not None else None
    try:
        if descriptor is not None:
            tty.setcbreak(descriptor)
        _write(_ENTER)
        yield before
    finally:
        with contextlib.suppress(OSError, ValueError):  # the terminal may have gone
            _write(_LEAVE)
        if descriptor is not None and before is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(descriptor, termios.TCSANOW, before)


def _stop(before: list[object] | None) -> None:
    """Stop as Ctrl-Z asks, with the terminal as it was; go on when somebody continues."""
    _write(_LEAVE)
    if before is not None:
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, before)  # type: ignore[arg-type]
    os.kill(os.getpid(), signal.SIGSTOP)
    if before is not None:
        tty.setcbreak(sys.stdin.fileno())
    _write(_ENTER)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


@contextlib.contextmanager
def _signals() -> Iterator[tuple[_Heard, socket.socket]]:
    """Take note of signals, and have a socket be readable when one has come."""
    heard = _Heard()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTSTP, signal.SIGWINCH)
    before = {each: signal.signal(each, heard.note) for each in numbers}
    descriptor = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield heard, ours
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            signal.signal(number, handler)
        ours.close()
        theirs.close()
