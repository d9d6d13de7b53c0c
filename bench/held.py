"""Opens a Handle for each namespace named on its input, and says what it takes with a half of them and with all."""

import gc
import resource
import sys
from pathlib import Path

from agent.kernel.handle import Handle
from agent.kernel.netns import Netns
from bench.weir import FRESH, RULES
from rulesets.netlink import OWNED


def main() -> None:
    """Write the table in each, print /proc/self/smaps_rollup twice."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    names = sys.stdin.read().split()
    handles = []
    for number, name in enumerate(names, 1):
        handle = Handle(Netns(name), flags=OWNED)
        handle.look(RULES.table)
        handle.apply(FRESH)
        handles.append(handle)
        if number in (len(names) // 2, len(names)):
            gc.collect()
            print(Path("/proc/self/smaps_rollup").read_text())


if __name__ == "__main__":
    main()
