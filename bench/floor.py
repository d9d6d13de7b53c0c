"""`Floor`: the C program beside this module, built when it is needed, kept running while it is measured."""

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

SOURCE = Path(__file__).with_name("floor.c")
COMPILER = ("cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o")
PARTS = ("enter", "socket", "send", "answer", "routing")


def built() -> Path:
    """Return the program, compiled before or now: one for each state of its source, in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weir-bench"
    program = cache / f"floor-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}"
    if not program.exists():
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = program.with_name(f"{program.name}.{os.getpid()}")  # two runs at once may compile it both
        subprocess.run([*COMPILER, str(new), str(SOURCE)], check=True)
        new.replace(program)
    return program


class Floor:
    """The program at work, with some batches to send. Its numbers are seconds, by the names of `PARTS`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextmanager
    def started(cls, batches: Sequence[bytes], routing: bytes = b"") -> Iterator[Self]:
        """Start it; it ends with the block. A batch is known by its place in `batches`."""
        program = built()
        with tempfile.TemporaryDirectory(prefix="weir-floor-") as directory:
            files = [Path(directory, f"batch-{number}") for number in range(len(batches))]
            for file, data in zip(files, batches, strict=True):
                file.write_bytes(data)
            extra: list[str] = []
            if routing:
                Path(directory, "routing").write_bytes(routing)
                extra = ["-r", f"{directory}/routing"]
            argv = [str(program), *extra, *map(str, files)]
            process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            with process:  # which closes its input, so that it ends, and waits
                yield cls(process)

    def fresh(self, path: Path, batch: int = 0) -> dict[str, float]:
        """Enter a namespace and send a batch over a new socket, which is closed off the clock."""
        answer = self.kept(path, batch)
        self._ask(". 0\n")
        return answer

    def kept(self, path: Path, batch: int = 0) -> dict[str, float]:
        """Do the same and keep the socket."""
        return self._ask(f"{path} {batch}\n")

    def again(self, batch: int) -> dict[str, float]:
        """Send a batch over the socket that is kept."""
        return self._ask(f"= {batch}\n")

    def each(self, paths: Iterable[Path], batch: int = 0) -> list[dict[str, float]]:
        """Go through many namespaces, one after the other."""
        return [self.fresh(path, batch) for path in paths]

    def _ask(self, line: str) -> dict[str, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()
        return parsed(self._process.stdout.readline())


def parsed(line: str) -> dict[str, float]:
    """Return the seconds of each part from a line of nanoseconds. Raises `RuntimeError` when it is none."""
    numbers = line.split()
    if len(numbers) != len(PARTS):
        raise RuntimeError(f"the floor program ended, or said {line!r}; what it complained of is on stderr")
    return {part: int(number) / 1e9 for part, number in zip(PARTS, numbers, strict=True)}


def whole(parts: Mapping[str, float]) -> float:
    """Return the seconds of all parts together."""
    return sum(parts.values())
