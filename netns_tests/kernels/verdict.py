"""How a run went, of what pytest printed and of how the machine ended. Silence is never success."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Ending", "outcomes", "verdict"]

# pytest's last line, with or without the bars beside it: "2 failed, 30 passed, 1 skipped in 95.10s (0:01:35)".
_LAST = re.compile(r"=* ?((?:\d+ [a-z]+(?:, )?)+) in \d+\.\d+s(?: \([\d:, a-z]+\))? ?=*")
_COLOUR = re.compile(r"\x1b\[[\d;]*m")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a machine ended: whether its job began, the job's exit status if it came to one, whether time ran out."""

    started: bool
    code: int | None
    timed_out: bool


def outcomes(lines: Iterable[str]) -> dict[str, int]:
    """Return how many tests passed, failed and so on, of pytest's last line; nothing where there is none."""
    found: dict[str, int] = {}
    for line in lines:
        if last := _LAST.fullmatch(_COLOUR.sub("", line).strip()):
            pairs = (each.split() for each in last[1].split(", "))
            found = {what: int(number) for number, what in pairs}
    return found


def verdict(ending: Ending, lines: Iterable[str]) -> tuple[bool, str]:
    """Return whether all is well on a kernel, and how its run went in words."""
    counted = outcomes(lines)
    said = ", ".join(f"{number} {what}" for what, number in counted.items()) or "no result"
    if not ending.started:
        return False, f"the machine {'hung' if ending.timed_out else 'ended'} before its job began"
    if ending.timed_out:
        return False, "the tests took too long or hung, and were stopped"
    if ending.code is None:
        return False, f"the machine ended before its job did: {said}"
    if not counted.get("passed"):
        return False, f"no test passed: {said}, exit status {ending.code}"
    return ending.code == 0, said if ending.code in (0, 1) else f"{said}, exit status {ending.code}"
