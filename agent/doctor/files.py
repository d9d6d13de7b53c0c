"""Small files of /proc and /sys, read so that nothing on a strange machine raises."""

from pathlib import Path

SYSCTLS = Path("/proc/sys")


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


def spelled(interface: str) -> str:
    """Return an interface's name as `sysctl` takes it: dots are slashes there (sysctl(8))."""
    return interface.replace(".", "/")


def sysctl(name: str, root: Path = SYSCTLS) -> int | None:
    """Return a setting of the calling thread's namespace by its path below /proc/sys; None where there is none."""
    return number(root / name)
