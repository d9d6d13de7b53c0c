"""Boot each kernel, run the suite in it, and say how it went: ``./dev test kernels 6.1 -k owner``."""

import shlex
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from netns_tests.kernels import suite
from netns_tests.kernels.debian import KERNELS, Kernel, NotFetched, Unpacked, cache, unpacked
from netns_tests.kernels.verdict import Ending, verdict
from netns_tests.kernels.virtual import Run, job

__all__ = ["command", "main", "split"]

ROOT = Path(__file__).parents[2]
SLOWNESS = 15  # Python's, in software; what tests wait for is stretched by it
SECONDS_OF_A_TEST = 300
SHOWN = 40  # lines of a console that are worth reading when a machine didn't come to its end


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A kernel's run that is over: whether all was well, and how it went in words."""

    passed: bool
    said: str


def split(arguments: Sequence[str]) -> tuple[tuple[Kernel, ...], tuple[str, ...]]:
    """Return the kernels that are named first, all when none is, and what is left for pytest.

    Raises `ValueError` for a kernel that isn't there.
    """
    chosen = []
    left = list(arguments)
    while left and left[0].replace(".", "").isdecimal():
        found = [each for each in KERNELS if each.series == left[0]]
        if not found:
            raise ValueError(f"no kernel {left[0]}: there are {', '.join(each.series for each in KERNELS)}")
        chosen += found
        del left[0]
    return tuple(chosen) or KERNELS, tuple(left)


def command(arguments: Sequence[str], *, colour: bool) -> str:
    """Return the shell command for pytest: the suite, unless the arguments name tests of their own."""
    named = any(not each.startswith("-") and (ROOT / each.partition("::")[0]).exists() for each in arguments)
    return shlex.join(
        [
            *(sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--basetemp=/run/pytest"),
            *(f"--color={'yes' if colour else 'no'}", "-o", f"timeout={SECONDS_OF_A_TEST}"),
            *arguments,
            *([] if named else suite.NODES),
        ]
    )


def main(arguments: Sequence[str]) -> int:
    """Return the exit status: 0 when every kernel's run was well."""
    try:
        chosen, left = split(arguments)
        fetched = {kernel.series: unpacked(kernel, cache()) for kernel in chosen}
    except (NotFetched, ValueError) as error:
        print(f"kernels: {error}", file=sys.stderr)
        return 2
    script = job(ROOT, command(left, colour=sys.stdout.isatty()), {"WEIR_TEST_SLOWNESS": str(SLOWNESS)})
    said: SimpleQueue[tuple[str, str | Ended]] = SimpleQueue()
    for series, files in fetched.items():
        # Daemons: the machines go with this process, whatever ends it.
        threading.Thread(target=_run, args=(series, files, script, said), daemon=True).start()
    ended: dict[str, Ended] = {}
    while len(ended) < len(fetched):
        series, told = said.get()
        if isinstance(told, Ended):
            ended[series] = told
        else:
            print(f"{series:>4} | {told}" if len(fetched) > 1 else told, flush=True)
    for series, files in fetched.items():
        print(f"kernels: Linux {files.version}: {'well' if ended[series].passed else 'FAILED'}: {ended[series].said}")
    return 0 if all(each.passed for each in ended.values()) else 1


def _run(series: str, files: Unpacked, script: str, said: "SimpleQueue[tuple[str, str | Ended]]") -> None:
    """Boot one kernel, pass on what its job prints, and then how it ended."""
    passed, how = False, "this program failed, and says so above"
    try:
        began, lines, run = time.monotonic(), [], Run(files, script)
        said.put((series, f"booting Linux {files.version}"))
        for line in run:
            said.put((series, line))
            lines.append(line)
        if run.code is None:
            said.put((series, "the end of its console:"))
            for line in run.console.splitlines()[-SHOWN:]:
                said.put((series, line))
        passed, how = verdict(Ending(started=run.started, code=run.code, timed_out=run.timed_out), lines)
        how += f" ({time.monotonic() - began:.0f} s)"
    finally:
        said.put((series, Ended(passed=passed, said=how)))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
