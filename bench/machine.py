"""The machine on which something was measured, in words. Absolute times belong to it."""

import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What was measured on, and how busy it was before (the load average of a minute)."""

    cpu: str
    cores: int
    kernel: str
    python: str
    nft: str
    iptables: str
    load: float

    @property
    def words(self) -> str:
        """The machine on one line."""
        return (
            f"{self.cpu}, {self.cores} cores, Linux {self.kernel}, Python {self.python}, nft {self.nft}, "
            f"iptables {self.iptables}"
        )

    @property
    def text(self) -> str:
        """The machine and its load."""
        return f"{self.words}; load before: {self.load:.2f}"

    def document(self) -> dict[str, object]:
        """The machine as JSON's types."""
        return asdict(self)


def describe() -> Machine:
    """Return the machine that this runs on."""
    return Machine(
        cpu=model(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")) or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        kernel=platform.release(),
        python=platform.python_version(),
        nft=version("nft", "--version"),
        iptables=version("iptables-legacy-restore", "--version"),
        load=os.getloadavg()[0],
    )


def model(cpuinfo: str) -> str:
    """Return the name of the first processor, as /proc/cpuinfo has it; empty where it has none (ARM)."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else ""


def version(*argv: str) -> str:
    """Return the version that a program prints, as digits and dots."""
    try:
        said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    except OSError:
        return UNKNOWN
    found = re.search(r"\d+(\.\d+)+", said)
    return found[0] if found else UNKNOWN
