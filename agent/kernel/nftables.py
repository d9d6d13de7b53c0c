"""nftables through libnftables, in the process: no program is started.

One `Tables` for each namespace, made inside it. libnftables ends the process when one of its contexts is used by two
threads at once, so each has a lock; and a context writes into the namespace in which it was made, whoever uses it.
"""

import ctypes
import os
import re
import threading
from pathlib import Path

from agent.errors import KernelError, LibraryMissing, PermissionMissing, TableHeld
from rulesets import nft, transaction
from rulesets.diff import Plan
from rulesets.model import Ruleset

_LIBRARY = "libnftables.so.1"
_CAP_NET_ADMIN = 1 << 12  # include/uapi/linux/capability.h
_DENIED = "Operation not permitted"
_ABSENT = "No such file or directory"
# libnftables: "FILE:LINE:COL-COL: Error: TEXT", then the line, then a line of ^ under what it means.
_ERROR = re.compile(r"^[^:\n]*:\d+:\d+-\d+: Error: (?P<said>[^\n]*)\n(?P<statement>[^\n]*)", re.MULTILINE)


class Tables:
    """The nftables of one namespace. To be made inside it (`OpenNetns.entered`)."""

    def __init__(self) -> None:
        """Make a libnftables context for the calling thread's namespace. Raises `LibraryMissing`."""
        try:
            import nftables

            # Loaded here first: where that fails, the binding's own object would complain once more when it is freed.
            ctypes.CDLL(_LIBRARY)
            self._context = nftables.Nftables(_LIBRARY)
        except (ImportError, OSError) as error:
            raise LibraryMissing(
                f"libnftables can't be loaded: {error}",
                hint="install the distribution's python3-nftables (and run ./dev setup in a checkout)",
            ) from None
        self._context.set_json_output(True)
        self._lock = threading.Lock()

    def read(self, table: str) -> Ruleset | None:
        """Return our table as it is, or None when it isn't there. Foreign tables are not read."""
        command = f"list table inet {table}"
        code, output, said = self._run(command)
        if code:
            if _ABSENT in said:
                return None
            raise _error(command, said)
        return nft.parse(output, table)

    def apply(self, plan: Plan, *, flags: tuple[str, ...] = ()) -> None:
        """Carry out a plan in one transaction; nothing where it is empty.

        `flags` are those of the table (``owner``: it goes when this object does). Raises `TableHeld` when another
        process owns the table, `KernelError` naming the statement otherwise; either way nothing has changed.
        """
        text = transaction.render(plan, flags=flags)
        if text:
            self.load(text)

    def disown(self, table: str) -> None:
        """Make a table of this context's own anew without an owner. Raises as `apply` does."""
        actual = self.read(table)
        if actual is not None:
            self.load(transaction.replace(actual, actual))

    def load(self, text: str) -> None:
        """Carry out nft text in one transaction. Raises as `apply` does."""
        code, _, said = self._run(text)
        if code:
            raise _error(text, said)

    def _run(self, text: str) -> tuple[int, str, str]:
        with self._lock:
            code, output, said = self._context.cmd(text)
        return code, output or "", said or ""


def _error(text: str, said: str) -> KernelError:
    found = _ERROR.search(said)
    statement = found["statement"].strip() if found else text.strip().partition("\n")[0]
    words = found["said"].removeprefix("Could not process rule: ") if found else said.strip() or "no reason given"
    if _DENIED in words:
        if not _may_change():
            return PermissionMissing(
                statement=statement, said=words, hint="changing nftables needs CAP_NET_ADMIN: run as root"
            )
        return TableHeld(
            statement=statement,
            said=f"{words}: another process owns the table",
            hint="stop that process (another Weir, or `nft` with an open owner table), then try again",
        )
    return KernelError(statement=statement, said=words)


def _may_change() -> bool:
    """Tell whether the calling thread has CAP_NET_ADMIN: root without it, as in a container, is refused as well."""
    try:
        status = Path("/proc/thread-self/status").read_text(encoding="utf-8")
        return bool(int(status.partition("CapEff:")[2].split()[0], 16) & _CAP_NET_ADMIN)
    except (OSError, IndexError, ValueError):
        return os.geteuid() == 0
