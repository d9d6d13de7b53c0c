"""What the demo prints: headings, commands with their output, tables, and claims that hold or end the demo."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

__all__ = ["ClaimFailed", "Screen"]

WIDTH_OF_NO_TERMINAL = 120
INDENT = 4
COLOURS = {"+": "green", "-": "red"}


class ClaimFailed(Exception):
    """Something that the demo was about to claim isn't so."""


class Screen:
    """Prints to standard output: with colour on a terminal, as plain text elsewhere."""

    def __init__(self, *, step: bool = False) -> None:
        """`step` waits for Enter before each scene."""
        plain = not sys.stdout.isatty()
        self._console = Console(highlight=False, width=WIDTH_OF_NO_TERMINAL if plain else None)
        self._step = step
        self._begun = time.monotonic()
        self._scene = ""
        self._claims: dict[str, list[str]] = {}

    @property
    def seconds(self) -> float:
        """Return how long the demo has been running."""
        return time.monotonic() - self._begun

    @property
    def claims(self) -> list[tuple[str, str]]:
        """Return everything claimed so far, as scene and sentence."""
        return [(scene, sentence) for scene, sentences in self._claims.items() for sentence in sentences]

    def heading(self, title: str) -> None:
        """Begin a scene."""
        if self._step and self._claims:
            self._console.input("\n[dim]Enter goes on[/]")
        self._scene = title
        number = len(self._claims) + 1
        self._claims[title] = []
        self._console.print()
        self._console.rule(Text(f"{number}. {title}", style="bold cyan"), align="left", characters="-")

    def say(self, text: str) -> None:
        """Print a paragraph."""
        self._console.print(Text(text))

    def typed(self, command: str, code: int | None, output: str, *, most: int | None = None) -> None:
        """Print what a user types, what it says (`most` lines of it), and its exit code when that tells something."""
        self._console.print(Text.assemble(("\n  $ ", "bold"), (command, "bold yellow")))
        lines = output.splitlines()
        shown = lines if most is None or len(lines) <= most + 1 else lines[:most]
        for line in shown:
            # A long nft rule is cut, so that the shape of the whole stays visible; a sentence is folded.
            inner = line.startswith((" ", "\t"))
            text = Text(line.expandtabs(4).rstrip(), style=COLOURS.get(line.strip()[:1], "") if inner else "")
            text.no_wrap, text.overflow = inner, "ellipsis" if inner else "fold"
            self._print(Padding(text, (0, 0, 0, INDENT)))
        if len(shown) < len(lines):
            self._console.print(Text(f"    ... and {len(lines) - len(shown)} more lines", style="dim"))
        if not lines and code is None:
            self._console.print(Text("    (nothing)", style="dim"))
        if code is not None:
            self._console.print(Text(f"    exit code {code}", style="dim"))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> None:
        """Print a table; the columns in `right` hold numbers."""
        table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
        for name in columns:
            table.add_column(name, justify="right" if name in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(str(cell)) for cell in row))
        self._print(table)

    def claim(self, holds: object, sentence: str, found: object = "") -> None:
        """Print a sentence as proven, or end the demo when it doesn't hold; `found` says what was there instead."""
        self.check(holds, sentence, found)
        self._claims[self._scene].append(sentence)
        self._console.print(Text.assemble(("  ok ", "bold green"), sentence))

    def check(self, holds: object, sentence: str, found: object = "") -> None:
        """End the demo where something doesn't hold, and say nothing where it does."""
        if not holds:
            said = f"; found: {found}" if str(found) else ""
            raise ClaimFailed(f"scene {len(self._claims)} ({self._scene}): not so: {sentence}{said}")

    @contextlib.contextmanager
    def claiming(self, sentence: str) -> Iterator[None]:
        """Claim that a block comes to its end without an error."""
        try:
            yield
        except (AssertionError, OSError) as error:
            self.claim(False, sentence, error)
        self.claim(True, sentence)

    def failed(self, text: str) -> None:
        """Print why the demo ends here."""
        self._console.print(Text.assemble(("\nFAILED ", "bold red"), text), overflow="fold")

    def _print(self, what: RenderableType) -> None:
        """Print something without the blanks that rich fills lines up with, which are ugly in a log."""
        with self._console.capture() as captured:
            self._console.print(what)
        for line in captured.get().splitlines():
            if line.strip():
                print(line.rstrip(), flush=True)
