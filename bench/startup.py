"""``startup``: how long the command takes, whatever it does."""

import subprocess
import sys
from pathlib import Path

from bench.report import Report, again
from bench.sampling import Variant, interleaved, timed

ROUNDS = 40
ABOUT = "from exec to exit of the command, against an empty Python program"
HELP, RENDER, PEER = "weir --help", "weir render --set dns=false", "python -c pass"


def run(rounds: int) -> Report:
    """Take the samples."""
    weir = str(Path(sys.executable).with_name("weir"))
    variants = [
        _command(HELP, weir, "--help"),
        _command(again(HELP), weir, "--help"),
        _command(RENDER, weir, "render", "--set", "dns=false"),
        _command(PEER, sys.executable, "-c", "pass"),
    ]
    found = interleaved(variants, rounds)
    return Report(
        bench="startup",
        about=ABOUT,
        subject=HELP,
        results=tuple(found.values()),
        goals=(),
        twins=((HELP, again(HELP)),),
    )


def _command(name: str, *argv: str) -> Variant:
    return lambda: {name: timed(lambda: subprocess.run(argv, check=True, stdout=subprocess.DEVNULL))[0]}
