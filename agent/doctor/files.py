"""Small files of /proc and /sys, read so that nothing on a strange machine raises; and commands that set some."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

SYSCTLS = Path("/proc/sys")
_PLAIN = re.compile(r"[-\w.@]+", re.ASCII)


def text(path: Path) -> str | None:
    """Return what a file says, without blanks around it; None where it isn't there or can't be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except (OSError, ValueError):
        return None


def number(path: Path) -> int | None:
    """Return the number that a file says; None where it says none."""
    try:
        return int(text(path) or "")
    except ValueError:
        return None


def setting(folder: str, interfaces: Sequence[str], name: str, value: int) -> str:
    """Return a command that sets what interfaces have in a folder below /proc/sys, such as ``net/ipv4/conf``.

    Whoever may name interfaces, as in a pod, chooses any characters but blanks, colons and slashes (net/core/dev.c,
    dev_valid_name). `sysctl` takes dots as slashes and slashes as dots, and `=` or `*` as no part of a name at all. It
    is one command, to which another may be put in front.
    """
    if all(_PLAIN.fullmatch(each) for each in interfaces):
        start = folder.replace("/", ".")
        return " ".join(["sysctl -w", *(f"{start}.{each.replace('.', '/')}.{name}={value}" for each in interfaces)])
    paths = (shlex.quote(f"{SYSCTLS}/{folder}/{each}/{name}") for each in interfaces)
    return f"sh -c {shlex.quote('; '.join(f'echo {value} > {each}' for each in paths))}"


def sysctl(name: str, root: Path = SYSCTLS) -> int | None:
    """Return a setting of the calling thread's namespace by its path below /proc/sys; None where there is none."""
    return number(root / name)
