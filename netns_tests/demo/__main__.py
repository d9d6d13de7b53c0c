"""Run the demo. Exit code: 0 everything that was said is so, 1 something is not, 2 it can't run here."""

import argparse
import io
import os
import signal
import sys
import traceback
from types import FrameType

from netns_tests.demo import capturing, keeping, leaving, releasing, seeing
from netns_tests.demo.command import ENDING, WEIR
from netns_tests.demo.screen import ClaimFailed, Screen
from netns_tests.demo.stage import Stage

SCENES = (
    ("What is here", capturing.look),
    ("What Weir would do", capturing.diff),
    ("Capturing two pods under running downloads", capturing.apply),
    ("Who answers now", capturing.traffic),
    ("Weir checks itself", capturing.verify),
    ("Somebody tampers", keeping.repair),
    ("Every rule counts", keeping.count),
    ("Letting go, without cutting anybody off", releasing.remove),
    ("Leaving iptables, without a reboot", leaving.migrate),
    ("What happened, and why", seeing.explain),
)


def main(arguments: list[str]) -> int:
    """Play all scenes; return the exit code."""
    parser = argparse.ArgumentParser(prog="./dev demo", description="Show Weir at work, in namespaces of its own.")
    parser.add_argument("--step", action="store_true", help="wait for Enter before each scene")
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        print("demo: makes network namespaces and loads nftables rules: run it as root", file=sys.stderr)
        return 2
    if not WEIR.exists():
        print(f"demo: there is no {WEIR}: run ./dev setup", file=sys.stderr)
        return 2
    for number in ENDING:
        signal.signal(number, _leave)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # tables are drawn in ASCII where they have to be; cut lines end in …
    screen = Screen(step=options.step and sys.stdin.isatty())
    try:
        with Stage(screen) as stage:
            _play(stage)
        screen.claim(not stage.remains(), "namespaces, processes and files of the demo are gone again", stage.remains())
    except SystemExit:
        screen.say("\nInterrupted. Nothing of the demo is left.")
        raise
    except ClaimFailed as error:
        screen.failed(str(error))
        return 1
    except Exception as error:  # noqa: BLE001 - whatever stops the demo, the last line says what it was
        traceback.print_exc()
        screen.failed(f"the demo could not go on: {type(error).__name__}: {error}")
        return 1
    screen.say(f"\n{len(screen.claims)} claims were made, and each was checked. It took {screen.seconds:.1f} seconds.")
    return 0


def _play(stage: Stage) -> None:
    screen = stage.screen
    shown = []
    for title, scene in SCENES:
        screen.heading(title)
        shown.append(scene(stage))
    screen.heading("What was shown")
    checks = [sum(scene == title for scene, _ in screen.claims) for title, _ in SCENES]
    rows = zip(range(1, len(SCENES) + 1), shown, checks, strict=True)
    screen.table(("scene", "shown", "checks"), rows, right=("scene", "checks"))


def _leave(number: int, frame: FrameType | None) -> None:
    """End in order. A second signal doesn't cut the clearing up short."""
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
