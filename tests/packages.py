"""What this machine's distribution doesn't package, as ./dev found out."""

from pathlib import Path

ROOT = Path(__file__).parent.parent


def lacks(package: str) -> bool:
    """Tell whether the distribution has no such package; ./dev notes that when it looks for it."""
    without = ROOT / ".dev.without"
    return without.exists() and package in without.read_text(encoding="utf-8").split()
