"""Saved rulesets that name a table of Weir's: an owned table in one keeps the whole file from loading."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from rulesets.host import HOST_TABLE
from rulesets.pod import POD_TABLE

# Where distributions load rulesets from at boot: nftables.service of Debian, Fedora, Alpine and Arch.
PLACES = ("/etc", "/etc/sysconfig")
_TABLE = re.compile(rf"^[^#\n]*\btable\s+inet\s+(?:{POD_TABLE}|{HOST_TABLE})\b", re.MULTILINE)
_MOST = 4 * 2**20  # bytes that are read of one file

log = logging.getLogger("weir")


def warn_of_saved_tables() -> None:
    """Log a warning of each file in which a table of Weir's stands."""
    for each in files_naming_our_tables():
        log.warning(
            "%s names a table of Weir's: while the daemon owns that, the file doesn't load; take the table out of it",
            each,
        )


def files_naming_our_tables(places: tuple[str, ...] = PLACES) -> tuple[Path, ...]:
    """Return the files of nftables* in these directories in which a table of Weir's stands."""
    return tuple(sorted(each for place in places for each in _files(Path(place)) if _names_a_table(each)))


def _files(place: Path) -> Iterator[Path]:
    for each in place.glob("nftables*"):
        yield from (inner for inner in (each.rglob("*") if each.is_dir() else (each,)) if inner.is_file())


def _names_a_table(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return bool(_TABLE.search(file.read(_MOST)))
    except OSError:
        return False
