"""nftables through libnftables, in the process: no program is started.

One `Tables` for each namespace, made inside it. libnftables ends the process when one of its contexts is used by two
threads at once, so each has a lock; and a context writes into the namespace in which it was made, whoever uses it.
"""

import re
import threading

from agent.errors import KernelError, LibraryMissing, PermissionMissing, TableHeld
from rulesets import nft, transaction
from rulesets.diff import Plan
from rulesets.model import Ruleset

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

            self._context = nftables.Nftables()
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
        if not text:
            return
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
        import os

        if os.geteuid():
            return PermissionMissing(
                statement=statement, said=words, hint="changing nftables needs CAP_NET_ADMIN: run as root"
            )
        return TableHeld(
            statement=statement,
            said=f"{words}: another process owns the table",
            hint="stop that process (another Weir, or `nft` with an open owner table), then try again",
        )
    return KernelError(statement=statement, said=words)
