"""The way without a daemon of Weir's kind: `nft monitor` in each namespace, and `nft -f` whenever the table goes.

Reads on its input a file of rules, then namespaces by name; says ``ready`` when all monitors run.
"""

import selectors
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

_PAUSE = 0.2  # seconds
_GONE = b"delete table inet weir-pod"


def main() -> None:
    """Run until the input ends or a signal comes."""
    signal.signal(signal.SIGTERM, _leave)
    rules, *names = sys.stdin.readline().split()
    running, watched = [], selectors.DefaultSelector()
    try:
        for name in names:
            monitor = subprocess.Popen([*_inside(name), "nft", "monitor"], stdout=subprocess.PIPE)
            running.append(monitor)
            assert monitor.stdout is not None
            watched.register(monitor.stdout, selectors.EVENT_READ, name)
        _await(watched, set(names))
        print("ready", flush=True)
        begun = dict.fromkeys(names, b"")  # of a line that isn't whole yet
        while True:
            for key, _ in watched.select():
                said = begun[key.data] + key.fileobj.read1(65536)  # type: ignore[union-attr]
                whole, _, begun[key.data] = said.rpartition(b"\n")
                if _GONE in whole:
                    subprocess.run([*_inside(key.data), "nft", "-f", Path(rules)], check=False)
    finally:
        for each in running:
            each.kill()


def _await(watched: selectors.BaseSelector, silent: set[str]) -> None:
    """Return when every monitor hears: it says nothing when it has joined its group."""
    while silent:
        for name in silent:
            subprocess.run([*_inside(name), "nft", "add table ip heard; delete table ip heard"], check=True)
        while found := watched.select(_PAUSE):
            for key, _ in found:
                key.fileobj.read1(65536)  # type: ignore[union-attr]
                silent.discard(key.data)


def _inside(name: str) -> list[str]:
    return ["ip", "netns", "exec", name]


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
